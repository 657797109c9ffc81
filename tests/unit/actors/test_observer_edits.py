"""Every single edit of a closed run is noticed; of an unfinished one it is noticed or the first line leaves it out."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.observer.audit_closing import audit_closing
from actors.observer.run_data import load_run
from actors.observer.verify import verify_run
from cluster.names import RunPaths
from tests.unit.actors.edit_matrix import Edit, applied, file_edits, table_edits
from tests.unit.actors.observer_run import campaign

DERIVED = ("summary.json", "report.html", "export/")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    root = tmp_path_factory.mktemp("closed") / "demo"
    campaign(root, researchers=1, rounds=1).finish()
    return RunPaths(root)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    root = tmp_path_factory.mktemp("open") / "demo"
    campaign(root, researchers=1, rounds=1).close()
    return RunPaths(root)


def _against_the_closing(paths: RunPaths, key: str) -> list[str]:
    """What the closing finds; enough for all that is not derived, and a fraction of the time of everything."""
    return [str(finding) for finding in audit_closing(load_run(paths.root), key, True).outcome(set())[1]]


def _missed(edits: list[Edit], paths: RunPaths) -> list[str]:
    missed, key = [], paths.public_key.read_text().strip()
    for edit in edits:
        with applied(edit):
            if not _against_the_closing(paths, key):
                missed.append(edit.name)
    return missed


def test_every_edit_of_a_table_of_a_closed_run_is_noticed(closed: RunPaths) -> None:
    edits = list(table_edits(closed))
    assert len({edit.table for edit in edits}) > 30
    assert _missed(edits, closed) == []
    assert verify_run(closed.root).ok


def test_every_edit_of_a_file_of_a_closed_run_is_noticed(closed: RunPaths) -> None:
    edits = list(file_edits(closed))
    assert len({edit.path for edit in edits}) > 40
    assert _missed(edits, closed) == []
    assert verify_run(closed.root).ok


@pytest.mark.parametrize("name", ["summary.json", "report.html", "export/posts.parquet", "export/records.parquet"])
def test_what_people_read_is_noticed_as_a_whole_when_it_is_not_what_the_journals_give(
    closed: RunPaths, name: str
) -> None:
    for edit in file_edits(closed):
        if edit.name in (f"{name}: last byte", f"{name}: gone"):
            with applied(edit):
                assert not verify_run(closed.root).ok, edit.name


def test_edits_of_an_unfinished_run_are_noticed_or_left_out_in_the_first_line(unfinished: RunPaths) -> None:
    title = verify_run(unfinished.root, going_on=True).title
    missed = []
    for edit in table_edits(unfinished):
        if _is_left_out(edit, title):
            continue
        with applied(edit):
            report = verify_run(unfinished.root, going_on=True)
            if report.ok and not _is_left_out(edit, report.title):  # a table that was planted is named there
                missed.append(edit.name)
    assert not missed, missed


def _is_left_out(edit: Edit, title: str) -> bool:
    """Whether the first line names the table, or the column of it."""
    store, _, table = edit.table.partition(".")
    name = f"{store.partition('/')[0]}.{table}"
    listed = title.split("closed: ")[-1]
    at = listed.find(f"{name}(")
    if at < 0:
        return name in [part.strip() for part in listed.split(",")]
    return edit.column in listed[at + len(name) + 1 : listed.index(")", at)].split(", ")


def test_the_matrix_makes_edits_for_a_table_and_a_file_that_nobody_foresaw(closed: RunPaths) -> None:
    known = {edit.table for edit in table_edits(closed)}
    assert {"forum.once", "evaluator.shelf", "scheduler.holders", "director.planted"} <= known
    assert any(edit.name.startswith(Path("leases/r000001-1/train/log.txt").as_posix()) for edit in file_edits(closed))
