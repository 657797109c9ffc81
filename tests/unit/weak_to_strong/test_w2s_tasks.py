from __future__ import annotations

import ast
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpu_pool.library import library_files
from gpu_pool.weak_to_strong.errors import TaskError
from gpu_pool.weak_to_strong.formats import PUBLISHED
from gpu_pool.weak_to_strong.items import Item, ItemSet
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.tasks import SPLITS, Split, Task, generated_domain, load_task
from gpu_pool.weak_to_strong.tasks import jsonl as jsonl_module
from gpu_pool.weak_to_strong.tasks.artefacts import Artefacts
from gpu_pool.weak_to_strong.tasks.generated import generated_task
from gpu_pool.weak_to_strong.tasks.hub import hub_task
from gpu_pool.weak_to_strong.tasks.jsonl import read_jsonl
from gpu_pool.weak_to_strong.tasks.schema import Labels
from gpu_pool.weak_to_strong.tasks.tables import token_table
from tests.unit.weak_to_strong.conftest import tiny_domain

Rows = dict[str, list[dict[str, Any]]]


def turns(n: int) -> Labels:
    return (np.arange(n) % 2).astype(np.int8)


def split(name: str, n: int = 4, **changes: Any) -> Split:
    rows = [Item(f"{name}{i}", "pair", f"{name} prompt {i}", f"a{i}", f"b{i}") for i in range(n)]
    return Split(ItemSet.of(rows), changes.get("labels", turns(n)))


def task(**changes: Any) -> Task:
    splits = {name: changes.pop(name, split(name)) for name in SPLITS}
    return Task("made", changes.pop("kind", "pair"), **splits, **changes)


def binary_rows() -> Rows:
    return {
        name: [{"question": f"{name} {i // 2}", "choice": f"{i}", "label": bool(i % 2)} for i in range(4)]
        for name in SPLITS
    }


def pair_rows() -> Rows:
    return {
        name: [{"prompt": f"{name} {i}", "first": "x", "second": "y", "label": "AB"[i % 2]} for i in range(4)]
        for name in SPLITS
    }


def write(folder: Path, rows: Rows) -> Path:
    folder.mkdir(exist_ok=True)
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return folder


# The schema


def test_labels_are_zeros_and_ones_of_the_right_shape() -> None:
    with pytest.raises(TaskError, match=r"shape \(3,\), expected \(4,\)"):
        split("x", labels=np.zeros(3))
    with pytest.raises(TaskError, match="item 'x2' is 2"):
        split("x", labels=[0, 1, 2, 1])
    with pytest.raises(TaskError, match="item 'x1' is nan"):
        split("x", labels=[0, np.nan, 1, 1])
    labels = split("x", labels=[True, False, True, False]).labels
    assert labels is not None
    assert labels.dtype == np.int8
    with pytest.raises(ValueError, match="read-only"):
        labels[0] = 0


def test_a_split_takes_items_and_labels_together_and_never_shows_them() -> None:
    some = split("x").take([3, 0])
    assert some.items.ids == ("x3", "x0")
    assert some.labels is not None
    assert some.labels.tolist() == [1, 0]
    assert split("x").take(np.array([False, True, False, False])).items.ids == ("x1",)
    assert "prompt" not in repr(task())
    assert "label" not in repr(split("x"))


def test_only_the_unlabelled_split_may_go_without_labels() -> None:
    assert task(train_unlabel=split("u", labels=None)).train_unlabel.labels is None
    with pytest.raises(TaskError, match="train_label has no labels: the teacher"):
        task(train_label=split("l", labels=None))
    with pytest.raises(TaskError, match="test has no labels"):
        task(test=split("t", labels=None))


@pytest.mark.parametrize("name", SPLITS)
def test_one_class_only_and_empty_splits_are_refused_by_name(name: str) -> None:
    with pytest.raises(TaskError, match=f"{name} has one class only: all 4 labels are 1"):
        task(**{name: split("x", labels=np.ones(4))})
    empty = Split(split("x").items.take([]), turns(0))
    with pytest.raises(TaskError, match=f"{name} is empty"):
        task(**{name: empty})


def test_mixed_kinds_and_shared_ids_are_refused() -> None:
    binary = Split(ItemSet.of([Item(str(i), "binary", f"q{i}", "c") for i in range(2)]), turns(2))
    with pytest.raises(TaskError, match="test holds binary items, the task is pair"):
        task(test=binary)
    with pytest.raises(TaskError, match="kind is 'triple'"):
        task(kind="triple")
    twice = ItemSet.of([Item(f"test{i}", "pair", f"new {i}", "a", "b") for i in range(4)])
    with pytest.raises(TaskError, match="'test0' occurs in train_label too"):
        task(train_label=Split(twice, turns(4)))


