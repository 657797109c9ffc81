from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_pool.weak_to_strong.errors import ItemError
from gpu_pool.weak_to_strong.formats import PUBLISHED, PromptFormat
from gpu_pool.weak_to_strong.models.batches import split
from gpu_pool.weak_to_strong.tokens import TokenTable

ROWS = st.lists(st.lists(st.integers(0, 1 << 30), max_size=9), max_size=12)


@settings(max_examples=25, deadline=None)
@given(ROWS)
def test_a_table_survives_its_file(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]]) -> None:
    path = tmp_path_factory.mktemp("tokens") / "t.arrow"
    table = TokenTable.of(rows, cut=[len(row) > 4 for row in rows])
    table.save(path)
    loaded = TokenTable.load(path)
    assert [row.tolist() for row in loaded] == rows
    assert loaded.truncated == sum(len(row) > 4 for row in rows)
    assert loaded.cut.tolist() == table.cut.tolist()
    assert loaded.lengths.tolist() == [len(row) for row in rows]


def test_a_loaded_table_stays_in_the_file_and_a_part_shares_its_ids(tmp_path: Path) -> None:
    TokenTable.of([[1, 2], [3], [4, 5, 6]]).save(tmp_path / "t")
    table = TokenTable.load(tmp_path / "t")
    address = table[0].__array_interface__["data"][0]
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = [line for line in maps if line[-1] == str(tmp_path / "t")]
    assert any(int(a, 16) <= address < int(b, 16) for a, b in (line[0].split("-") for line in mapped))
    part = table.take(np.array([True, False, True])).take([1])
    assert part[0].tolist() == [4, 5, 6]
    assert np.shares_memory(part[0], table[2])
    part.save(tmp_path / "part")
    assert [row.tolist() for row in TokenTable.load(tmp_path / "part")] == [[4, 5, 6]]


def test_a_part_counts_its_own_cut_texts() -> None:
    table = TokenTable.of([[1], [2], [3], [4]], cut=[True, False, True, True])
    assert (table.truncated, table.take([1, 2]).truncated, table[:2].truncated) == (3, 1, 1)
    assert table.take([1, 2]).take([0]).truncated == 0
    with pytest.raises(ItemError, match="cut has shape"):
        TokenTable.of([[1], [2]], cut=[True])


def test_padding_is_on_the_right() -> None:
    table = TokenTable.of([[1, 2], [3], [4, 5, 6]])
    assert table.padded(np.array([1, 0])).tolist() == [[3, 0], [1, 2]]


def test_other_files_and_bad_offsets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"no arrow")
    for name in ("bad", "missing"):
        with pytest.raises(ItemError, match=name):
            TokenTable.load(tmp_path / name)
    for offsets in ([0, 2], [1, 3], [0, 4, 3]):
        with pytest.raises(ItemError):
            TokenTable([1, 2, 3], offsets)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_parts_cover_a_batch_once_within_the_budget(lengths: list[int], budget: int) -> None:
    sizes = np.array(lengths)
    parts = split(np.arange(len(sizes)), sizes, budget)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(sizes)))
    assert all(len(part) == 1 or len(part) * sizes[part].max() <= budget for part in parts)


def test_published_texts_are_concatenated_as_they_are() -> None:
    fmt = PUBLISHED["binary"]
    assert fmt.text("2+2?", "4", "") == "Question: 2+2?\nAnswer: 4\nLabel:"
    assert fmt.labels == ("False", "True")
    pair = PUBLISHED["pair"]
    assert pair.text("q", "a", "b").endswith("Answer B: b\nLabel:")
    assert pair.labels == ("A", "B")
    assert pair.answers(prior=True) == (" True", " False")  # the claim speaks for A, so True means label 0


def test_prior_labels_and_chat_survive_the_file_and_old_files_load(tmp_path: Path) -> None:
    fmt = PromptFormat("{prompt}", "?", "??", ("a", "b"), ("c", "d"), chat=True)
    fmt.save(tmp_path / "p")
    assert PromptFormat.load(tmp_path / "p") == fmt
    (tmp_path / "p").write_text('{"body": "{prompt}", "ask": "?", "ask_prior": "??", "labels": ["a", "b"]}')
    assert PromptFormat.load(tmp_path / "p") == PromptFormat("{prompt}", "?", "??", ("a", "b"))
    for labels in ('["a"]', '"ab"', "[1, 2]"):
        (tmp_path / "p").write_text(f'{{"body": "", "ask": "?", "ask_prior": "??", "labels": {labels}}}')
        with pytest.raises(ItemError):
            PromptFormat.load(tmp_path / "p")
