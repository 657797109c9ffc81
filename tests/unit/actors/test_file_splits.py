"""Pools of a task from files: apart by question, silent, of the sizes that its data give, refused when too small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.evaluator.file_domain import FileDomain, read_domain
from actors.evaluator.file_split_shapes import Shape
from actors.evaluator.file_splits import carve
from actors.evaluator.secret import Secret
from actors.evaluator.splits import SPLITS, Splits
from cluster.config import Task, TaskFiles
from gpu_pool.weak_to_strong.errors import TaskError
from tests.unit.actors.task_files import made_up, write_rows

SECRET = Secret(bytes(range(32)))
Rows = dict[str, list[dict[str, Any]]]


def rows(**changes: list[dict[str, Any]]) -> Rows:
    return {
        "train_label": made_up(50, "taught"),
        "train_unlabel": made_up(200, "free"),
        "test": made_up(60, "asked"),
        **changes,
    }


def section(path: Path, **more: Any) -> Task:
    return Task(domains=("lab",), files={"lab": TaskFiles(path=str(path), weak="w", strong="s", **more)})


def splits(folder: Path, some: Rows | None = None, secret: Secret = SECRET, **more: Any) -> Splits:
    return Splits(secret, read_domain(section(write_rows(folder, some or rows()), **more), "lab"))


def test_sizes_come_from_the_data_and_seal_is_the_whole_test_split(tmp_path: Path) -> None:
    found = splits(tmp_path)
    assert {name: len(found.split(name)) for name in SPLITS} == {
        "train_label": 50, "pool_a": 60, "pool_b": 60, "dev": 40, "board": 40, "seal": 60,
    }  # fmt: skip
    assert len(found.unlabelled()) == 120


def test_dev_and_board_stop_at_1300_items(tmp_path: Path) -> None:
    found = splits(tmp_path, rows(train_unlabel=made_up(6826, "free")))
    assert [len(found.split(name)) for name in ("dev", "board", "pool_a", "pool_b")] == [1300, 1300, 2113, 2113]


def test_every_item_keeps_its_label_and_is_in_one_pool(tmp_path: Path) -> None:
    some = rows()
    truth = {(r["prompt"], r["first"], r["second"]): "AB".index(r["label"]) for part in some.values() for r in part}
    found = splits(tmp_path, some)
    seen = [
        ((item.prompt, item.first, item.second), label)
        for name in SPLITS
        for item, label in zip(found.split(name).items, found.split(name).labels.tolist(), strict=True)
    ]
    assert dict(seen) == truth
    assert len(seen) == len(truth)


def test_one_question_is_in_one_pool_whether_prompts_or_groups_link_its_items(tmp_path: Path) -> None:
    candidates = [
        {"question": f"  sum {i // 4} ", "choice": str(i), "label": bool(i % 2), "group": f"g{i // 8}"}
        for i in range(240)
    ]
    candidates[3]["question"] = "sum  0"  # the same but for white space
    other = {"train_label": made_up(50, "taught", "binary"), "test": made_up(60, "asked", "binary")}
    found = splits(tmp_path, {**other, "train_unlabel": candidates})
    pools: dict[int, set[str]] = {}
    for name in ("pool_a", "pool_b", "dev", "board"):
        split = found.split(name)
        for item, group in zip(split.items, split.groups.tolist(), strict=True):
            pools.setdefault(int(item.first) // 8, set()).add(f"{name}/{group}")
    assert len(pools) == 30
    assert all(len(places) == 1 for places in pools.values()), "one pool and one group number for each question"


def test_the_test_split_keeps_a_question_that_a_group_links_to_training_items(tmp_path: Path) -> None:
    some = rows()
    some["test"][0]["group"] = some["train_unlabel"][0]["group"] = some["train_label"][7]["group"] = "shared"
    some["train_unlabel"][1]["prompt"] = some["train_unlabel"][0]["prompt"]  # linked by way of the other
    found = splits(tmp_path, some)
    assert len(found.split("seal")) == 60
    assert len(found.split("train_label")) == 49
    assert sum(len(found.split(name)) for name in ("pool_a", "pool_b", "dev", "board")) == 198


def test_an_item_is_there_once_also_with_its_answers_exchanged(tmp_path: Path) -> None:
    some = rows()
    twin = some["train_unlabel"][0]
    mirrored = {**twin, "first": twin["second"], "second": twin["first"], "label": "BA"["AB".index(twin["label"])]}
    some["train_unlabel"] += [dict(twin), mirrored]
    found = splits(tmp_path, some)
    assert sum(len(found.split(name)) for name in ("pool_a", "pool_b", "dev", "board")) == 200


def test_items_carry_neither_the_files_ids_nor_its_groups(tmp_path: Path) -> None:
    some = rows()
    for split in some.values():
        for number, one in enumerate(split):
            one.update(id=f"key-{one['label']}-{number}", group=f"answer-{one['label']}-{number}")
    found = splits(tmp_path, some)
    for name in SPLITS:
        items = found.split(name).items
        assert items.groups is None
        assert not any("key" in id_ for id_ in items.ids)
        assert {len(id_) for id_ in items.ids} == {16}
    ids = [id_ for name in SPLITS for id_ in found.split(name).items.ids]
    assert len(set(ids)) == len(ids)


def test_the_secret_decides_who_is_where_and_nothing_else_does(tmp_path: Path) -> None:
    one, again = splits(tmp_path / "one"), splits(tmp_path / "again")
    other = splits(tmp_path / "other", secret=Secret(bytes(32)))
    for name in SPLITS:
        assert one.split(name).items == again.split(name).items
        assert np.array_equal(one.split(name).labels, again.split(name).labels)
    assert set(one.split("dev").items.prompts) != set(other.split("dev").items.prompts)
    assert set(one.split("seal").items.prompts) == set(other.split("seal").items.prompts)
    assert one.data_version() == again.data_version() != other.data_version()


@pytest.mark.parametrize("change", ["label", "text", "protocol"])
def test_the_data_version_tells_a_changed_label_text_or_protocol(tmp_path: Path, change: str) -> None:
    some, more = rows(), dict[str, Any]()
    if change == "label":
        some["test"][0]["label"] = "BA"["AB".index(some["test"][0]["label"])]
    elif change == "text":
        some["test"][0]["first"] += "!"
    else:
        more = {"protocol": {"epochs": 1}}
    assert splits(tmp_path / "a").data_version() != splits(tmp_path / "b", some, **more).data_version()


def test_what_cannot_be_scored_is_refused_with_the_remedy(tmp_path: Path) -> None:
    unknown = [{**one, "label": None} for one in made_up(200, "free")]
    coarse = [{**one, "group": "chat"} for one in made_up(200, "free")]
    one_class = [{**one, "label": "A"} for one in made_up(200, "free")]
    one_class[0]["label"] = "B"
    refused = {
        "train_unlabel has no labels: DEV and BOARD": unknown,
        "would have 0 items, expected at least 20: give more items, and no field `group`": coarse,
        "would have one class only": one_class,
        "would have 15 items, expected at least 20": made_up(50, "free"),
    }
    for number, (message, free) in enumerate(refused.items()):
        with pytest.raises(TaskError, match=message):
            splits(tmp_path / str(number), rows(train_unlabel=free))


def test_a_broken_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    some = rows()
    some["test"][4]["label"] = "C"
    with pytest.raises(TaskError, match=r"test\.jsonl:5: label is 'C', expected .*\"A\" or \"B\""):
        splits(tmp_path, some)


def test_a_name_of_files_hides_the_generated_domain_and_others_stay_generated(tmp_path: Path) -> None:
    files = {"math": TaskFiles(path=str(write_rows(tmp_path, rows())), weak="w", strong="s")}
    both = Task(domains=("math", "chat"), files=files)
    assert isinstance(read_domain(both, "math"), FileDomain)
    assert read_domain(both, "math").kind == "pair"
    assert not isinstance(read_domain(both, "chat"), FileDomain)


def secrets(count: int) -> list[Secret]:
    return [Secret(number.to_bytes(32, "big")) for number in range(count)]


def binary(count: int, name: str, positive: int) -> list[dict[str, Any]]:
    """Rows of which the first `positive` are of the second class."""
    return [{"question": f"{name} {i}", "choice": "x", "label": i < positive} for i in range(count)]


def grouped(sizes: list[int], labels: Any = lambda i: bool(i % 2)) -> list[dict[str, Any]]:
    """Rows of groups of these sizes."""
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    return [
        {"question": f"free {i}", "choice": "x", "label": labels(i), "group": group} for i, group in enumerate(groups)
    ]


TASKS = {
    "3 % of one class": binary(400, "free", 12),
    "four items of one class": binary(400, "free", 4),
    "all but four of one class": binary(400, "free", 396),
    "groups of 18": grouped([18] * 11 + [2]),
    "groups of 4, just enough": grouped([4] * 27 + [2]),
    "four groups": grouped([25] * 4),
    "unequal groups": grouped([60, 30, 20, *[1] * 24]),
    "groups of one class each": grouped([10] * 12, lambda i: (i // 10) % 3 == 0),
    "as small as can be": binary(80, "free", 4),
}


@pytest.mark.parametrize("about", TASKS)
def test_what_one_secret_can_carve_every_secret_can(about: str, tmp_path: Path) -> None:
    other = {"train_label": binary(50, "taught", 25), "test": binary(60, "asked", 30)}
    domain = read_domain(section(write_rows(tmp_path, {**other, "train_unlabel": TASKS[about]})), "lab")
    assert isinstance(domain, FileDomain)
    seen = set()
    for secret in secrets(24):
        pools = carve(domain.task, secret, "lab")
        carved = [pools[name] for name in ("dev", "board", "pool_a", "pool_b")]
        assert all(len(pool.items) >= 20 and set(pool.labels.tolist()) == {0, 1} for pool in carved)
        assert sum(len(pool.items) for pool in carved) == len(TASKS[about])
        seen.add(frozenset(pools["dev"].items.prompts))
    assert len(seen) > (3 if about == "four groups" else 8), "the secret still decides who is where"


@pytest.mark.parametrize(
    "some", [binary(400, "free", 3), binary(79, "free", 30), grouped([100, 100, 100]), grouped([50, 40, 10, 10, 9])]
)
def test_what_cannot_be_carved_is_refused_for_every_secret(some: list[dict[str, Any]], tmp_path: Path) -> None:
    other = {"train_label": binary(50, "taught", 25), "test": binary(60, "asked", 30)}
    domain = read_domain(section(write_rows(tmp_path, {**other, "train_unlabel": some})), "lab")
    assert isinstance(domain, FileDomain)
    for secret in secrets(6):
        with pytest.raises(TaskError, match="carved out of train_unlabel"):
            carve(domain.task, secret, "lab")


@given(
    st.lists(st.integers(1, 30), min_size=4, max_size=40),
    st.lists(st.integers(0, 1), min_size=4, max_size=40),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=40)
def test_an_order_that_fits_is_never_found_where_the_files_alone_say_there_is_none(
    sizes: list[int], pure: list[int], seed: int
) -> None:
    numbers = np.array(sizes)
    positives = np.array([size * flag for size, flag in zip(sizes, (pure * 10)[: len(sizes)], strict=True)])
    total = int(numbers.sum())
    ends = np.array([int(0.2 * total), 2 * int(0.2 * total), int(0.7 * total)])
    shape = Shape(np.arange(len(sizes)), numbers, positives, ends, 20)
    known = shape.known_to_fit()
    assert known is None or shape.fits(known)
    if known is not None:
        assert shape.fits(shape.shuffled(known, np.random.default_rng(seed)))
    rng = np.random.default_rng(seed)
    lucky = any(shape.fits(shape.laid(rng.permutation(len(sizes)))) for _ in range(20))
    assert known is not None or not lucky


def test_an_instruction_that_all_items_share_is_no_question(tmp_path: Path) -> None:
    texts = [f"a film that is {i} minutes long" for i in range(700)]
    reviews = [
        {"question": "Is this\n review favourable?", "choice": t, "label": i % 3 == 0} for i, t in enumerate(texts)
    ]
    twice = {**reviews[0], "question": " Is this review  favourable?"}
    parts = {"train_label": [*reviews[:100], twice], "train_unlabel": [*reviews[100:600], twice], "test": reviews[600:]}
    found = splits(tmp_path, parts)
    assert {name: len(found.split(name)) for name in ("train_label", "dev", "board", "seal")} == {
        "train_label": 100, "dev": 100, "board": 100, "seal": 100,
    }  # fmt: skip
    seen = [text for name in SPLITS for text in found.split(name).items.firsts]
    assert len(seen) == len(set(seen)) > 600
    assert all(len(np.unique(found.split(name).groups)) == len(found.split(name)) for name in SPLITS)


def test_a_group_makes_one_question_of_items_with_a_shared_instruction(tmp_path: Path) -> None:
    reviews = [
        {"question": "Favourable?", "choice": f"text {i}", "label": bool(i % 2), "group": f"film {i // 3}"}
        for i in range(2400)
    ]
    found = splits(tmp_path, {"train_label": reviews[:90], "train_unlabel": reviews[90:2301], "test": reviews[2301:]})
    films = {name: {int(text.split()[1]) // 3 for text in found.split(name).items.firsts} for name in SPLITS}
    assert sum(map(len, films.values())) == len(set().union(*films.values()))
    assert len(films["pool_a"]) == len(found.split("pool_a")), "one item a film"
