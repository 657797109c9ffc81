"""The splits, the secret and the answer batches: reproducible, disjoint, silent, and unbiased."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from actors.evaluator.blinded_batch import TWICE, BatchError, make_blinded_batch
from actors.evaluator.secret import Secret, SecretError
from actors.evaluator.splits import SPLITS, Splits, TruthError, split_sizes
from gpu_pool.weak_to_strong.items import ItemSet
from tests.unit.actors.evaluator_world import small_domain

SECRET = Secret(bytes(range(32)))


def splits(name: str = "chat", secret: Secret = SECRET) -> Splits:
    return Splits(secret, small_domain(name))


@pytest.mark.parametrize("name", ["chat", "math", "code"])
def test_no_prompt_is_in_two_splits_and_no_item_is_there_twice(name: str) -> None:
    found = splits(name)
    prompts = [set(found.split(s).items.prompts) for s in SPLITS]
    for index, one in enumerate(prompts):
        assert all(one.isdisjoint(other) for other in prompts[index + 1 :])
    for split in SPLITS:
        items = found.split(split).items
        assert len({(i.prompt, *sorted((i.first, i.second))) for i in items}) == len(items)
        assert len(items) == split_sizes(small_domain(name))[split]


@pytest.mark.parametrize("name", ["math", "code"])
def test_no_vote_can_be_held_over_the_works_of_one_problem(name: str) -> None:
    together = Splits(SECRET, small_domain(name)).unlabelled().items.prompts
    alone = Splits(SECRET, small_domain(name), alone=True).unlabelled()
    assert len(set(together)) < len(together) / 2
    assert len(set(alone.items.prompts)) == len(alone.items.prompts) == small_domain(name).spec.unlabelled
    assert 0.35 < alone.labels.mean() < 0.65


def test_duplicates_that_the_generator_makes_are_removed() -> None:
    class Repeating:
        """Gives every split mostly the same items."""

        def __init__(self) -> None:
            self._inner = small_domain("chat")
            self.spec, self.name = self._inner.spec, "chat"
            self.common = self._inner.sample(40, 7)

        def sample(self, n: int, seed: bytes) -> tuple[ItemSet, np.ndarray[tuple[int], np.dtype[np.int8]]]:
            items, labels = self._inner.sample(n, seed)
            old, old_labels = self.common
            mixed = ItemSet.of([*old, *items.take(np.arange(n - 40))])
            return mixed, np.concatenate([old_labels, labels[: n - 40]])

    found = Splits(SECRET, Repeating())  # type: ignore[arg-type]
    common = set(Repeating().common[0].prompts)
    held = [name for name in SPLITS if common & set(found.split(name).items.prompts)]
    assert held == ["train_label"]


def test_a_world_that_is_too_small_is_refused() -> None:
    class Tiny:
        def __init__(self) -> None:
            self._inner = small_domain("chat")
            self.spec, self.name = self._inner.spec, "chat"

        def sample(self, n: int, seed: bytes) -> tuple[ItemSet, np.ndarray[tuple[int], np.dtype[np.int8]]]:
            return self._inner.sample(n, 3)

    with pytest.raises(TruthError, match="distinct items for"):
        Splits(SECRET, Tiny())  # type: ignore[arg-type]


def test_the_same_secret_draws_the_same_pools_and_another_secret_others() -> None:
    one, again, other = splits(), splits(), splits(secret=Secret(bytes(32)))
    for name in SPLITS:
        assert one.split(name).items == again.split(name).items
        assert np.array_equal(one.split(name).labels, again.split(name).labels)
        assert not set(one.split(name).items.firsts) & set(other.split(name).items.firsts)
    assert one.data_version() == again.data_version() != other.data_version()


def test_texts_of_secret_vault_split_and_sheet_show_nothing() -> None:
    found = splits()
    split = found.split("seal")
    shown = repr(SECRET) + repr(found) + repr(split) + str(make_blinded_batch(SECRET, split, "x").order.shape)
    assert "array" not in shown
    assert bytes(range(32)).hex() not in shown


def test_groups_are_the_prompts() -> None:
    split = splits("math").split("board")
    for a in range(40):
        for b in range(40):
            same = split.items.prompts[a] == split.items.prompts[b]
            assert same == (split.groups[a] == split.groups[b])
    assert len(set(split.groups.tolist())) < len(split)


def test_unlabelled_items_are_pool_a_then_pool_b() -> None:
    found = splits()
    both = found.unlabelled()
    shown = len(found.split("pool_a"))
    assert both.items.take(np.arange(shown)) == found.split("pool_a").items
    assert np.array_equal(both.labels[shown:], found.split("pool_b").labels)


@pytest.mark.parametrize("name", ["chat", "math"])
def test_a_perfect_student_hits_every_item_whatever_the_order_and_the_swaps(name: str) -> None:
    split = splits(name).split("dev")
    truth = {}
    for item, label in zip(split.items, split.labels.tolist(), strict=True):
        truth[item.prompt, item.first, item.second] = label
        if item.kind == "pair":
            truth[item.prompt, item.second, item.first] = 1 - label
    for seed in range(3):
        batch = make_blinded_batch(SECRET, split, "someone", seed)
        labels = np.array([truth[i.prompt, i.first, i.second] for i in batch.items])
        probs = np.stack([1 - labels, labels], axis=1).astype(np.float32)
        assert batch.hits(probs, split).all()
        assert not batch.hits(1 - probs, split).any()


def test_hits_are_in_the_order_of_the_split() -> None:
    split = splits().split("dev")
    batch = make_blinded_batch(SECRET, split, "x")
    probs = np.full((len(batch.items), 2), 0.5, np.float32)
    right_at = 17
    positions = np.flatnonzero(batch.order == right_at)
    for answer in (0, 1):
        probs[positions] = (0.9, 0.1) if answer == 0 else (0.1, 0.9)
        wanted = answer == int(split.labels[right_at]) ^ int(batch.swapped[positions[0]])
        assert bool(batch.hits(probs, split)[right_at]) == wanted


def test_answering_always_the_same_is_chance() -> None:
    split = splits().split("seal")
    rates = []
    for seed in range(20):
        batch = make_blinded_batch(SECRET, split, "constant", seed)
        count = len(batch.items)
        first = np.tile(np.array([[0.9, 0.1]], np.float32), (count, 1))
        ties = np.full((count, 2), 0.5, np.float32)
        rates.append([batch.hits(p, split).mean() for p in (first, ties)])
    assert np.abs(np.mean(rates, axis=0) - 0.5).max() < 0.02


def test_each_sheet_has_its_own_order_ids_and_swaps_and_can_be_rebuilt() -> None:
    split = splits().split("dev")
    one, same, other = (make_blinded_batch(SECRET, split, "m", s) for s in (1, 1, 2))
    assert one.items == same.items
    assert not np.array_equal(one.order, other.order)
    assert set(one.items.ids).isdisjoint(other.items.ids)
    assert set(one.items.ids).isdisjoint(split.items.ids)
    assert 0.35 < one.swapped.mean() < 0.65


def test_some_items_are_asked_twice_and_answering_by_position_is_caught_by_them() -> None:
    split = splits().split("seal")
    batch = make_blinded_batch(SECRET, split, "position")
    count = len(batch.items)
    assert count == len(split) + TWICE
    assert len(set(batch.order.tolist())) == len(split)
    ramp = np.stack([np.linspace(0, 1, count), np.linspace(1, 0, count)], axis=1).astype(np.float32)
    with pytest.raises(BatchError, match="asked twice"):
        batch.hits(ramp, split)


@pytest.mark.parametrize(
    "probs",
    [
        np.full((3, 2), 0.5, np.float32),
        np.full((170, 2), np.nan, np.float32),
        np.full((170, 2), 2.0, np.float32),
        np.full((170, 2), -1.0, np.float32),
        np.ones((170, 2), np.int64),
        np.ones((170,), np.float32),
    ],
)
def test_what_is_no_probability_is_refused(probs: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    split = splits().split("dev")
    assert len(split) == 150
    with pytest.raises(BatchError):
        make_blinded_batch(SECRET, split, "x").hits(probs, split)


def test_secret_file_is_private_kept_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "judge" / "secret.bin"
    one = Secret.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert one.draw("a") == Secret.load_or_create(path).draw("a")
    path.write_bytes(b"short")
    with pytest.raises(SecretError):
        Secret.load_or_create(path)


def test_draws_differ_by_every_part_and_do_not_run_together() -> None:
    draws = {SECRET.draw("ab", "c"), SECRET.draw("a", "bc"), SECRET.draw("abc"), SECRET.draw("ab", "c", 0)}
    assert len(draws) == 4
    assert 0 <= SECRET.seed("x") < 2**31
    normals = [SECRET.normal("n", i) for i in range(2000)]
    assert abs(np.mean(normals)) < 0.08
    assert abs(np.std(normals) - 1) < 0.06


def test_sealed_bytes_open_only_under_their_name_and_secret() -> None:
    sealed = SECRET.seal("run/1", b"hits")
    assert SECRET.unseal("run/1", sealed) == b"hits"
    assert b"hits" not in sealed
    for secret, name, data in ((SECRET, "run/2", sealed), (Secret(os.urandom(32)), "run/1", sealed)):
        with pytest.raises(SecretError):
            secret.unseal(name, data)
