"""Names of actors, of accounts, and of places in a run directory: the one list of all three."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

MOST_NAME_BYTES = 120
"""Of a campaign's name: what is made of it stays below the 255 bytes of a file's name."""
NAMESPACE = "aar"
CAMPAIGN = "campaign"
"""The account above all others; also who stands as the researcher of the campaign's own records and posts."""
BASELINES_ACCOUNT = f"{CAMPAIGN}/baselines"
SEAL_ACCOUNT = f"{CAMPAIGN}/seal"
SCORE_ACCOUNT = f"{CAMPAIGN}/score"
SERVING_ACCOUNT = f"{CAMPAIGN}/serving"
IDEAS_ACCOUNT = f"{CAMPAIGN}/ideas"
"""What the campaign pays itself: shared work, sealing, scores that a person asks for, model servers, the naming of idea
families."""
RESEARCHERS = f"{CAMPAIGN}/researcher/"
"""Accounts of researchers begin with it."""
Part = Literal["gpu", "evaluations", "tokens"]
PARTS: tuple[Part, ...] = ("gpu", "evaluations", "tokens")
"""Accounts below a researcher's: pilots, counted runs with their answers, calls of models."""


def researcher_account(researcher: str, part: Part | None = None) -> str:
    """A researcher's account, `campaign/researcher/<id>`, or one below it."""
    whole = f"{RESEARCHERS}{researcher}"
    return whole if part is None else f"{whole}/{part}"


def tokens_account(caller: str) -> str:
    """Who pays for a call of a model: the researcher who makes it, or the campaign for its own."""
    return IDEAS_ACCOUNT if caller == CAMPAIGN else researcher_account(caller, "tokens")


def campaign_name_fault(name: str) -> str | None:
    """What was expected of a campaign's name, which becomes a folder's and part of actors' names; `None`: it is one.

    Letters of any script will do, in their composed form: two names that look alike are one folder on some systems.
    """
    if not name or name.startswith(".") or not all(c.isalnum() or c in "-_." for c in name):
        return "letters, digits, '-', '_' and '.', and no '.' at the beginning"
    if unicodedata.normalize("NFC", name) != name:
        return f"composed letters: {unicodedata.normalize('NFC', name)!r}"
    if len(name.encode("utf-8")) > MOST_NAME_BYTES:
        return f"at most {MOST_NAME_BYTES} bytes in UTF-8"
    return None


def actor_name(campaign: str, office: str) -> str:
    """The Ray name of an office of a campaign, e.g. `quickstart/scheduler`."""
    return f"{campaign}/{office}"


class RunPaths:
    """Where the parts of a campaign keep their state, under `runs/<campaign>/`.

    `judge/` and `private/` are mode 0700; everything that a sandbox may see is handed to it file by file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.lock = root / ".lock"
        self.director_db = root / "director.db"
        self.scheduler_db = root / "scheduler.db"
        self.forum_db = root / "forum.db"
        self.evaluator_db = root / "evaluator.db"
        self.gateway_db = root / "gateway.db"
        self.objects = root / "objects"
        self.leases = root / "leases"
        self.judge = root / "judge"
        self.revealed = root / "revealed.json"
        self.public = root / "public"
        self.researchers = root / "researchers"
        self.summary = root / "summary.json"
        self.report = root / "report.html"
        self.export = root / "export"
        self.public_key = root / "evaluator.pub"
        self.signing_key = self.judge / "signing.key"
        self.cases = root / "cases"
        self.closing = root / "closing.json"

    def researcher_db(self, researcher: str) -> Path:
        """The database of one researcher."""
        return self.researchers / researcher / "researcher.db"

    def workspace(self, researcher: str) -> Path:
        """The workspace of one researcher."""
        return self.researchers / researcher / "workspace"

    def databases(self) -> dict[str, Path]:
        """Every store that exists, by the name of its owner."""
        found = {
            "director": self.director_db,
            "scheduler": self.scheduler_db,
            "forum": self.forum_db,
            "evaluator": self.evaluator_db,
            "gateway": self.gateway_db,
        }
        if self.researchers.exists():
            for directory in sorted(self.researchers.iterdir()):
                found[f"researcher/{directory.name}"] = directory / "researcher.db"
        return {name: path for name, path in found.items() if path.exists()}
