"""The vendor's client against the fake endpoint: what every failure becomes, and the gateway on top of it."""

from __future__ import annotations

import asyncio
import logging
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.gateway.actor import make_transport
from actors.gateway.client import ModelAnswer
from actors.gateway.endpoint import Endpoint
from actors.gateway.gateway import Gateway
from actors.gateway.keys import KeyFileError, hand_over, handed_path, key_of, read_key
from actors.gateway.requests import RequestParser
from actors.gateway.retries import AttemptFailedError, Failure
from actors.gateway.startup_checks import check_brain
from cluster.config import ConfigError
from cluster.errors import RefusedError
from cluster.store import Store
from tests.fake_messages import FakeMessages, Reply, replies
from tests.unit.actors.gateway_world import MEMORY, TEAM, FakeLedger, campaign, cost, no_sleep, request

SECRET = "sk-test-0123456789abcdef"
MARK = {"type": "ephemeral"}


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        yield Path(path)


def key_file(root: Path, key: str = SECRET, mode: int = 0o600) -> Path:
    path = root / "key"
    path.write_text(f"{key}\n")
    path.chmod(mode)
    return path


async def send(fake: FakeMessages, begun: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    config = campaign(f"brain.base_url={fake.url}", "gateway.call_seconds=5")
    endpoint = Endpoint(config.brain, config.gateway, lambda: SECRET)
    body, parts = RequestParser().parse(request(**fields))
    try:
        return await endpoint.send("k", body, parts, (begun if begun is not None else []).append)
    finally:
        await endpoint.close()


def failure(reply: Reply) -> Failure:
    with FakeMessages(lambda *_: reply) as fake, pytest.raises(AttemptFailedError) as caught:
        asyncio.run(send(fake))
    return caught.value.failure


def test_a_message_with_thought_text_and_parallel_calls_arrives_whole() -> None:
    reply = replies.tools(replies.tool("a", {"x": "ü" * 90}, "t1"), replies.tool("b", {}, "t2"), words="I call two.")
    reply = Reply((*replies.thinking("hm " * 40, "so").content, *reply.content), "tool_use")
    begun: list[dict[str, Any]] = []
    with FakeMessages(lambda *_: reply) as fake:
        message = asyncio.run(send(fake, begun))
        (seen,) = fake.seen
    assert message["content"] == list(reply.content)
    assert message["stop_reason"] == "tool_use"
    assert message["usage"]["output_tokens"] == (seen.usage or {})["output_tokens"]
    assert begun[0]["input_tokens"] == message["usage"]["input_tokens"]
    assert seen.body["stream"] is True


@pytest.mark.parametrize(
    ("reply", "stop"),
    [
        (replies.refusal(), "refusal"),
        (replies.pause_turn(), "pause_turn"),
        (replies.cut_short(), "max_tokens"),
        (replies.window_full(), "model_context_window_exceeded"),
        (replies.unknown_stop(), "moonrise"),
        (replies.empty(), "end_turn"),
    ],
)
def test_every_stop_reason_passes_even_an_unknown_one(reply: Reply, stop: str) -> None:
    with FakeMessages(lambda *_: reply) as fake:
        message = asyncio.run(send(fake))
    assert message["stop_reason"] == stop
    assert message["content"] == list(reply.content)


def test_a_tool_input_that_is_no_json_is_kept_as_text_and_not_lost() -> None:
    with FakeMessages(lambda *_: replies.malformed_tool("write_file", '{"path": oops')) as fake:
        message = asyncio.run(send(fake))
    assert message["content"][0]["input"] == {"malformed_json": '{"path": oops'}
    assert message["usage"]["output_tokens"] > 0


@pytest.mark.parametrize(
    ("reply", "reason", "again", "billed"),
    [
        (replies.rate_limited(7), "unavailable", True, False),
        (replies.overloaded(), "unavailable", True, False),
        (replies.server_error(500), "unavailable", True, False),
        (replies.server_error(503), "unavailable", True, False),
        (replies.dropped(0), "unavailable", True, True),
        (replies.dropped(4), "unavailable", True, True),
        (replies.overloaded_midway(), "unavailable", True, True),
        (replies.text("slow").after(7), "unavailable", True, True),
        (replies.bad_key(), "bad_key", False, False),
        (replies.forbidden(), "bad_key", False, False),
        (replies.no_credit(), "no_credit", False, False),
        (replies.unknown_model("x"), "unknown_model", False, False),
        (replies.context_too_long(), "context_too_long", False, False),
        (replies.too_large(), "too_large", False, False),
        (replies.failed(400, "invalid_request_error", "messages.0: nope"), "bad_request", False, False),
    ],
)
def test_every_failure_has_its_reason(reply: Reply, reason: str, again: bool, billed: bool) -> None:
    found = failure(reply)
    assert (found.reason, found.again, found.billed) == (reason, again, billed)


def test_retry_after_is_read_and_throttling_is_told_apart() -> None:
    limited = failure(replies.rate_limited(7))
    assert (limited.retry_after_s, limited.throttled) == (7.0, True)
    assert failure(replies.overloaded()).throttled
    assert not failure(replies.server_error()).throttled


def test_an_endpoint_that_is_not_there_was_paid_nothing() -> None:
    config = campaign("brain.base_url=http://127.0.0.1:9")
    body, parts = RequestParser().parse(request())
    endpoint = Endpoint(config.brain, config.gateway, lambda: None)
    with pytest.raises(AttemptFailedError) as caught:
        asyncio.run(endpoint.send("k", body, parts, lambda _: None))
    assert (caught.value.failure.again, caught.value.failure.billed) == (True, False)


def test_an_endpoint_that_repeats_the_key_does_not_get_it_into_the_message() -> None:
    found = failure(replies.failed(401, "authentication_error", f"invalid x-api-key: {SECRET}"))
    assert SECRET not in found.message
    assert "[key]" in found.message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_named_and_the_key_does_not_follow_it(status: int) -> None:
    with FakeMessages(lambda *_: replies.text("caught")) as other:
        found = failure(replies.redirected(f"{other.url}/v1/messages?x=1", status))
        assert other.seen == []
    assert (found.reason, found.again, found.billed) == ("unavailable", False, False)
    assert f"redirects to {other.url}/v1/messages," in found.message


@pytest.mark.parametrize("kind", ["claude", "local"])
def test_a_new_key_in_the_file_takes_effect_after_the_old_one_was_refused(root: Path, kind: str) -> None:
    path = key_file(root, "sk-old")
    with FakeMessages(lambda *_: replies.text("ok"), keys={SECRET}) as fake:
        config = campaign(f"brain.kind={kind}", f"brain.base_url={fake.url}", f"brain.key_file={path}")
        transport = make_transport(config, root, FakeLedger(root / "scheduler.db").client())
        body, parts = RequestParser().parse(request())

        async def ask() -> dict[str, Any]:
            return await transport.send("k", body, parts, lambda _: None)

        async def study() -> None:
            for words in ("invalid", "invalid"):
                with pytest.raises(AttemptFailedError, match=words):
                    await ask()
            path.chmod(0o644)
            with pytest.raises(AttemptFailedError, match="chmod 600") as caught:
                await ask()
            assert caught.value.failure.reason == "bad_key"
            key_file(root, SECRET)
            assert (await ask())["content"][0]["text"] == "ok"
            path.unlink()
            await ask()
            await transport.close()

        asyncio.run(study())


def test_twenty_cached_turns_cost_what_the_endpoint_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = key_file(root)
    with FakeMessages(lambda _, n: replies.text(f"answer {n} " + "y" * 300), keys={SECRET}) as fake:
        config = campaign(f"brain.base_url={fake.url}", f"brain.key_file={path}")
        ledger_actor = FakeLedger(root / "scheduler.db", usd=50, each=50)
        gateway = Gateway(
            Store(root / "gateway.db"),
            config,
            ledger_actor.client(),
            make_transport(config, root, ledger_actor.client()),
            sleep=no_sleep,
        )

        async def study() -> list[ModelAnswer]:
            turns: list[dict[str, Any]] = []
            found = []
            for n in range(20):
                mark = {"cache_control": MARK}
                turns.append({"role": "user", "content": [{"type": "text", "text": "z" * 1500, **mark}]})
                system = [{"type": "text", "text": "s" * 9000, **mark}]
                found.append(await gateway.call(f"k{n}", TEAM[0], request(messages=turns, system=system)))
                turns[-1]["content"][0].pop("cache_control")
                turns.append({"role": "assistant", "content": found[-1].message["content"]})
            await gateway.close()
            return found

        found = asyncio.run(study())
    assert [got.charged for got in found] == [cost(config, got.message) for got in found]
    assert ledger_actor.spent() == sum(got.charged for got in found)
    assert gateway.status()["cache_hit_share"] > 0.8
    gateway.attempts.store.close()
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in root.glob("*.db*"))
    assert SECRET not in caplog.text