def test_a_prompt_stays_in_test_then_in_train_label() -> None:
    prompts = {"train_label": "abcde", "train_unlabel": "acfgh", "test": "abij "}
    splits = {
        name: Split(ItemSet.of([Item(name + p, "pair", p, "x", "y") for p in letters]), turns(len(letters)))
        for name, letters in prompts.items()
    }
    made = task(**splits)
    assert ["".join(s.items.prompts) for s in made.splits.values()] == ["cde", "fgh", "abij "]
    assert made.notes == (
        "train_label: 2 with prompts of test dropped, 3 left",
        "train_unlabel: 1 with prompts of test, 1 with prompts of train_label dropped, 3 left",
    )
    assert made.train_label.labels is not None
    assert made.train_label.labels.tolist() == [0, 1, 0]


def test_prompts_that_differ_in_white_space_only_are_the_same() -> None:
    items = ItemSet.of([Item("n", "pair", " test  prompt\n0", "x", "y"), *split("train_unlabel").items])
    made = task(train_unlabel=Split(items, None))
    assert made.train_unlabel.items.ids == split("train_unlabel").items.ids


def test_a_split_that_loses_all_its_items_says_why() -> None:
    same = ItemSet.of([Item(f"u{i}", "pair", p, "x", "y") for i, p in enumerate(split("test").items.prompts)])
    with pytest.raises(TaskError, match=r"train_unlabel is empty: .*4 with prompts of test dropped"):
        task(train_unlabel=Split(same, None))


def test_several_items_of_one_prompt_may_share_a_split() -> None:
    items = ItemSet.of([Item(f"t{i}", "pair", "one prompt", f"a{i}", "b") for i in range(4)])
    assert len(task(test=Split(items, turns(4))).test) == 4


def test_content_hash_depends_on_items_labels_and_format_alone() -> None:
    flipped = task(test=split("test", labels=[1, 0, 0, 1]))
    unknown = task(train_unlabel=split("train_unlabel", labels=None))
    fewer = task().with_unlabelled(3)
    others = [flipped, unknown, fewer, task(fmt=PUBLISHED["pair"])]
    assert task().content_hash == task(notes=("n",)).content_hash == replace(task(), name="other").content_hash
    assert len({task().content_hash, *(other.content_hash for other in others)}) == 5


def test_with_unlabelled_draws_items_with_their_labels_in_order() -> None:
    whole = task(train_unlabel=split("u", n=50))
    part = whole.with_unlabelled(20, seed=1).train_unlabel
    places = [whole.train_unlabel.items.ids.index(id_) for id_ in part.items.ids]
    assert places == sorted(places)
    assert part.labels is not None
    assert part.labels.tolist() == [place % 2 for place in places]
    assert whole.with_unlabelled(20, seed=2).train_unlabel.items.ids != part.items.ids
    with pytest.raises(TaskError, match="has 50 items, 51 were asked for"):
        whole.with_unlabelled(51)


@pytest.mark.parametrize("known", [True, False])
def test_a_saved_task_comes_back_equal_with_its_labels_apart_and_private(tmp_path: Path, known: bool) -> None:
    unlabelled = split("u", labels=turns(4) if known else None)
    made = task(train_unlabel=unlabelled, fmt=PUBLISHED["pair"], notes=("a note",))
    made.save(tmp_path / "deep" / "task")
    again = load_task(str(tmp_path / "deep" / "task"))
    assert again.content_hash == made.content_hash
    assert (again.name, again.notes, again.fmt) == (made.name, made.notes, made.fmt)
    assert (again.train_unlabel.labels is not None) == known
    assert (tmp_path / "deep" / "task" / "labels.safetensors").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["task"]
    with pytest.raises(TaskError, match="not empty"):
        made.save(tmp_path / "deep" / "task")


def test_a_saved_task_that_was_changed_or_lost_a_file_is_refused(tmp_path: Path) -> None:
    task().save(tmp_path / "a")
    task().save(tmp_path / "b")
    task(test=split("test", labels=[1, 0, 0, 1])).save(tmp_path / "c")
    (tmp_path / "a" / "test.arrow").unlink()
    (tmp_path / "c" / "labels.safetensors").rename(tmp_path / "b" / "labels.safetensors")
    with pytest.raises(TaskError, match="not a saved task"):
        Task.load(tmp_path / "a")
    with pytest.raises(TaskError, match="changed since it was saved"):
        Task.load(tmp_path / "b")


