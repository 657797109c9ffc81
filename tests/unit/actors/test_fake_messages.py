"""The fake endpoint, seen through the vendor's own client: what it promises to those who test against it."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.fake_messages import FakeMessages, Reply, replies, researcher

LONG = "a long system prompt " * 400
MARK = {"type": "ephemeral"}


def client(fake: FakeMessages, key: str = "k") -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key=key, base_url=fake.url, max_retries=0)


def request(*words: str, marks: bool = True) -> dict[str, Any]:
    blocks = [{"type": "text", "text": word, **({"cache_control": MARK} if marks else {})} for word in words]
    return {
        "model": "claude-opus-4-6",
        "max_tokens": 100,
        "system": [{"type": "text", "text": LONG, **({"cache_control": MARK} if marks else {})}],
        "messages": [{"role": "user", "content": blocks}],
    }


def test_streaming_and_not_give_the_same_message() -> None:
    call = replies.tools(replies.tool("bash", {"command": "ls " * 50}), words="Let me look. " * 9)
    with FakeMessages(lambda *_: call) as fake:
        plain = client(fake).messages.create(**request("hello", marks=False))
        with client(fake).messages.stream(**request("hello", marks=False)) as stream:
            streamed = stream.get_final_message()
    assert plain.content[1].to_dict()["input"] == {"command": "ls " * 50}
    for field in ("content", "stop_reason", "usage"):
        plain_field, streamed_field = (m.to_dict()[field] for m in (plain, streamed))
        assert streamed_field == plain_field


def test_a_prefix_seen_before_is_read_and_only_the_new_part_is_written() -> None:
    with FakeMessages(lambda *_: replies.text("ok")) as fake:
        usages = [client(fake).messages.create(**request(*"abc"[:n])).usage for n in (1, 2, 3)]
        without = client(fake).messages.create(**request("a", marks=False)).usage
    total = [u.input_tokens + (u.cache_read_input_tokens or 0) + (u.cache_creation_input_tokens or 0) for u in usages]
    assert usages[0].cache_read_input_tokens == 0
    assert usages[1].cache_read_input_tokens == total[0]
    assert usages[2].cache_read_input_tokens == total[1]
    assert usages[2].cache_creation_input_tokens == total[2] - total[1]
    assert without.input_tokens == total[0]
    assert without.cache_read_input_tokens == 0


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (replies.rate_limited(7), anthropic.RateLimitError),
        (replies.overloaded(), anthropic.APIStatusError),
        (replies.context_too_long(), anthropic.BadRequestError),
        (replies.no_credit(), anthropic.BadRequestError),
        (replies.bad_key(), anthropic.AuthenticationError),
        (replies.dropped(0), anthropic.APIConnectionError),
    ],
)
def test_failures_reach_the_client_as_the_vendors_errors(reply: Reply, error: type[Exception]) -> None:
    with FakeMessages(lambda *_: reply) as fake, pytest.raises(error):
        client(fake).messages.create(**request("x"))


@pytest.mark.parametrize("reply", [replies.refusal(), replies.pause_turn(), replies.cut_short(), replies.empty()])
def test_every_stop_reason_arrives(reply: Reply) -> None:
    with FakeMessages(lambda *_: reply) as fake:
        assert client(fake).messages.create(**request("x")).stop_reason == reply.stop_reason


@pytest.mark.parametrize(
    ("block", "beta", "taken"),
    [
        ({"type": "compaction", "content": "all of it"}, [], False),
        ({"type": "compaction", "content": "all of it"}, ["compact-2026-01-12"], True),
        ({"type": "thinking", "thinking": "hm", "signature": "c2ln"}, [], False),
        ({"type": "redacted_thinking", "data": "AAAA"}, [], False),
        ({"type": "thinking", "thinking": "hm", "signature": ""}, [], False),
    ],
)
@pytest.mark.parametrize("words", [True, False])
def test_a_history_that_the_vendor_does_not_take_back_is_refused(
    block: Any, beta: list[str], taken: bool, words: bool
) -> None:
    talk: Any = request("x")
    said = [block, {"type": "text", "text": "so"}] if words else [block]
    talk["messages"] += [{"role": "assistant", "content": said}, {"role": "user", "content": "go on"}]
    signed = block["type"] == "redacted_thinking" or block.get("signature")
    with FakeMessages(lambda *_: replies.text("ok")) as fake:
        if taken or (words and signed):
            assert client(fake).beta.messages.create(**talk, betas=beta).stop_reason == "end_turn"
        else:
            with pytest.raises(anthropic.BadRequestError):
                client(fake).beta.messages.create(**talk, betas=beta)


def test_a_wrong_key_an_unknown_model_and_too_long_an_input_are_refused() -> None:
    with FakeMessages(lambda *_: replies.text("ok"), keys={"right"}, models={"m"}, window=3000) as fake:
        with pytest.raises(anthropic.AuthenticationError):
            client(fake, "wrong").messages.create(**request("x"))
        with pytest.raises(anthropic.NotFoundError):
            client(fake, "right").messages.create(**request("x"))
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
            client(fake, "right").messages.create(**{**request("x" * 9000), "model": "m"})
        assert client(fake, "right").messages.count_tokens(model="m", messages=[]).input_tokens == 0


def test_the_researcher_does_one_study_with_the_tools_it_is_offered() -> None:
    names = ["write_file", "run_pilot", "submit", "forum_post", "leaderboard"]
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in names]
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Your direction: simplicity"}]
    called = []
    with FakeMessages(researcher) as fake:
        for _ in range(20):
            answer = client(fake).messages.create(
                model="m",
                max_tokens=9,
                tools=tools,  # type: ignore[arg-type]
                messages=messages,  # type: ignore[arg-type]
            )
            calls = [block.to_dict() for block in answer.content if block.type == "tool_use"]
            if not calls:
                break
            called += [call["name"] for call in calls]
            messages.append({"role": "assistant", "content": [block.to_dict() for block in answer.content]})
            results = [{"type": "tool_result", "tool_use_id": call["id"], "content": "ok"} for call in calls]
            messages.append({"role": "user", "content": results})
    assert called == ["write_file", "run_pilot", "submit", "submit", "forum_post", "leaderboard"]