def test_streams_that_always_break_off_cost_a_bounded_part_of_the_budget(root: Path) -> None:
    with FakeMessages(lambda *_: replies.dropped(4)) as fake:
        config = campaign(f"brain.base_url={fake.url}")
        ledger_actor = FakeLedger(root / "scheduler.db", usd=20, each=20)
        transport = make_transport(config, root, ledger_actor.client())
        gateway = Gateway(Store(root / "gateway.db"), config, ledger_actor.client(), transport, sleep=no_sleep)

        async def study() -> None:
            for _ in range(20):
                with pytest.raises(RefusedError) as caught:
                    await gateway.call("k", TEAM[0], request(max_tokens=16_000))
                assert caught.value.reason == "lost"
            await gateway.close()

        asyncio.run(study())
        assert len(fake.seen) == 2
    assert 2 * 25 * 15_000 < ledger_actor.spent() < 2 * 25 * 17_000


def test_a_key_file_must_be_there_private_and_hold_a_key(root: Path) -> None:
    assert read_key(key_file(root)) == SECRET
    for mode in (0o644, 0o640, 0o604):
        with pytest.raises(KeyFileError, match="chmod 600"):
            read_key(key_file(root, mode=mode))
    with pytest.raises(KeyFileError, match="no key"):
        read_key(key_file(root, "two words"))
    with pytest.raises(KeyFileError, match="no key"):
        read_key(key_file(root, ""))
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_key(root / "absent")
    with pytest.raises(KeyFileError, match=r"cannot be read|regular"):
        read_key(root)


