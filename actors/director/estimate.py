"""What a campaign will cost, before it starts: at most, and for a language model a plausible middle. Pure.

The upper figures are promises: no account exceeds its cap. The middle is arithmetic on the assumptions below, which are
printed with it; they are guesses about how a researcher works, not measurements of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.director.director import STOP_GRACE_S
from actors.evaluator.estimate import largest_lease, sealing
from actors.gateway.pricing import Tokens, tariff_of
from cluster.config import CampaignConfig
from cluster.money import MICRO, MS_PER_HOUR, Amounts, gpu_cost, gpu_ms, usd_from_decimal

START_TOKENS = 8_000
"""System prompt, tools and the first message."""
NEW_INPUT = 1_500
"""Tool results and new posts of one turn."""
OUTPUT = 900
"""Thought, text and tool calls of one turn; all of it stays in the history."""
AFTER_COMPACTION = 15_000
SUMMARY = 3_000
TURN_SECONDS = 60.0
"""A call and its tools, the waiting for runs included."""


@dataclass(frozen=True, slots=True)
class Line:
    """An item of the bill in micro-dollars; `None`: nothing caps it."""

    what: str
    usd: int | None


@dataclass(frozen=True, slots=True)
class Middle:
    """A plausible bill of one researcher's tokens: `usd` in micro-dollars, and what ends the researcher."""

    turns: int
    tokens: Tokens
    usd: int
    bounded_by: str

    @property
    def cache_share(self) -> float:
        """Reads from the cache among all input."""
        return self.tokens.cache_read / max(1, self.tokens.prompt)


@dataclass(frozen=True, slots=True)
class Bill:
    """All lines, what they cannot exceed together, and the middle for a brain that calls a model."""

    lines: tuple[Line, ...]
    most: int | None
    minutes: float
    middle: Middle | None
    model: str
    researchers: int

    def text(self) -> str:
        """For a terminal."""
        rows = [f"At most, in {self.minutes:g} minutes of research:"]
        rows += [f"  {_money(line.usd):>14}  {line.what}" for line in self.lines]
        rows.append(f"  {_money(self.most):>14}  the whole campaign, whatever happens (its cap)")
        if self.middle is not None:
            rows += _middle_rows(self.middle, self.model, self.researchers)
        return "\n".join(rows)


def estimate(config: CampaignConfig, baselines: int) -> Bill:
    """The bill of a campaign that has not started; `baselines` are those that SEAL compares with.

    Raises `ConfigError` when the brain's model has no price.
    """
    team = len(config.researcher_ids())
    caps = config.budget
    each = caps.researcher.caps()
    own = sealing(config, baselines)
    prepare = largest_lease(config)
    lines = [
        Line(f"{team} researchers at their caps (tokens, pilots and counted runs)", _times(each.usd, team)),
        Line("of it GPU time of researchers, at their caps of GPU-hours", _gpu(config, _times(each.gpu_ms, team))),
        Line(f"the evaluator's own runs that end the campaign ({_hours(own)}), set aside at the start", own.usd),
        Line(f"the dearest single run of the preparation ({_hours(prepare)}; there are several)", prepare.usd),
    ]
    if config.diversity.model is not None:
        most = usd_from_decimal(config.diversity.usd)
        lines.append(Line(f"the naming of idea families by {config.diversity.model}, at its cap", most))
    if config.brain.served:
        lines.append(_serving(config))
    middle = _middle(config) if config.brain.calls_model else None
    return Bill(tuple(lines), caps.campaign.caps().usd, config.research.minutes, middle, config.brain.model, team)


def _serving(config: CampaignConfig) -> Line:
    """One server after another for all of research and the last words after it, each to the end of its lease."""
    serve = config.serve
    leases = math.ceil((config.research.minutes + STOP_GRACE_S / 60) / serve.lease_minutes)
    used = leases * gpu_ms(serve.gpus, math.ceil(serve.lease_minutes * 60_000))
    hours = _hours(Amounts(gpu_ms=used))
    what = f"the model's server all through research ({hours}, leases of {serve.lease_minutes:g} minutes: {leases})"
    return Line(what, _gpu(config, used))


def _middle(config: CampaignConfig) -> Middle:
    """One researcher's tokens, turn by turn, until turns, time or money end it."""
    tariff, caches = tariff_of(config), config.brain.caches
    by_time = int(config.research.minutes * 60 / TURN_SECONDS)
    turns, bound = min((config.researchers.max_turns, "researchers.max_turns"), (by_time, "research.minutes"))
    cap = config.budget.researcher.caps().usd
    total, context = Tokens(), START_TOKENS
    for turn in range(turns):
        if cap is not None and tariff.cost(total) >= cap:
            return Middle(turn, total, cap, "budget.researcher.usd")
        total = total + _turn(caches, context, fresh=START_TOKENS if turn == 0 else NEW_INPUT + OUTPUT)
        context += NEW_INPUT + OUTPUT
        if context > config.brain.compact_at:
            total = total + _turn(caches, context, fresh=0) + Tokens(output=SUMMARY)
            total = total + Tokens(cache_write_1h=AFTER_COMPACTION if caches else 0)
            context = AFTER_COMPACTION
    return Middle(turns, total, tariff.cost(total), bound)


def _turn(caches: bool, context: int, fresh: int) -> Tokens:
    """A call on so much context, of which `fresh` tokens are new since the last call; brains cache for an hour."""
    output = OUTPUT if fresh else 0
    if not caches:
        return Tokens(input=context, output=output)
    return Tokens(cache_read=max(0, context - fresh), cache_write_1h=fresh, output=output)


def _middle_rows(middle: Middle, model: str, team: int) -> list[str]:
    tokens = middle.tokens
    return [
        f"A plausible middle for the tokens of {model} (an assumption, no measurement):",
        f"  {_money(middle.usd * team):>14}  {team} researchers, {_money(middle.usd)} each: {middle.turns} turns, "
        f"ended by {middle.bounded_by}",
        f"  Assumed: {START_TOKENS} tokens to begin with; a turn adds {NEW_INPUT} of results and {OUTPUT} of output",
        f"  and takes {TURN_SECONDS:g} s; a compaction leaves {AFTER_COMPACTION} and writes {SUMMARY}; "
        f"{middle.cache_share:.0%} of the input is read from the cache.",
        f"  One researcher: {tokens.prompt / 1e6:.1f} million tokens in, {tokens.output / 1e6:.2f} million out. "
        "Prices are those of the configuration: compare them with the vendor's page.",
    ]


def _times(value: int | None, count: int) -> int | None:
    return None if value is None else value * count


def _gpu(config: CampaignConfig, used_ms: int | None) -> int | None:
    return None if used_ms is None else gpu_cost(used_ms, usd_from_decimal(config.pool.usd_per_gpu_hour))


def _hours(amounts: Amounts) -> str:
    return f"{amounts.gpu_ms / MS_PER_HOUR:.2f} GPU-hours"


def _money(usd: int | None) -> str:
    return "no cap" if usd is None else f"${usd / MICRO:,.2f}"
