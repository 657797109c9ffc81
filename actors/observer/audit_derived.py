"""What people read, derived again: summary, tables of the export and the page, from the journals as they stood then.

Promise: the summary names the head of every journal that it was made from; the same journals up to there give the same
files to the byte, as long as the same version of this package makes them. What another version made is told as such
(`Derived.unknown`): only the closing's hashes cover it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.observer.export import SCHEMAS, export
from actors.observer.finding import Finding
from actors.observer.made_by import made_by
from actors.observer.plain import json_text
from actors.observer.report import render_report
from actors.observer.run_data import RunData
from actors.observer.summary import build_summary

MOST = 5


@dataclass(slots=True)
class Derived:
    """Files that were derived again: how many, `same` (paths below the root), what differs, what is unknown and why."""

    looked_at: int = 0
    same: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)


def derive_again(run: RunData, vouched: Set[str] = frozenset()) -> Derived:
    """Compare `summary.json`, `report.html` and `export/` with what the journals give.

    The page takes seconds to draw: if its bytes are among the `vouched` ones, which the closing signed when they had
    just been made, it is not drawn again.
    """
    done, paths = Derived(), run.paths
    exported = [f"{paths.export.name}/{name}.parquet" for name in SCHEMAS]
    names = [paths.summary.name, paths.report.name, *exported]
    present = [name for name in names if (paths.root / name).is_file()]
    if not present:
        return done
    done.findings += [_fault(name, "is missing, others of its kind are there") for name in names if name not in present]
    summary = _summary(run)
    if summary is None:
        done.findings.append(_fault(paths.summary.name, "cannot be read"))
        return done
    maker = summary.get("made_by")
    if maker != made_by():
        why = "made by an older version" if maker is None else "made by another version"
        done.unknown = dict.fromkeys(present, why)
        return done
    done.looked_at = len(present)
    drawn = [name for name in present if name != paths.report.name or name not in vouched]
    done.same = set(present) - set(drawn)
    _compare(run.until(summary["chain_heads"]), summary, drawn, done)
    return done


def _summary(run: RunData) -> dict[str, Any] | None:
    try:
        summary = json.loads(run.paths.summary.read_bytes())
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) and isinstance(summary.get("chain_heads"), dict) else None


def _compare(run: RunData, summary: dict[str, Any], present: list[str], done: Derived) -> None:
    told = summary.get("verification")
    fresh = build_summary(run) | ({} if told is None else {"verification": told})
    made = {run.paths.summary.name: json_text(fresh).encode()}
    if told is not None and run.paths.report.name in present:
        made[run.paths.report.name] = render_report(run, fresh).encode()
    with tempfile.TemporaryDirectory(prefix="aar-verify-") as folder:
        for path in export(run, Path(folder)):
            made[f"{run.paths.export.name}/{path.name}"] = path.read_bytes()
    for name in present:
        if made.get(name) == (run.paths.root / name).read_bytes():
            done.same.add(name)
            continue
        where = "; ".join(_places(summary, fresh)[:MOST]) if name == run.paths.summary.name else ""
        done.findings.append(_fault(name, f"is not what the journals give{': ' if where else ''}{where}"))


def _places(told: Any, fresh: Any, at: str = "") -> list[str]:
    """Where two documents differ."""
    if isinstance(told, dict) and isinstance(fresh, dict):
        keys = sorted(told.keys() | fresh.keys())
        return [place for key in keys for place in _places(told.get(key), fresh.get(key), f"{at}.{key}".lstrip("."))]
    if isinstance(told, list) and isinstance(fresh, list) and len(told) == len(fresh):
        pairs = enumerate(zip(told, fresh, strict=True))
        return [place for index, (one, other) in pairs for place in _places(one, other, f"{at}[{index}]")]
    return [] if told == fresh else [at]


def _fault(name: str, reason: str) -> Finding:
    return Finding("files", None, f"{name} {reason}")
