"""A model server's promises, with a small HTTP server in vLLM's place: in the sandbox and without one."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import psutil
import pytest

from cluster.config import Serve
from cluster.sandbox import available
from gpu_pool.serving.command import ServeError, ServerSpec, check_model, environment, interpreter_prefixes, sandbox
from gpu_pool.serving.restarts import RestartPolicy
from gpu_pool.serving.server import LOG_NAME, ModelServer, Timing
from gpu_pool.serving.state import Phase, ServerEnd, ServerState
from tests.unit.gpu_pool.fake_vllm import make_fake_vllm

CONTAINED = pytest.param(True, marks=pytest.mark.skipif(not available().ok, reason="no usable bubblewrap here"))
QUICK = Timing(look_s=0.02, check_s=0.1, patience_s=0.5, misses=2)
POLICY = RestartPolicy(most=2, healthy_s=60, pause_s=0.05)
UID = 64031


@pytest.fixture(params=[CONTAINED, False], ids=["contained", "bare"])
def contained(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def a_spec(root: Path, contained: bool, *arguments: str, **fields: Any) -> ServerSpec:
    model = root / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    (model / "config.json").chmod(0o644)
    settings: dict[str, Any] = {"memory_gb": 2, "start_seconds": 60, "idle_minutes": 5}
    serve = Serve(model=str(model), python=str(make_fake_vllm(root)), arguments=arguments, **{**settings, **fields})
    return ServerSpec(serve, "tiny", "127.0.0.1", root / "home", UID, (), 1, contained)


@contextlib.asynccontextmanager
async def running(spec: ServerSpec, root: Path, seconds: float = 60) -> AsyncIterator[tuple[ModelServer, Any]]:
    server = ModelServer(spec, root / "lease", QUICK, POLICY)
    task = asyncio.create_task(server.run(seconds))
    try:
        yield server, task
    finally:
        server.stop()
        await asyncio.wait([task], timeout=20)
        assert task.done()


async def until(server: ModelServer, phase: Phase, starts: int = 1) -> ServerState:
    for _ in range(1500):
        if server.state.phase is phase and server.state.starts >= starts:
            return server.state
        await asyncio.sleep(0.02)
    raise AssertionError(f"not {phase}: {server.state}")


def post(state: ServerState, path: str, token: str | None = None, timeout: float = 20) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(state.base_url.removeprefix("http://"), timeout=timeout)
    try:
        connection.request("POST", path, b"{}", {"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


def ask(state: ServerState, token: str) -> anthropic.types.Message:
    with anthropic.Anthropic(base_url=state.base_url, auth_token=token, api_key=None, max_retries=0) as client:
        return client.messages.create(model="tiny", max_tokens=9, messages=[{"role": "user", "content": "hello"}])


def processes(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if marker in process.cmdline():
                found.append(process)
    return found


def test_the_vendors_sdk_gets_answers_with_the_token_and_none_without(tmp_path: Path, contained: bool) -> None:
    async def play() -> ServerEnd:
        async with running(a_spec(tmp_path, contained), tmp_path) as (server, task):
            state = await until(server, Phase.READY)
            answer = await asyncio.to_thread(ask, state, state.token)
            assert answer.content[0].type == "text"
            assert answer.content[0].text == "tiny says hello"
            with pytest.raises(anthropic.AuthenticationError):
                await asyncio.to_thread(ask, state, "guess")
        end: ServerEnd = task.result()
        return end

    end = asyncio.run(play())
    assert (end.reason, end.starts, end.connections) == ("stopped", 1, 2)
    assert end.answer_bytes > 0
    assert "fake vllm: -m vllm.entrypoints" in (tmp_path / "lease" / LOG_NAME).read_text()


def test_the_server_has_nothing_in_its_environment_that_it_was_not_given(
    tmp_path: Path, contained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    spec = a_spec(tmp_path, contained)

    async def play() -> tuple[dict[str, str], str]:
        async with running(spec, tmp_path) as (server, _):
            state = await until(server, Phase.READY)
            _, body = await asyncio.to_thread(post, state, "/v1/messages", state.token)
            return body["env"], state.token

    env, token = asyncio.run(play())
    assert "sk-secret" not in env.values()
    neutral = {"USER", "LOGNAME", "LANG", "TMPDIR", "CUDA_VISIBLE_DEVICES", "PWD", "LC_CTYPE"}
    assert set(env) <= set(environment(spec, token, "")) | neutral


def test_a_crash_is_followed_by_a_new_process_behind_the_same_address(tmp_path: Path, contained: bool) -> None:
    async def play() -> None:
        async with running(a_spec(tmp_path, contained), tmp_path) as (server, _):
            before = await until(server, Phase.READY)
            with pytest.raises((OSError, http.client.HTTPException)):
                await asyncio.to_thread(post, before, "/crash")
            after = await until(server, Phase.READY, starts=2)
            assert (after.base_url, after.token) == (before.base_url, before.token)
            assert "status 7" in after.fault
            assert (await asyncio.to_thread(ask, after, after.token)).stop_reason == "end_turn"

    asyncio.run(play())


def test_a_server_that_stops_answering_health_checks_is_replaced(tmp_path: Path) -> None:
    async def play() -> None:
        async with running(a_spec(tmp_path, False), tmp_path) as (server, _):
            state = await until(server, Phase.READY)
            await asyncio.to_thread(post, state, "/hang")
            state = await until(server, Phase.READY, starts=2)
            assert "no answer to a health check" in state.fault

    asyncio.run(play())


def test_one_that_never_comes_up_is_given_up_with_the_end_of_its_log(tmp_path: Path, contained: bool) -> None:
    async def play() -> ServerEnd:
        return await ModelServer(a_spec(tmp_path, contained, "--fake-die"), tmp_path / "lease", QUICK, POLICY).run(60)

    end = asyncio.run(play())
    assert (end.reason, end.starts) == ("failed", POLICY.most + 1)
    assert "no such model architecture" in end.fault


def test_one_that_is_not_ready_in_time_is_killed(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, False, "--fake-start", "3600", start_seconds=0.3)
    end = asyncio.run(ModelServer(spec, tmp_path / "lease", QUICK, RestartPolicy(most=0)).run(60))
    assert end.reason == "failed"
    assert "start_seconds" in end.fault
    assert not processes(str(spec.serve.python))


def test_while_it_starts_clients_are_told_to_come_again(tmp_path: Path) -> None:
    async def play() -> None:
        async with running(a_spec(tmp_path, False, "--fake-start", "5"), tmp_path) as (server, _):
            state = await until(server, Phase.STARTING)
            while not state.base_url:
                await asyncio.sleep(0.01)
                state = server.state
            status, body = await asyncio.to_thread(post, state, "/v1/messages", state.token)
            assert (status, body["error"]["type"]) == (503, "overloaded_error")

    asyncio.run(play())


def test_it_stops_when_idle_but_not_while_a_call_waits_for_its_answer(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, False, idle_minutes=0.5 / 60)

    async def play() -> tuple[ServerEnd, float]:
        server = ModelServer(spec, tmp_path / "lease", QUICK, POLICY)
        task = asyncio.create_task(server.run(60))
        state = await until(server, Phase.READY)
        status, _ = await asyncio.to_thread(post, state, "/slow/1.5")
        assert status == 200
        answered = time.monotonic()
        return await task, time.monotonic() - answered

    end, after = asyncio.run(play())
    assert end.reason == "idle"
    assert after >= 0.5


@pytest.mark.parametrize("how", ["stop", "cancel", "time"])
def test_whatever_ends_it_nothing_of_its_process_tree_is_left(tmp_path: Path, how: str) -> None:
    if not available().ok:
        pytest.skip("no usable bubblewrap here")
    spec, marker = a_spec(tmp_path, True), f"child-of-{tmp_path.name}"

    async def play() -> None:
        server = ModelServer(spec, tmp_path / "lease", QUICK, POLICY)
        task = asyncio.create_task(server.run(4 if how == "time" else 60))
        state = await until(server, Phase.READY)
        await asyncio.to_thread(post, state, f"/child/{marker}")
        assert processes(marker)
        if how == "stop":
            server.stop()
        if how == "cancel":
            task.cancel()
        await asyncio.wait([task], timeout=20)
        assert task.done()
        assert server.state.phase is Phase.ENDED

    asyncio.run(play())
    assert not processes(marker)
    assert not processes(str(spec.serve.python))


def test_the_restart_policy_forgives_a_row_and_begins_anew_after_good_service() -> None:
    policy = RestartPolicy(most=3, healthy_s=300, pause_s=1)
    assert [policy.pause(n) for n in (1, 2, 3, 4)] == [1, 2, 4, None]
    assert policy.in_row(2, served_s=10) == 3
    assert policy.in_row(2, served_s=301) == 1


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match=r"serve\.model: .*nowhere"):
        check_model(Serve(model="/nowhere"))
    with pytest.raises(ServeError, match=r"serve\.python: /nowhere/python"):
        interpreter_prefixes(Serve(python="/nowhere/python"))
    spec = a_spec(tmp_path, True)
    locked = tmp_path / "model" / "model.safetensors"
    locked.write_bytes(b"")
    locked.chmod(0o600)
    end = asyncio.run(ModelServer(spec, tmp_path / "lease", QUICK, POLICY).run(5))
    if end.starts == 1:  # as root, which gives the server another uid
        assert (end.reason, "chmod" in end.fault) == ("failed", True)


def test_files_of_the_model_that_are_links_are_followed(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, True)
    (tmp_path / "blob").write_bytes(b"weights")
    (tmp_path / "blob").chmod(0o644)
    (tmp_path / "model" / "model.safetensors").symlink_to(tmp_path / "blob")
    binds = {bind.inside: bind.host for bind in sandbox(spec, "t", tmp_path).ro_binds}
    assert binds["/model/model.safetensors"] == str(tmp_path / "blob")


def test_the_token_is_on_no_command_line(tmp_path: Path) -> None:
    made = sandbox(a_spec(tmp_path, True), "the-token", tmp_path)
    assert "the-token" not in " ".join(made.argv)
    assert made.env["VLLM_API_KEY"] == "the-token"


def test_a_state_shows_no_token() -> None:
    state = ServerState(Phase.READY, "http://x", "the-token", "tiny")
    assert "the-token" not in repr(state)
    assert ServerState.from_dict(state.to_dict()) == state