def test_no_sandbox_gets_this_package_or_imports_it() -> None:
    files = library_files()
    assert not [name for name in files if "/tasks/" in name]
    for name, source in files.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                assert not {"domains", "tasks"} & set((node.module or "").split(".")), name


# JSON lines


@pytest.mark.parametrize(("rows", "kind"), [(binary_rows(), "binary"), (pair_rows(), "pair")])
def test_both_published_formats_are_read_from_a_folder(tmp_path: Path, rows: Rows, kind: str) -> None:
    made = load_task(str(write(tmp_path / "some", rows)))
    assert (made.name, made.kind, made.notes) == ("some", kind, ())
    for name, part in made.splits.items():
        assert part.labels is not None
        assert part.labels.tolist() == [0, 1, 0, 1]
        assert part.items.prompts[0] == f"{name} 0"
    item = made.test.items[1]
    assert (item.first, item.second) == (("1", "") if kind == "binary" else ("x", "y"))


def test_one_file_with_a_field_for_the_split_gives_the_same_task(tmp_path: Path) -> None:
    rows = binary_rows()
    for name, some in rows.items():
        for number, row in enumerate(some):
            row.update(id=f"{name}-{number}")
    folder = read_jsonl(write(tmp_path / "some", rows))
    lines = [json.dumps({"split": name, **row}) for name, some in rows.items() for row in some]
    (tmp_path / "all.jsonl").write_text("\ufeff\n" + "\n \n".join(reversed(lines)), encoding="utf-8")
    single = load_task(str(tmp_path / "all.jsonl"))
    assert set(single.test.items) == set(folder.test.items)
    assert single.name == "all"


def test_ids_groups_and_numbers_as_labels_are_taken_over(tmp_path: Path) -> None:
    rows = binary_rows()
    for name, some in rows.items():
        for number, row in enumerate(some):
            row.update(id=f"{name}{number}", label=int(row["label"]), answer="42")
    for number, row in enumerate(rows["test"]):
        row["consistency_id"] = number % 3
    rows["test"][0]["group"] = "g"
    made = read_jsonl(write(tmp_path / "some", rows))
    assert made.test.items.ids == ("test0", "test1", "test2", "test3")
    assert made.test.items.groups == ("g", "1", "2", "0")
    assert made.train_label.items.groups is None


def test_ids_counted_anew_in_each_file_get_the_name_of_their_split(tmp_path: Path) -> None:
    rows = {name: [{**row, "id": i} for i, row in enumerate(some)] for name, some in binary_rows().items()}
    made = read_jsonl(write(tmp_path / "some", rows))
    assert made.test.items.ids[0] == "test/0"
    assert made.train_label.items.ids[3] == "train_label/3"
    assert "several splits" in made.notes[0]


@pytest.mark.parametrize("hidden", [{"label": -1}, {"label": None}, {}])
def test_hidden_labels_are_allowed_where_students_train_and_nowhere_else(
    tmp_path: Path, hidden: dict[str, Any]
) -> None:
    rows = binary_rows()
    bare = [{"question": row["question"], "choice": row["choice"], **hidden} for row in rows["train_unlabel"]]
    assert read_jsonl(write(tmp_path / "a", {**rows, "train_unlabel": bare})).train_unlabel.labels is None
    with pytest.raises(TaskError, match=r"test.jsonl:1: test row without a label \(4 of 4\)"):
        read_jsonl(write(tmp_path / "b", {**rows, "test": bare}))
    mixed = [*rows["train_unlabel"][:3], *bare[3:]]
    with pytest.raises(TaskError, match=r"train_unlabel.jsonl:4: .*label all rows of this split or none"):
        read_jsonl(write(tmp_path / "c", {**rows, "train_unlabel": mixed}))


