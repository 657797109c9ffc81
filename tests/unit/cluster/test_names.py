from __future__ import annotations

import unicodedata
from contextlib import closing
from pathlib import Path

import pytest

from cluster.names import campaign_name_fault
from cluster.store import Store, open_readonly


@pytest.mark.parametrize("name", ["quickstart", "käml", "数学-2", "a.b_c", "x" * 120])
def test_letters_of_any_script_name_a_campaign(name: str) -> None:
    assert campaign_name_fault(name) is None


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "a/b", "a b", "a\nb", "a\u202eb", "x" * 121, "ä" * 61, unicodedata.normalize("NFD", "ä")],
)
def test_what_would_be_no_folder_or_look_like_another_is_refused(name: str) -> None:
    assert campaign_name_fault(name)


@pytest.mark.parametrize("folder", ["a b", "50%41", "what?mode=rw", "a#b", "käml"])
def test_a_store_is_read_under_any_path(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "x.db"
    Store(path).close()
    with closing(open_readonly(path)) as db:
        assert db.execute("SELECT count(*) FROM once").fetchone()[0] == 0
