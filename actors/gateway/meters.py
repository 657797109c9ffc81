"""What a person sees of the calls: counts by researcher and, through a sink, the campaign's metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from actors.gateway.pricing import KINDS, Tokens
from actors.gateway.rate_limiter import Estimate
from cluster.money import MICRO
from cluster.observing import Guard, Guarded, Sink

FIRST_GUESS = Estimate(4000.0, 1000.0)
MEMORY = 0.8
"""Weight of the past in the running mean that guesses the next call's tokens."""


@dataclass(slots=True)
class Tally:
    """What one researcher's calls came to since the gateway started."""

    calls: int = 0
    usd: int = 0
    seconds: float = 0.0
    retries: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


class Meters:
    """Counts; nothing here is needed after a restart. A sink that fails is counted, too: no call fails by it."""

    def __init__(self, sink: Sink | None) -> None:
        self._guard = Guard()
        self._sink = Guarded(sink, self._guard)
        self._tallies: dict[str, Tally] = {}
        self._guesses: dict[str, Estimate] = {}

    def guess(self, researcher: str) -> Estimate:
        """The tokens that count towards the limits which the next call will probably use."""
        return self._guesses.get(researcher, FIRST_GUESS)

    def count_answer(self, researcher: str, tokens: Tokens, usd: int, seconds: float) -> Estimate:
        """Count an answered call; what it used of the limits (reads from the cache are free of them)."""
        tally = self._tallies.setdefault(researcher, Tally())
        tally.calls += 1
        tally.seconds += seconds
        used = Estimate(float(tokens.prompt - tokens.cache_read), float(tokens.output))
        old = self.guess(researcher)
        self._guesses[researcher] = Estimate(
            MEMORY * old.input + (1 - MEMORY) * used.input, MEMORY * old.output + (1 - MEMORY) * used.output
        )
        for kind, number in tokens.to_dict().items():
            tally.tokens[kind] += number
        self._charge(tally, tokens, usd)
        self._sink.count("model_calls", outcome="answered")
        self._sink.observe("model_call_seconds", seconds)
        self._sink.set("model_cache_hit_share", self.cache_hit_share)
        return used

    def count_loss(self, researcher: str, tokens: Tokens, usd: int) -> None:
        """Count an attempt that was charged without an answer."""
        self._charge(self._tallies.setdefault(researcher, Tally()), tokens, usd)
        self._sink.count("model_calls", outcome="lost")

    def count_retry(self, researcher: str, reason: str) -> None:
        """Count a failed attempt that another follows."""
        self._tallies.setdefault(researcher, Tally()).retries += 1
        self._sink.count("model_retries", reason=reason)

    def count_refusal(self, reason: str) -> None:
        """Count a call that ended without an answer."""
        self._sink.count("model_calls", outcome=reason)

    def _charge(self, tally: Tally, tokens: Tokens, usd: int) -> None:
        tally.usd += usd
        self._sink.count("model_usd", usd / MICRO)
        for kind, number in tokens.to_dict().items():
            if number:
                self._sink.count("model_tokens", number, kind=kind)

    @property
    def cache_hit_share(self) -> float:
        """The share of all input tokens that was read from the cache."""
        tallies = self._tallies.values()
        whole = sum(sum(t.tokens.values()) - t.tokens["output"] for t in tallies)
        return sum(t.tokens["cache_read"] for t in tallies) / whole if whole else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "cache_hit_share": self.cache_hit_share,
            "unobserved": self._guard.failed(),
            "researchers": {name: asdict(tally) for name, tally in self._tallies.items()},
        }
