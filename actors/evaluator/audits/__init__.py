"""Audits of finalists: trials without what an honest method needs, and what their results mean."""

from __future__ import annotations

from actors.evaluator.audits.auditor import Auditor, AuditReport, InEarnest
from actors.evaluator.audits.material import Material
from actors.evaluator.audits.trials import TRIALS, Trial
from actors.evaluator.audits.verdicts import Evidence, Score, Spread, Verdict, overall, verdicts

__all__ = [
    "TRIALS",
    "AuditReport",
    "Auditor",
    "Evidence",
    "InEarnest",
    "Material",
    "Score",
    "Spread",
    "Trial",
    "Verdict",
    "overall",
    "verdicts",
]
