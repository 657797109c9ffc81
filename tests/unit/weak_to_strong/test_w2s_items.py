from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_pool.weak_to_strong.errors import ItemError
from gpu_pool.weak_to_strong.formats import FORMATS, PromptFormat
from gpu_pool.weak_to_strong.items import Item, ItemSet

WORDS = st.text(max_size=20).filter(lambda text: "\x00" not in text)


def pairs(n: int = 3) -> ItemSet:
    return ItemSet.of([Item(f"i{k}", "pair", f"p{k}", f"a{k}", f"b{k}") for k in range(n)])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=6))
def test_arrow_roundtrip_keeps_every_item(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("items") / "items.arrow"
    items = ItemSet.of([Item(str(i), "pair", *row) for i, row in enumerate(rows)])
    items.save(path)
    assert ItemSet.load(path) == items


def test_item_file_has_no_label_column(tmp_path: Path) -> None:
    pairs().save(tmp_path / "i.arrow")
    with pa.ipc.open_file(str(tmp_path / "i.arrow")) as reader:
        assert reader.schema.names == ["id", "prompt", "first", "second"]


def test_file_with_another_column_or_garbage_is_refused(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "prompt": ["b"], "first": ["c"], "second": ["d"], "label": [1]})
    with pa.OSFile(str(tmp_path / "x"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "y").write_bytes(b"ARROW1 not really")
    for name in ("x", "y", "missing"):
        with pytest.raises(ItemError):
            ItemSet.load(tmp_path / name)


def test_swap_exchanges_answers_only_where_asked_and_undoes_itself() -> None:
    items = pairs()
    mask = np.array([True, False, True])
    swapped = items.swap(mask)
    assert [i.first for i in swapped] == ["b0", "a1", "b2"]
    assert swapped.ids == items.ids
    assert swapped.swap(mask) == items
    with pytest.raises(ItemError):
        ItemSet.of([Item("1", "binary", "q", "c")]).swap()


def test_take_accepts_indices_and_masks() -> None:
    items = pairs()
    assert items.take([2, 0]).ids == ("i2", "i0")
    assert items.take(np.array([False, True, False])).ids == ("i1",)


def test_item_text_is_never_a_template() -> None:
    fmt = FORMATS["binary"]
    assert fmt.text("{first}", "{0} {ask}", "") == "task {first} work {0} {ask} verdict"
    assert fmt.text("q", "c", "", prior=True) == "task q work c grade"


def test_duplicate_ids_and_mixed_kinds_are_refused() -> None:
    with pytest.raises(ItemError):
        ItemSet("pair", ("a", "a"), ("", ""), ("", ""), ("", ""))
    with pytest.raises(ItemError):
        ItemSet.of([Item("1", "pair", "", "", ""), Item("2", "binary", "", "")])


def test_prompt_format_roundtrip(tmp_path: Path) -> None:
    fmt = PromptFormat("Question: {prompt}\nAnswer: {first}", "\nLabel:", "\nTrue or false:", ("False", "True"))
    fmt.save(tmp_path / "p.json")
    assert PromptFormat.load(tmp_path / "p.json") == fmt
    (tmp_path / "bad.json").write_text('{"body": 1}')
    with pytest.raises(ItemError):
        PromptFormat.load(tmp_path / "bad.json")


def grouped() -> ItemSet:
    return ItemSet.of([Item(f"g{k}", "pair", f"p{k}", f"a{k}", f"b{k}", group=f"q{k // 2}") for k in range(4)])


def test_groups_survive_the_file_and_every_operation(tmp_path: Path) -> None:
    items = grouped()
    assert items.groups == ("q0", "q0", "q1", "q1")
    items.save(tmp_path / "items.arrow")
    assert ItemSet.load(tmp_path / "items.arrow") == items
    with pa.ipc.open_file(str(tmp_path / "items.arrow")) as reader:
        assert reader.schema.names == ["id", "prompt", "first", "second", "group"]
    assert items.take([3, 0]).groups == ("q1", "q0")
    assert items.swap().groups == items.groups
    assert items[2].group == "q1"
    assert ItemSet.of(list(items)) == items


def test_a_file_without_groups_loads_without_groups(tmp_path: Path) -> None:
    pairs().save(tmp_path / "items.arrow")
    items = ItemSet.load(tmp_path / "items.arrow")
    assert items.groups is None
    assert items[0].group is None


def test_sets_with_and_without_groups_are_joined_with_the_prompt_as_group() -> None:
    assert pairs(2).concat(grouped()).groups == ("p0", "p1", "q0", "q0", "q1", "q1")
    assert grouped().concat(pairs(1)).groups == ("q0", "q0", "q1", "q1", "p0")
    assert pairs(1).concat(ItemSet.of([Item("x", "pair", "p", "a", "b")])).groups is None
    with pytest.raises(ItemError, match="not unique"):
        pairs().concat(pairs())


def test_group_numbers_are_equal_within_a_group() -> None:
    assert grouped().group_index().tolist() == [0, 0, 1, 1]
    same_prompt = ItemSet.of([Item(str(k), "binary", prompt, "c") for k, prompt in enumerate("abab")])
    assert same_prompt.group_index().tolist() == [0, 1, 0, 1]


def test_groups_of_another_length_or_a_group_column_of_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="length"):
        ItemSet("pair", ("a",), ("",), ("",), ("",), ("g", "h"))
    table = pa.table({"id": ["a"], "prompt": ["b"], "first": ["c"], "second": ["d"], "group": [1]})
    table = table.replace_schema_metadata({"kind": "pair"})
    with pa.OSFile(str(tmp_path / "x"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ItemError, match="group"):
        ItemSet.load(tmp_path / "x")


def test_content_hash_tells_every_column_and_the_order() -> None:
    items = grouped()
    moved = ItemSet.of([Item("g0", "pair", "p", "ab", "c")]), ItemSet.of([Item("g0", "pair", "p", "a", "bc")])
    others = [items.take([0, 1, 3, 2]), items.take([0, 1]), items.swap(), pairs(4), *moved]
    others.append(ItemSet("pair", items.ids, items.prompts, items.firsts, items.seconds))
    assert items.content_hash() == grouped().content_hash()
    assert len({items.content_hash(), *(other.content_hash() for other in others)}) == len(others) + 1