def test_a_handed_key_is_private_outside_of_the_run_directory_and_found_by_the_gateway(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root / "user"))
    run_dir = root / "runs" / "mine"
    brain = campaign().brain
    with pytest.raises(KeyFileError, match="no API key"):
        key_of(brain, run_dir)
    path = hand_over(SECRET, run_dir)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path == handed_path(run_dir)
    assert not path.is_relative_to(run_dir)
    assert key_of(brain, run_dir) == SECRET
    path.parent.chmod(0o777)
    with pytest.raises(KeyFileError, match="alone"):
        hand_over(SECRET, run_dir)


def test_a_brain_that_cannot_call_is_refused_before_the_start(root: Path) -> None:
    path = key_file(root)
    check_brain(campaign(f"brain.key_file={path}"))
    check_brain(campaign("brain.base_url=http://10.0.0.1:8000"))
    refusals = {
        (): "ANTHROPIC_API_KEY",
        ("brain.model=claude-unheard-of",): "has no price",
        ("brain.kind=replay",): r"brain\.replay_of: missing",
        ("brain.kind=replay", f"brain.replay_of={root}"): "holds no recorded calls",
        (f"brain.key_file={path}", "brain.base_url=http://10.0.0.1:8000"): "clear text",
    }
    for overrides, words in refusals.items():
        with pytest.raises(ConfigError, match=words):
            check_brain(campaign(*overrides))
    check_brain(campaign(), SECRET)
