"""A gateway on a real ledger, with a simulated endpoint and scripted deaths."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.gateway.endpoint import Begun, Transport
from actors.gateway.gateway import Gateway
from actors.gateway.pricing import Tariff, Tokens, tokens_of
from actors.gateway.requests import Body, Parts
from actors.gateway.retries import AttemptFailedError, Failure
from actors.scheduler.client import SchedulerClient
from actors.scheduler.ledger import Ledger
from cluster.config import CampaignConfig, load_config
from cluster.journal import Journal
from cluster.money import Amounts, Caps, usd_from_decimal
from cluster.names import IDEAS_ACCOUNT, tokens_account
from cluster.remote import Local, UnreachableError
from cluster.store import Store

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a store's commits cost nothing."""
MODEL = "claude-opus-4-6"
TEAM = ("01-elicitation", "02-reweighting", "03-weak-plus-elicited")


class Died(BaseException):
    """The gateway's process is killed here; nothing of it runs on."""


def campaign(*overrides: str) -> CampaignConfig:
    return load_config("quickstart", overrides=("brain.kind=claude", *overrides))


class FakeLedger:
    """The scheduler's ledger calls on a real ledger; `die` may end the gateway before or after any of them."""

    def __init__(self, path: Path, usd: float = 5.0, each: float = 2.0) -> None:
        self.store = Store(path)
        self.ledger = Ledger(self.store, Journal(self.store))
        self.ledger.open("campaign", None, Caps(usd=usd_from_decimal(usd)))
        self.ledger.open(IDEAS_ACCOUNT, "campaign", Caps(usd=usd_from_decimal(0.1)))
        for name in TEAM:
            self.ledger.open(f"campaign/researcher/{name}", "campaign", Caps(usd=usd_from_decimal(each)))
            self.ledger.open(tokens_account(name), f"campaign/researcher/{name}", Caps())
        self.die: Callable[[str], None] = lambda _: None
        self.deaf = 0
        """How many settlements are not heard of: the scheduler does not answer."""
        self.pause: Callable[[], int] = lambda: 1

    async def _step(self, name: str, act: Callable[[], Any]) -> Any:
        self.die(f"before {name}")
        for _ in range(self.pause()):
            await asyncio.sleep(0)
        answer = act()
        self.die(f"after {name}")
        return answer

    async def reserve(self, key: str, account: str, amounts: Amounts, note: str, holder: str) -> None:
        await self._step("reserve", lambda: self.ledger.reserve(f"hold/{key}", account, amounts, note, holder))

    async def settle(self, key: str, actual: Amounts, note: str) -> Amounts:
        if self.deaf:
            self.deaf -= 1
            raise UnreachableError("actor scheduler did not answer settle")
        charged: Amounts = await self._step("settle", lambda: self.ledger.settle(f"hold/{key}", actual, note))
        return charged

    async def release(self, key: str, note: str) -> Amounts:
        freed: Amounts = await self._step("release", lambda: self.ledger.release(f"hold/{key}", note))
        return freed

    async def spend(self, key: str, account: str, amounts: Amounts, note: str) -> Amounts:
        charged: Amounts = await self._step("spend", lambda: self.ledger.spend(f"spend/{key}", account, amounts, note))
        return charged

    def client(self) -> SchedulerClient:
        """The way to it."""
        return SchedulerClient(Local(self))

    def spent(self, account: str = "campaign") -> int:
        return self.ledger.balance(account).spent.usd

    def reserved(self) -> int:
        return self.ledger.balance("campaign").reserved.usd


Outcome = dict[str, Any] | Failure


class Simulated:
    """An endpoint: outcomes in order, then short answers. `answers` are those that the vendor would bill."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[tuple[str, Body]] = []
        self.answers: list[dict[str, Any]] = []
        self.die: Callable[[str], None] = lambda _: None
        self.hold = asyncio.Event()
        self.hold.set()
        self.pause: Callable[[], int] = lambda: 1

    async def send(self, key: str, body: Body, parts: Parts, begun: Begun) -> dict[str, Any]:
        self.sent.append((key, body))
        self.die("before answer")
        for _ in range(self.pause()):
            await asyncio.sleep(0)
        await self.hold.wait()
        outcome = self.outcome(body)
        if isinstance(outcome, Failure):
            raise AttemptFailedError(outcome)
        begun(outcome["usage"])
        self.die("in the stream")
        await asyncio.sleep(0)
        self.answers.append(outcome)
        self.die("after answer")
        return outcome

    def outcome(self, body: Body) -> Outcome:
        return self.outcomes.pop(0) if self.outcomes else answer()

    def status(self) -> dict[str, Any]:
        return {}

    async def close(self) -> None:
        return


def answer(text: str = "ok", **usage: int) -> dict[str, Any]:
    counts = {"input_tokens": 100, "output_tokens": 20, **usage}
    return {
        "role": "assistant",
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "usage": counts,
    }


def request(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 1000, "messages": [{"role": "user", "content": text}], **fields}


def tariff(config: CampaignConfig) -> Tariff:
    return Tariff.of(config.gateway.prices[MODEL])


def cost(config: CampaignConfig, message: dict[str, Any]) -> int:
    return tariff(config).cost(tokens_of(message["usage"]))


def worst_cost(config: CampaignConfig, tokens: Tokens) -> int:
    return tariff(config).cost(tokens)


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


class Clock:
    """A time of its own: who sleeps moves it on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds


def make(
    root: Path,
    ledger_actor: FakeLedger,
    endpoint: Transport,
    config: CampaignConfig | None = None,
    clock: Clock | None = None,
) -> Gateway:
    clock = clock or Clock()
    return Gateway(
        Store(root / "gateway.db"),
        config or campaign(),
        ledger_actor.client(),
        endpoint,
        clock=clock,
        sleep=clock.sleep,
    )
