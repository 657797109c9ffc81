"""What guides say of the code is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from cluster.config.reference import MARK, reference
from cluster.config.schema import CampaignConfig

ROOT = Path(__file__).resolve().parents[3]
GUIDES = ("README.md", *(f"{name}/README.md" for name in (
    "cluster", "actors", "actors/evaluator", "gpu_pool/weak_to_strong", "scripts",
)))  # fmt: skip


def test_the_reference_of_fields_is_the_schemas() -> None:
    text = (ROOT / "cluster/README.md").read_text(encoding="utf-8")
    assert text.partition(MARK)[2].strip() == reference().strip(), "run: python -m cluster.config.reference"


def test_the_reference_names_every_section() -> None:
    table = reference()
    for section in CampaignConfig.model_fields:
        assert re.search(rf"`{section}\b", table), section
    assert "`task.files.NAME.protocol.lr`" in table
    assert "`budget.campaign.usd`" in table


def test_every_command_has_its_line() -> None:
    text = (ROOT / "scripts/README.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "scripts").rglob("*")):
        runs = path.suffix == ".sh" or (path.suffix == ".py" and "__main__" in path.read_text(encoding="utf-8"))
        assert not runs or f"`{path.relative_to(ROOT / 'scripts')}`" in text, path.name


def test_the_first_page_is_short_and_what_guides_name_is_there() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160
    for guide in GUIDES:
        text = (ROOT / guide).read_text(encoding="utf-8")
        for named in re.findall(
            r"`((?:scripts|actors|cluster|gpu_pool|forum_actor|tests)/[\w./-]+?\.(?:py|sh|md))\b", text
        ):
            assert (ROOT / named).exists(), f"{guide}: {named}"
