"""The live view of a campaign in a terminal: phase, researchers, leases, best score, money, time left.

Names, reasons and labels are text of strangers: nothing in them is markup, and nothing reaches the terminal as a
control character.
"""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.money import format_usd
from cluster.names import researcher_account
from cluster.terminal import cell
from cluster.text import visible_line


def render(name: str, status: dict[str, Any]) -> RenderableType:
    """The view of one `Director.status()`."""
    told = [Text(words, style="yellow") for words in [*_paused(status), *_unobserved(status)]]
    stopped = [Text(words, style="bold red") for words in _stopped(status)]
    return Group(_head(name, status), *stopped, _researchers(status), *told, _slots(status))


def one_line(name: str, status: dict[str, Any]) -> str:
    """The same in one line, for a log."""
    head = _head(name, status).plain
    return " · ".join([*_stopped(status), head, *_paused(status), *_unobserved(status)])


def _stopped(status: dict[str, Any]) -> list[str]:
    """Why the whole campaign stands still, and for how long; nothing when it does not."""
    pause = status.get("paused")
    if not pause:
        return []
    return [f"PAUSED for {pause['seconds']:.0f} s: {pause['reason']}; it goes on by itself when that is over"]


def _paused(status: dict[str, Any]) -> list[str]:
    """Why researchers are paused, and which, one line for each reason."""
    names: dict[str, list[str]] = {}
    for name, state in status.get("researchers", {}).items():
        if state.get("state") == "paused":
            reason = " ".join(str(state.get("last_action", "")).split()).removeprefix("paused: ")
            names.setdefault(reason, []).append(name)
    return [visible_line(f"paused: {', '.join(who)}: {reason}") for reason, who in names.items()]


def _unobserved(status: dict[str, Any]) -> list[str]:
    """What failed to be observed, how often, and with what."""
    failed = {**(status.get("gateway") or {}).get("unobserved", {}), **status.get("unobserved", {})}
    return [visible_line(f"not observed: {what}, {how['times']} times: {how['last']}") for what, how in failed.items()]


def _head(name: str, status: dict[str, Any]) -> Text:
    scheduler, evaluator = status.get("scheduler", {}), status.get("evaluator", {})
    totals = scheduler.get("totals", {})
    parts = [
        f"{name}",
        f"phase {status.get('phase', '?')}",
        f"{status.get('wall_seconds', 0):.0f} s",
        f"{format_usd(int(totals.get('usd', 0)))} spent",
        f"{int(totals.get('gpu_ms', 0)) / 1000:.0f} GPU-s",
        f"{len(scheduler.get('running', []))} running",
        f"{len(scheduler.get('waiting', []))} waiting",
    ]
    worn = [f"{tier.upper()} {used['used']}/{used['limit']}" for tier, used in evaluator.get("wear", {}).items()]
    if worn:
        parts.append(f"answers {', '.join(worn)}")
    parts += _model(status.get("gateway") or {}, scheduler.get("running", []))
    if evaluator.get("note"):
        parts.append(str(evaluator["note"]))
    if evaluator.get("best"):
        parts.append(f"best {evaluator['best']}")
    if status.get("research_left_s"):
        parts.append(f"{status['research_left_s']:.0f} s of research left")
    if status.get("alarm"):
        parts.append(str(status["alarm"]))
    for office in ("scheduler", "evaluator", "gateway"):
        if (status.get(office) or {}).get("state") == "unreachable":
            parts.append(f"{office} unreachable: its last known figures")
    return Text(visible_line(" · ".join(parts)), style="bold")


def _model(gateway: dict[str, Any], leases: list[dict[str, Any]]) -> list[str]:
    """Calls of the model that run and wait, the share of its input that came from the cache, its server.

    The gateway looks at the server only when it calls it; whether there still is one, its lease says.
    """
    parts = []
    if "running" in gateway:
        parts.append(f"{gateway['running']} calls, {gateway['waiting']} wait, cache {gateway['cache_hit_share']:.0%}")
    if "server" in gateway:
        phase = gateway["server"]["phase"]
        there = phase in ("none", "waiting") or any(lease["kind"] == "serve" for lease in leases)
        parts.append(f"model server {phase if there else 'stopped'}")
    return parts


def _researchers(status: dict[str, Any]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("researcher", "state", "turn", "pilots", "submissions", "posts", "spent", "doing"):
        table.add_column(
            column, justify="right" if column in ("turn", "pilots", "submissions", "posts", "spent") else "left"
        )
    accounts = status.get("scheduler", {}).get("accounts", {})
    for name, state in status.get("researchers", {}).items():
        account = accounts.get(researcher_account(name), {})
        spent = int((account.get("spent") or {}).get("usd", 0))
        counts = [str(state.get(key, 0)) for key in ("turn", "pilots", "submissions", "posts")]
        doing = str(state.get("last_action", ""))[:40]
        table.add_row(*map(cell, (name, state.get("state", "?"), *counts, format_usd(spent), doing)))
    return table


def _slots(status: dict[str, Any]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("slot", "share", "kind", "run", "for"):
        table.add_column(column)
    for lease in status.get("scheduler", {}).get("running", []):
        age = f"{float(lease.get('age_seconds', 0)):.0f} s"
        told = (lease.get("slot"), lease.get("gpus", ""), lease.get("kind"), str(lease.get("label"))[:50], age)
        table.add_row(*map(cell, told))
    return table