GOOD = {"question": "new", "choice": "c", "label": True}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"question": "q", "choice"', "not a JSON object in one line"),
        (b"[1, 2]", r"expected an object with question/choice .*found \[1, 2\]"),
        (b'{"question": "q", "label": 1}', "found the fields question, label"),
        (b'{"question": "q", "choice": 3, "label": 1}', "choice is 3, expected a text"),
        (json.dumps({**GOOD, "label": "A"}).encode(), "label is 'A', expected true or false, 0 or 1$"),
        (json.dumps({**GOOD, "label": 2}).encode(), "label is 2"),
        (json.dumps({**GOOD, "label": 0.5}).encode(), "label is 0.5"),
        (json.dumps({**GOOD, "id": [1]}).encode(), "id is"),
        (json.dumps({**GOOD, "group": ""}).encode(), "group is ''"),
        (b'{"question": "\xff", "choice": "c", "label": 1}', "byte 15 of the line is not UTF-8"),
        (b'{"question": "\\ud800", "choice": "c", "label": 1}', "half a character"),
        (
            b'{"prompt": "p", "first": "a", "second": "b", "label": 1}',
            "a pair row, but .*train_label.jsonl:1 is binary",
        ),
        (b"[" * 100_000, "not a JSON object"),
        (b'{"question": "q", "choice": "c", "label": 1, "id": "test-2"}', "id 'test-2' is that of .*test.jsonl:2 too"),
        (b"x" * 3000, "longer than 2000 bytes"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(
    tmp_path: Path, line: bytes, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if complaint.startswith("longer"):
        monkeypatch.setattr(jsonl_module, "MAX_LINE_BYTES", 2000)
    folder = write(tmp_path / "some", binary_rows())
    with (folder / "test.jsonl").open("ab") as file:
        file.write(b"\n\n" + line + b"\n")
    with pytest.raises(TaskError, match=complaint) as caught:
        read_jsonl(folder)
    assert str(caught.value).startswith(f"{folder}/test.jsonl:7: ")


def test_a_pair_label_says_which_letters_are_expected(tmp_path: Path) -> None:
    rows = pair_rows()
    rows["test"][2]["label"] = "a"
    with pytest.raises(TaskError, match=r'test.jsonl:3: label is \'a\', expected true or false, 0 or 1, "A" or "B"'):
        read_jsonl(write(tmp_path / "some", rows))


def test_missing_files_splits_and_paths_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "some", {"test": binary_rows()["test"]})
    with pytest.raises(TaskError, match=r"has no train_label.jsonl, train_unlabel.jsonl"):
        load_task(str(folder))
    with pytest.raises(TaskError, match=r"test.jsonl:1: no field split, expected split to be one of train_label"):
        load_task(str(folder / "test.jsonl"))
    with pytest.raises(TaskError, match=r"no task 'nowhere'"):
        load_task("nowhere")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(TaskError, match="no rows at all"):
        load_task(str(tmp_path / "empty.jsonl"))
    write(folder, {**binary_rows(), "train_label": []})
    with pytest.raises(TaskError, match="train_label is empty"):
        load_task(str(folder))
    monkeypatch.setattr(jsonl_module, "MAX_FILE_BYTES", 100)
    with pytest.raises(TaskError, match="larger than 100 bytes"):
        load_task(str(write(folder, binary_rows())))


# Generated worlds


@pytest.mark.parametrize("name", ["chat", "math", "code"])
def test_a_generated_task_has_the_sizes_of_its_world_and_apart_prompts(name: str) -> None:
    domain = generated_domain(f"generated:{name}")
    assert domain is not None
    made = load_task(f"generated:{name}", seed=3)
    spec = domain.spec
    assert [len(part) for part in made.splits.values()] == [spec.labelled, spec.unlabelled, spec.test]
    assert (made.kind, made.fmt, made.notes) == (domain.kind, domain.prompt_format, ())
    prompts = [set(part.items.prompts) for part in made.splits.values()]
    assert len(set().union(*prompts)) == sum(map(len, prompts))
    rows = [(i.prompt, *sorted((i.first, i.second))) for part in made.splits.values() for i in part.items]
    assert len(set(rows)) == len(rows)
    assert made.train_unlabel.labels is not None
    assert 0.4 < made.train_unlabel.labels.mean() < 0.6


def test_generated_tasks_are_equal_by_seed_and_world() -> None:
    hashes = [
        load_task(f"generated:math{rest}", seed).content_hash for rest, seed in (("", 0), ("", 1), (":quick:1", 0))
    ]
    assert len(set(hashes)) == 3
    assert load_task("generated:math:quick:0").content_hash == hashes[0]


@pytest.mark.parametrize("spec", ["poetry", "math:huge", "math:quick:x", "math:quick:1:2", ""])
def test_worlds_that_do_not_exist_are_refused(spec: str) -> None:
    with pytest.raises(TaskError, match="expected generated:NAME"):
        load_task(f"generated:{spec}")


def test_other_tasks_have_no_world() -> None:
    assert generated_domain("path/to/generated") is None


def test_a_world_that_is_too_small_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = tiny_domain("math")
    few, labels = domain.sample(4, 0)
    monkeypatch.setattr(type(domain), "sample", lambda self, n, seed: (few.take(range(min(n, 4))), labels[: min(n, 4)]))
    with pytest.raises(TaskError, match="different items for test: the world is too small"):
        generated_task(domain)


# The hub


def fake_hub(monkeypatch: pytest.MonkeyPatch, data: object) -> list[tuple[str, ...]]:
    calls: list[tuple[str, ...]] = []

    def load_dataset(*args: str) -> object:
        calls.append(args)
        if isinstance(data, Exception):
            raise data
        return data

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_a_data_set_with_the_three_splits_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_hub(monkeypatch, binary_rows())
    made = load_task("hub:owner/name:part")
    assert calls == [("owner/name", "part")]
    assert made.name == "owner/name:part"
    assert made.test.items.prompts == ("test 0", "test 0", "test 1", "test 1")


def test_train_is_divided_by_prompt_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    train = [{"q": f"q{i // 4}", "a": str(i), "gold": i % 2} for i in range(80)]
    test = [{"q": f"t{i}", "a": "x", "gold": i % 2} for i in range(4)]
    calls = fake_hub(monkeypatch, {"train": train, "validation": test})
    columns = {"q": "question", "a": "choice", "gold": "label"}
    made, other = (hub_task("owner/name", None, seed, columns) for seed in (0, 1))
    assert calls[0] == ("owner/name",)
    assert (len(made.train_label), len(made.train_unlabel), len(made.test)) == (40, 40, 4)
    assert not set(made.train_label.items.prompts) & set(made.train_unlabel.items.prompts)
    assert made.notes == ("train was divided by prompt with seed 0; test is the split validation",)
    assert other.content_hash != made.content_hash


def test_a_broken_row_of_a_data_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = binary_rows()
    rows["test"][2]["label"] = "yes"
    fake_hub(monkeypatch, rows)
    with pytest.raises(TaskError, match=r"hub:owner/name\[test\]:2: label is 'yes'"):
        load_task("hub:owner/name")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"train": []}, "has the splits train, expected .*save it as JSON lines"),
        (ConnectionError("no route\nlong story"), r"cannot be loaded \(no route\): where there is a network"),
        ([], "is list, expected splits"),
    ],
)
def test_a_hub_that_cannot_help_says_what_to_do(monkeypatch: pytest.MonkeyPatch, data: object, complaint: str) -> None:
    fake_hub(monkeypatch, data)
    with pytest.raises(TaskError, match=complaint):
        load_task("hub:owner/name")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TaskError, match=r"pip install 'aar-cluster\[hub\]'"):
        load_task("hub:owner/name")


