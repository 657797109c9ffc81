"""The real vLLM on a random tiny model, in the sandbox: the vendor's SDK, tools, and a brain that is told garbage."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from actors.gateway.endpoint import Endpoint
from actors.gateway.gateway import Gateway
from actors.gateway.startup_checks import told_window
from cluster.config import Brain, Serve
from cluster.sandbox import available
from cluster.store import Store
from gpu_pool.serving.command import ServerSpec
from gpu_pool.serving.server import ModelServer
from gpu_pool.serving.state import Phase, ServerEnd, ServerState
from tests.tiny_qwen import make_tiny_qwen
from tests.unit.actors.gateway_world import FakeLedger
from tests.unit.actors.researcher_world import World, config
from tests.vllm_environment import needs_vllm, vllm_python

pytestmark = [
    needs_vllm,
    pytest.mark.skipif(not available().ok, reason="no usable bubblewrap here"),
    pytest.mark.timeout(1800),
]
START_S = 1500
CONTEXT = 32_768
TOOL: Any = {
    "name": "read_notes",
    "description": "Read the notes.",
    "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}


class Running:
    """A model server in an event loop of its own."""

    def __init__(self, spec: ServerSpec, directory: Path) -> None:
        self.began = time.monotonic()
        self.end: ServerEnd | None = None
        self._made = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(spec, directory)))
        self._thread.start()
        self._made.wait(60)

    async def _run(self, spec: ServerSpec, directory: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self.server = ModelServer(spec, directory)
        self._made.set()
        self.end = await self.server.run(START_S)

    def wait_ready(self) -> ServerState:
        while self.server.state.phase is not Phase.READY:
            assert self._thread.is_alive(), self.server.state.fault
            time.sleep(0.2)
        return self.server.state

    def stop(self) -> ServerEnd:
        self._loop.call_soon_threadsafe(self.server.stop)
        self._thread.join(60)
        assert self.end is not None
        return self.end


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerState]:
    root = tmp_path_factory.mktemp("served")
    serve = Serve(
        model=str(make_tiny_qwen(root / "model", context=CONTEXT)),
        python=str(vllm_python()),
        arguments=(*Serve().arguments, "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "8"),
        memory_gb=6,
        start_seconds=START_S,
    )
    running = Running(ServerSpec(serve, "tiny", "127.0.0.1", root / "home", 64032, (), 2), root / "lease")
    yield running.wait_ready()
    end = running.stop()
    assert (end.reason, end.starts) == ("stopped", 1)


def client(state: ServerState, token: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=state.base_url, auth_token=token, api_key=None, max_retries=0, timeout=300)


def test_messages_with_tools_are_answered_and_counted(state: ServerState) -> None:
    with client(state, state.token) as sdk:
        answer = sdk.messages.create(
            model="tiny", max_tokens=24, tools=[TOOL], messages=[{"role": "user", "content": "Read the notes."}]
        )
    assert answer.role == "assistant"
    assert 1 <= answer.usage.output_tokens <= 24  # a random model may draw its end token at any time
    assert answer.usage.input_tokens > 20
    assert answer.stop_reason in ("max_tokens", "end_turn", "tool_use")


def test_a_call_and_its_result_are_taken_as_history(state: ServerState) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "read_notes", "input": {"path": "a"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "nothing yet"}
    messages: list[Any] = [
        {"role": "user", "content": "Read."},
        {"role": "assistant", "content": [{"type": "text", "text": "I read."}, call]},
        {"role": "user", "content": [result, {"type": "text", "text": "Go on."}]},
    ]
    with client(state, state.token) as sdk, sdk.messages.stream(
        model="tiny", max_tokens=12, tools=[TOOL], messages=messages
    ) as stream:  # fmt: skip
        answer = stream.get_final_message()
    assert 1 <= answer.usage.output_tokens <= 12
    assert answer.usage.input_tokens > 100  # the call and its result are in the prompt


def test_no_token_no_answer(state: ServerState) -> None:
    with client(state, "guess") as sdk, pytest.raises(anthropic.AuthenticationError):
        sdk.messages.create(model="tiny", max_tokens=4, messages=[{"role": "user", "content": "x"}])


def test_it_tells_its_window_to_whoever_has_the_token(state: ServerState) -> None:
    brain = Brain(kind="local", model="tiny", base_url=state.base_url)
    assert told_window(brain, state.token) == CONTEXT
    assert told_window(brain, "guess") is None


def test_a_brain_that_is_told_garbage_survives_it(state: ServerState, tmp_path: Path) -> None:
    settings = config(
        brain={"kind": "local", "model": "tiny", "base_url": state.base_url, "max_tokens": 40, "thinking_tokens": None}
    )
    ledger = FakeLedger(tmp_path / "scheduler.db")
    endpoint = Endpoint(settings.brain, settings.gateway, lambda: state.token)
    gateway = Gateway(Store(tmp_path / "gateway.db"), settings, ledger.client(), endpoint)
    one = World(tmp_path, settings, model=gateway, max_turns=3)
    summary = one.run()
    turns = one.transcript.history
    said = [entry for turn in turns for entry in turn.said if entry.get("role") == "assistant"]
    assert len(turns) >= 2
    assert said
    assert all(entry["usage"]["output_tokens"] <= 40 for entry in said)
    assert ledger.reserved() == 0
    assert ledger.spent() == 0  # a local model is paid by the GPU-hour
    assert summary["ended"]
