from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sandbox import Bind, Limits, SandboxSpec, SpecError
from cluster.sandbox.command import build_plan, bwrap_args, encode_plan
from cluster.sandbox.launcher import read_plan

WORDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)


def plan(spec: SandboxSpec, memory: bool = True, pids: bool = True) -> dict[str, list[str]]:
    return build_plan(spec, bwrap="/usr/bin/bwrap", seccomp=b"12345678", enter=(), memory=memory, pids=pids)


@pytest.mark.parametrize("inside", ["in", "/in/../etc", "/", "/proc", "/usr", "/tmp/", "/a\0b"])
def test_a_bind_needs_a_free_absolute_place(inside: str) -> None:
    with pytest.raises(SpecError):
        Bind("/tmp", inside)


@pytest.mark.parametrize("fields", [
    {"argv": ()}, {"argv": ("",)}, {"argv": ("a\0b",)}, {"uid": 0}, {"uid": -1}, {"tmp_bytes": 0}, {"chdir": "ws"},
    {"env": {"": "1"}}, {"env": {"A": "\0"}}, {"env": {"A=B": "1"}},
    {"ro_binds": (Bind("/a", "/in"),), "rw_binds": (Bind("/b", "/in/"),)},
])  # fmt: skip
def test_a_spec_that_no_sandbox_can_honour_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        SandboxSpec(**{"argv": ("true",), **fields})


@pytest.mark.parametrize("name", ["memory_bytes", "processes", "file_bytes", "open_files", "cores"])
def test_a_limit_must_be_positive(name: str) -> None:
    with pytest.raises(SpecError):
        dataclasses.replace(Limits(), **{name: 0})


@given(st.dictionaries(WORDS, st.lists(WORDS, max_size=5), max_size=5))
def test_a_plan_arrives_as_it_was_sent(content: dict[str, list[str]]) -> None:
    assert read_plan(encode_plan(content)) == content


def test_sources_are_named_in_the_order_in_which_the_launcher_numbers_them() -> None:
    spec = SandboxSpec(argv=("true",), ro_binds=(Bind("/r1", "/z"), Bind("/r2", "/b")), rw_binds=(Bind("/w", "/c"),))
    sent = plan(spec)
    hosts = [sent["args"][int(index)] for index in sent["source_args"]]
    assert hosts == sent["readable"] + sent["writable"] == ["/r2", "/r1", "/w"]


def test_a_bind_at_ws_takes_the_place_of_the_tmpfs() -> None:
    plain, _ = bwrap_args(SandboxSpec(argv=("true",)))
    bound, _ = bwrap_args(SandboxSpec(argv=("true",), rw_binds=(Bind("/w", "/ws"),)))
    assert plain.count("/ws") - bound.count("/ws") == 0
    assert plain.count("--tmpfs") == bound.count("--tmpfs") + 1


def test_rlimits_stand_in_only_for_the_groups_that_are_missing() -> None:
    spec = SandboxSpec(argv=("true",))
    assert "AS" not in plan(spec)["rlimits"]
    assert plan(spec)["command"] == ["true"]
    assert "AS" in plan(spec, memory=False)["rlimits"]
    assert "--nproc=128:128" in plan(spec, pids=False)["command"]


def test_cuda_gets_no_address_space_limit_and_only_its_devices() -> None:
    spec = SandboxSpec(argv=("true",), gpus=(2,))
    sent = plan(spec, memory=False)
    assert "AS" not in sent["rlimits"]
    devices = {word for word in sent["args"] if word.startswith("/dev/nvidia")}
    assert devices == {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia2"}
    assert sent["args"].index("/dev/nvidia2") > sent["args"].index("--dev")
    at = sent["args"].index("CUDA_VISIBLE_DEVICES")
    assert sent["args"][at + 1] == "0"


def test_without_a_gpu_cuda_sees_none() -> None:
    args, _ = bwrap_args(SandboxSpec(argv=("true",)))
    assert args[args.index("CUDA_VISIBLE_DEVICES") + 1] == ""
    assert not any(word.startswith("/dev/nvidia") or word == "/sys" for word in args)
