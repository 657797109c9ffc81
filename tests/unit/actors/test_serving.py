"""The manager of the model server on a real scheduler, a real slot and a small HTTP server in vLLM's place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from actors.gateway.gateway import Gateway
from actors.gateway.model_server import ModelServerManager, Served, serve_request
from actors.gateway.requests import RequestParser
from actors.gateway.retries import AttemptFailedError
from actors.gateway.startup_checks import check_brain
from actors.scheduler.audit import audit
from actors.scheduler.client import SchedulerClient
from actors.scheduler.scheduler import Scheduler
from cluster.config import CampaignConfig, ConfigError, load_config
from cluster.errors import RefusedError
from cluster.money import Amounts, Caps, gpu_cost
from cluster.names import SERVING_ACCOUNT
from cluster.remote import Local, UnreachableError
from cluster.store import Store, open_readonly
from gpu_pool.client import SlotClient
from gpu_pool.leases import Lease
from gpu_pool.serving.command import ServerSpec
from gpu_pool.serving.restarts import RestartPolicy
from gpu_pool.serving.server import ModelServer, Timing
from gpu_pool.slot import Slot, SlotSpec
from tests.unit.actors.scheduler_fakes import PRICE, Office, furnish
from tests.unit.gpu_pool.fake_vllm import make_fake_vllm

QUICK = Timing(look_s=0.02, check_s=0.2, patience_s=2)
ALICE = "01-a"


class Shell(Local):
    """The scheduler as its actor shows it; answers may be lost on their way."""

    def __init__(self, plain: Scheduler) -> None:
        super().__init__(plain)
        self.lost: list[str] = []
        """Methods whose next answer is lost."""
        self.looks = 0

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.looks += method == "status"
        answer = await super().call(method, *args, **kwargs)
        if method in self.lost:
            self.lost.remove(method)
            raise UnreachableError(f"the scheduler did not answer {method}")
        return answer


def make_slot(config: CampaignConfig, root: Path) -> Slot:
    spec = SlotSpec("slot-0", 4, 1 << 30, "never", root, root, 64001, (), "logical", "A", "probe")

    def make(lease: Lease) -> ModelServer:
        server = ServerSpec(config.serve, "tiny", "127.0.0.1", root / "home", 0, (), lease.threads, False)
        return ModelServer(server, Path(lease.directory), QUICK, RestartPolicy(most=1, pause_s=0.05))

    return Slot(spec, make_server=make)


@dataclass
class World:
    manager: ModelServerManager
    shell: Shell
    scheduler: Scheduler
    slot: Slot
    config: CampaignConfig
    database: Path

    def another_manager(self) -> ModelServerManager:
        return ModelServerManager(
            self.config, SchedulerClient(self.shell), lambda _: SlotClient(Local(self.slot)), poll_s=0.02, rest_s=0.3
        )

    def leases(self) -> list[tuple[str, str, int, int, int]]:
        rows = self.scheduler.store.query("SELECT * FROM leases WHERE kind = 'serve' ORDER BY sequence")
        return [(r["key"], r["state"], r["gpu_ms"], r["usd"], r["ended_us"] or 0) for r in rows]

    async def ended(self, count: int) -> None:
        for _ in range(1000):
            if sum(1 for row in self.leases() if row[1] != "running") >= count:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(self.leases())


@contextlib.asynccontextmanager
async def world(root: Path, *arguments: str, usd: int = 100_000_000, **serve: Any) -> AsyncIterator[World]:
    (root / "model").mkdir()
    (root / "model" / "config.json").write_text("{}")
    values = {"model": str(root / "model"), "python": str(make_fake_vllm(root)), "arguments": list(arguments), **serve}
    overrides = tuple(f"serve.{name}={value}" for name, value in values.items())
    config = load_config("quickstart", overrides=("brain.kind=local", "brain.model=tiny", *overrides))
    slot = make_slot(config, root)
    office = Office(root / "scheduler.db", {"slot-0": slot})  # type: ignore[dict-item]
    async with office as scheduler:
        await furnish(scheduler, office.slots, usd=usd)
        made = World(None, Shell(scheduler), scheduler, slot, config, root / "scheduler.db")  # type: ignore[arg-type]
        made.manager = made.another_manager()
        try:
            yield made
        finally:
            await slot.close()


def test_two_researchers_share_one_server_which_the_campaign_pays_by_the_gpu_hour(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as w:
            first, second = await asyncio.gather(w.manager.ready(), w.manager.ready())
            assert first == second == await w.manager.ready()
            assert first.token not in str(w.manager.status())
            worst = w.scheduler.ledger.balance(SERVING_ACCOUNT).reserved
            assert worst.gpu_ms == int(w.config.serve.lease_minutes * 60_000)
            await asyncio.sleep(0.5)
            await w.manager.close()
            await w.ended(1)
            ((key, state, gpu_ms, usd, _),) = w.leases()
            assert (key, state) == ("serve/1", "cancelled")
            assert gpu_ms >= 500
            assert usd == gpu_cost(gpu_ms, PRICE)
            spent = w.scheduler.ledger.balance(SERVING_ACCOUNT).spent
            assert (spent.usd, spent.gpu_ms) == (usd, gpu_ms)
            assert w.scheduler.ledger.balance("campaign").spent.usd == usd
            assert w.scheduler.ledger.balance(f"campaign/researcher/{ALICE}").spent.usd == 0
        database = open_readonly(w.database)
        assert audit(database) == []
        database.close()

    asyncio.run(play())


def test_an_idle_server_stops_paying_and_the_next_ask_starts_another(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path, idle_minutes=0.5 / 60) as w:
            first = await w.manager.ready()
            await w.ended(1)
            assert w.leases()[0][:2] == ("serve/1", "done")
            assert w.scheduler.ledger.balance(SERVING_ACCOUNT).reserved.usd == 0
            second = await w.manager.ready()
            assert second.token != first.token
            assert [row[:2] for row in w.leases()] == [("serve/1", "done"), ("serve/2", "running")]

    asyncio.run(play())


def test_a_manager_that_is_made_anew_finds_the_server(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path, idle_minutes=1) as w:
            endpoint = await w.manager.ready()
            assert await w.another_manager().ready() == endpoint
            assert len(w.leases()) == 1

    asyncio.run(play())


def test_a_broken_server_is_refused_with_its_reason_and_not_started_at_once_again(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path, "--fake-die") as w:
            with pytest.raises(RefusedError, match="no such model architecture") as refused:
                await w.manager.ready()
            assert refused.value.reason == "unavailable"
            with pytest.raises(RefusedError, match="rests"):
                await w.manager.ready()
            assert len(w.leases()) == 1
            await asyncio.sleep(0.35)
            with pytest.raises(RefusedError, match="no such model architecture"):
                await w.manager.ready()
            assert len(w.leases()) == 2

    asyncio.run(play())


def test_a_server_that_the_campaign_cannot_pay_for_is_refused(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path, usd=1_000) as w:
            with pytest.raises(RefusedError) as refused:
                await w.manager.ready()
            assert refused.value.reason == "over_budget"
            assert w.leases() == []

    asyncio.run(play())


def test_it_waits_for_a_slot_like_any_lease(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as w:
            other = w.another_manager()
            await other.ready()
            await w.scheduler.submit(serve_request(w.config, 2))
            w.manager._ended = 1  # as if the first were over: the second waits for the slot that the first holds
            with pytest.raises(RefusedError, match="waits for a free slot"):
                await w.manager.ready(patience_s=0.2)
            await other.close()
            assert (await w.manager.ready()).model == "tiny"

    asyncio.run(play())


def test_the_end_of_a_lease_ends_the_server_and_charges_no_more_than_was_reserved(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path, lease_minutes=3 / 60) as w:
            await w.manager.ready()
            await w.ended(1)
            ((_, state, gpu_ms, usd, _),) = w.leases()
            assert state == "done"
            assert 2_900 <= gpu_ms <= 3_000
            assert usd <= gpu_cost(3_000, PRICE)

    asyncio.run(play())


def test_the_gateway_reaches_the_server_streams_and_meters(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as w:
            payer = f"campaign/researcher/{ALICE}"
            await w.scheduler.open_account("t", f"{payer}/tokens", payer, Caps())
            transport = Served(w.config, w.manager)
            gateway = Gateway(Store(tmp_path / "gateway.db"), w.config, SchedulerClient(w.shell), transport)
            body = {"model": "tiny", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}]}
            got = await gateway.call(f"{ALICE}/0/model/0", ALICE, body)
            assert got.message["content"][0]["text"] == "tiny says hello"
            assert got.charged == 0
            assert gateway.status()["server"]["phase"] == "ready"
            await gateway.close()
            await w.ended(1)

    asyncio.run(play())


def test_a_submission_whose_answer_is_lost_starts_no_second_server(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as w:
            w.shell.lost.append("submit")
            with pytest.raises(UnreachableError):
                await w.manager.ready()
            assert (await w.manager.ready()).model == "tiny"
            assert [row[:2] for row in w.leases()] == [("serve/1", "running")]
            assert w.manager.status()["leases"] == 1

    asyncio.run(play())


def test_however_many_wait_the_scheduler_is_asked_at_a_steady_pace(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as w:
            await w.another_manager().ready()
            await w.scheduler.submit(serve_request(w.config, 2))
            w.manager._ended, w.manager._poll_s, w.shell.looks = 1, 0.1, 0
            waiting = await asyncio.gather(*(w.manager.ready(0.5) for _ in range(40)), return_exceptions=True)
            assert all(isinstance(one, RefusedError) for one in waiting)
            assert w.shell.looks < 20

    asyncio.run(play())


def test_a_scheduler_that_does_not_answer_is_a_failure_that_costs_nothing_and_is_tried_again(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as w:
            w.shell.lost.append("submit")
            request = {"model": "tiny", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}]}
            body, parts = RequestParser().parse(request)
            served = Served(w.config, w.manager)
            with pytest.raises(AttemptFailedError) as failed:
                await served.send("k", body, parts, lambda _: None)
            failure = failed.value.failure
            assert (failure.reason, failure.again, failure.billed) == ("unavailable", True, False)
            got = await served.send("k", body, parts, lambda _: None)
            assert got["content"][0]["text"] == "tiny says hello"
            await served.close()

    asyncio.run(play())


def test_a_server_that_cannot_be_paid_is_refused_to_the_caller_with_what_is_left(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path, usd=1_000) as w:
            payer = f"campaign/researcher/{ALICE}"
            await w.scheduler.open_account("t", f"{payer}/tokens", payer, Caps())
            gateway = Gateway(
                Store(tmp_path / "gateway.db"), w.config, SchedulerClient(w.shell), Served(w.config, w.manager)
            )
            body = {"model": "tiny", "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}]}
            with pytest.raises(RefusedError) as refused:
                await gateway.call(f"{ALICE}/0/model/0", ALICE, body)
            detail = refused.value.detail
            assert refused.value.reason == "over_budget"
            assert (detail["account"], detail["dimension"], detail["left"]) == ("campaign", "usd", 1_000)
            assert detail["asked"] > 1_000
            await gateway.close()

    asyncio.run(play())


def test_any_manager_that_closes_ends_the_campaigns_server_and_the_slot_is_free(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(tmp_path) as w:
            await w.manager.ready()
            await w.another_manager().close()
            await w.ended(1)
            assert w.leases()[0][:2] == ("serve/1", "cancelled")
            assert (await w.scheduler.status())["slots"][0]["used"] == 0
            await w.manager.close()
            assert len(w.leases()) == 1

    asyncio.run(play())


@pytest.mark.parametrize(
    ("about", "arguments", "window"),
    [
        ({"max_position_embeddings": 32_768}, "[]", 32_768),
        ({"text_config": {"max_position_embeddings": 40_960}}, "[]", 40_960),
        ({"max_position_embeddings": 262_144}, "[--max-model-len, '20000']", 20_000),
        ({"max_position_embeddings": 262_144}, "[--max_model_len=32k]", 32_000),
        ({}, "[--max-model-len, 32K]", 32_768),
        ({"max_position_embeddings": 32_768}, "[--max-model-len, auto]", 32_768),
    ],
)
def test_a_history_that_outgrows_the_models_window_is_refused_with_what_would_do(
    tmp_path: Path, about: dict[str, Any], arguments: str, window: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(about))
    chosen = [
        "brain.kind=local",
        "brain.model=tiny",
        f"serve.model={tmp_path}",
        f"serve.arguments={arguments}",
        "serve.lease_minutes=5",
    ]
    with pytest.raises(ConfigError, match=f"at most {window} together") as refused:
        check_brain(load_config("quickstart", overrides=tuple(chosen)))
    advice = re.findall(r"--set (\S+)", str(refused.value))
    fits = load_config("quickstart", overrides=(*chosen, *advice))
    check_brain(fits)
    assert fits.brain.compact_at + fits.brain.max_tokens <= window


@contextlib.contextmanager
def told(status: int, *models: dict[str, Any]) -> Iterator[tuple[str, list[str | None]]]:
    """The address of a server that lists these models, and the credentials that it was shown."""
    shown: list[str | None] = []

    class Listing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers["Authorization"])
            body = json.dumps({"object": "list", "data": models}).encode()
            self.send_response(status if self.path == "/v1/models" else 404)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", shown
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_window_of_a_server_that_runs_already_is_asked_for(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("token-of-the-server")
    key.chmod(0o600)

    def local(url: str, *overrides: str) -> CampaignConfig:
        chosen = ("brain.kind=local", "brain.model=tiny", f"brain.base_url={url}", f"brain.key_file={key}")
        return load_config("quickstart", overrides=(*chosen, *overrides))

    tiny = {"id": "tiny", "max_model_len": 32_768}
    with told(200, {"id": "other"}, {"id": "another", "max_model_len": 1}, tiny) as (url, shown):
        with pytest.raises(ConfigError, match="at most 32768 together") as refused:
            check_brain(local(url))
        check_brain(local(url), run_dir=tmp_path)
        check_brain(local(url, *re.findall(r"--set (\S+)", str(refused.value))))
        assert shown == ["Bearer token-of-the-server"] * 2
    check_brain(local(url))  # it does not answer any more: it may when it is called
    for status, model in ((200, {"id": "tiny"}), (200, {"id": "other", "max_model_len": 1}), (500, tiny)):
        with told(status, model) as (url, _):
            check_brain(local(url))
    with told(307, tiny) as (url, shown):
        check_brain(local(url))
        assert len(shown) == 1, "the key goes nowhere else"


def test_what_could_not_serve_is_refused_before_the_start(tmp_path: Path) -> None:
    def local(*overrides: str) -> CampaignConfig:
        return load_config("quickstart", overrides=("brain.kind=local", "brain.model=tiny", *overrides))

    (tmp_path / "config.json").write_text("{}")
    there = f"serve.model={tmp_path}"
    for config, words in (
        (local(), r"brain\.base_url .* or serve\.model"),
        (local("serve.model=/nowhere"), r"serve\.model: '/nowhere'"),
        (local(there, "serve.python=/nowhere"), r"serve\.python"),
        (local(there, "serve.lease_minutes=40000"), r"serve\.lease_minutes"),
        (local(there, "serve.lease_minutes=5", "brain.model=claude-opus-4-6"), r"brain\.model: .* price per token"),
        (local(there, "diversity.model=claude-haiku-4-5"), r"diversity\.model"),
        (load_config("quickstart", overrides=("diversity.model=claude-haiku-4-5",)), r"diversity\.model"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_brain(config)
    hour = local(there, "serve.lease_minutes=60")
    check_brain(hour)
    with pytest.raises(ConfigError, match="beside what is set aside"):
        check_brain(hour, beside=Amounts(usd=3_000_000))
    check_brain(local("brain.base_url=http://127.0.0.1:8000"))
    check_brain(load_config("quickstart"))