# Token tables


def test_token_tables_are_made_once_for_equal_items_format_and_tokenizer(
    tmp_path: Path, model: LabelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, _ = tiny_domain("chat").sample(12, 1)
    plain = {prior: model.tokenize(items, prior=prior) for prior in (False, True)}
    calls: list[int] = []
    tokenize = LabelModel.tokenize

    def counted(self: LabelModel, items: ItemSet, *, prior: bool = False) -> Any:
        calls.append(len(items))
        return tokenize(self, items, prior=prior)

    monkeypatch.setattr(LabelModel, "tokenize", counted)
    for artefacts, asked in ((Artefacts(tmp_path), model), (Artefacts(tmp_path), model.copy())):
        for prior in (False, True):
            table = token_table(artefacts, asked, items, prior=prior)
            assert [row.tolist() for row in table] == [row.tolist() for row in plain[prior]]
    assert calls == [12, 12]
    artefacts = Artefacts(tmp_path)
    token_table(artefacts, model, items.take(range(5)))
    assert calls[2:] == [5]


def test_another_format_or_length_is_another_table(tmp_path: Path, model: LabelModel, folder: Path) -> None:
    items, _ = tiny_domain("chat").sample(6, 1)
    artefacts = Artefacts(tmp_path)
    whole = token_table(artefacts, model, items)
    short = token_table(artefacts, LabelModel.load(folder, "pair", max_length=7), items)
    assert (whole.truncated, short.truncated, int(short.lengths.max())) == (0, 6, 7)
    other = LabelModel.load(folder, "pair", fmt=replace(model.fmt, ask=model.fmt.ask_prior))
    assert [row.tolist() for row in token_table(artefacts, other, items)] == [
        row.tolist() for row in token_table(artefacts, model, items, prior=True)
    ]
