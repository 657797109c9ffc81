"""In disguise a domain's texts mean nothing to a reader, and everything to the models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from actors.evaluator.disguise import Disguise, DisguiseError, with_states
from gpu_pool.weak_to_strong import LabelModel, MethodRun, blocks
from gpu_pool.weak_to_strong.domains import DOMAIN_NAMES, Domain, get_domain, write_pretrain_inputs
from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.pretrain import pretrain_model
from gpu_pool.weak_to_strong.run import RunParams
from tests.redteam.cheats import EXECUTING
from tests.redteam.test_planted import hardly_pretrained

CLOSE = 2e-4
"""Sums in another order, and thirty steps of training after them."""


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A strong model by domain, a few steps old."""
    made = {}
    for name in DOMAIN_NAMES:
        domain, home = hardly_pretrained(name), tmp_path_factory.mktemp(name)
        (home / "in").mkdir()
        params = write_pretrain_inputs(domain, "strong", home / "in")
        pretrain_model(home / "in", home / "model", params)
        made[name] = home / "model"
    return made


def disguise_of(domain: Domain, seed: int = 3) -> Disguise:
    return Disguise(domain, np.random.default_rng(seed))


@pytest.mark.parametrize("name", DOMAIN_NAMES)
def test_every_text_is_another_one_of_as_many_words(name: str) -> None:
    domain = get_domain(name, "quick", 0)
    items, _ = domain.sample(400, 5)
    shown = disguise_of(domain).items(items)
    for before, after in ((items.prompts, shown.prompts), (items.firsts, shown.firsts)):
        assert np.mean([one == other for one, other in zip(before, after, strict=True)]) < 0.01
        assert len(set(before)) == len(set(after)), "equal texts stay equal and no others become so"
    assert [len(row) for row in read(domain, items)] == [len(row) for row in read(domain, shown)]
    assert shown.ids == items.ids
    other = disguise_of(domain, 4).items(items)
    assert other.firsts != shown.firsts


def read(domain: Domain, items: ItemSet) -> list[list[int]]:
    """The tokens of the items' whole texts."""
    columns = zip(items.prompts, items.firsts, items.seconds, strict=True)
    rows = domain.tokenizer().encode_batch([domain.prompt_format.text(*texts) for texts in columns])
    return [row.ids for row in rows]


@pytest.mark.parametrize("name", DOMAIN_NAMES)
def test_the_disguised_model_says_of_disguised_items_what_the_model_says_trained_or_not(
    name: str, strong: dict[str, Path], tmp_path: Path
) -> None:
    domain = hardly_pretrained(name)
    disguise, (items, labels) = disguise_of(domain), domain.sample(160, 5)
    shown = disguise.items(items)
    disguise.model(strong[name], tmp_path / "disguised")
    plain = LabelModel.load(strong[name], domain.kind)
    turned = LabelModel.load(tmp_path / "disguised", domain.kind)
    assert np.abs(turned.zero_shot(shown) - plain.zero_shot(items)).max() < 1e-5
    hidden: npt.NDArray[np.float32] = plain.hidden(items)
    assert np.allclose(turned.hidden(shown), disguise.states(hidden), atol=1e-4)
    save_file({"hidden": hidden}, tmp_path / "features.safetensors")
    with_states(tmp_path / "features.safetensors", tmp_path / "turned.safetensors", disguise)
    assert np.array_equal(load_file(tmp_path / "turned.safetensors")["hidden"], disguise.states(hidden))
    said = [trained(model, given, labels) for model, given in ((plain, items), (turned, shown))]
    assert np.abs(said[0] - said[1]).max() < CLOSE
    assert np.abs(said[0] - plain.probs(items)).max() > 100 * CLOSE, "it was trained"


def trained(model: LabelModel, items: ItemSet, labels: Any) -> Any:
    """What a student says of the items that it was trained on."""
    weak = (0.8 * labels + 0.1).astype(np.float32)
    run = MethodRun(items, weak, model, RunParams(seed=1, epochs=2, lr=1e-3, batch=32, threads=1, trainable="full"))
    return run.student(run.fit(blocks.hard(run.weak))).predict(items)


@pytest.mark.parametrize("name", ["math", "code"])
def test_what_the_text_works_out_to_says_nothing_of_the_truth(name: str) -> None:
    domain = get_domain(name, "quick", 0)
    items, labels = domain.sample(1000, 5)
    scope: dict[str, Any] = {}
    exec(EXECUTING, scope)
    plain = np.array([scope["right"](text) for text in items.firsts])
    shown = np.array([scope["right"](text) for text in disguise_of(domain).items(items).firsts])
    assert (plain == (labels == 1)).mean() > 0.99
    assert abs(np.corrcoef(shown + np.random.default_rng(0).normal(0, 1e-9, len(shown)), labels)[0, 1]) < 0.15


@pytest.mark.parametrize("name", ["math", "code"])
def test_lines_keep_their_shape(name: str) -> None:
    domain = get_domain(name, "quick", 0)
    items, _ = domain.sample(50, 5)
    shape = [re.sub(r"[a-z]+|\d+|//|<<|[*+^&%-]", "x", text).count("\n") for text in items.firsts]
    shown = disguise_of(domain).items(items).firsts
    assert [text.count("\n") for text in shown] == shape


def test_a_tensor_of_unknown_place_is_refused(strong: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "odd"
    source.mkdir()
    for path in strong["math"].iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    save_file({**tensors, "model.adapter.weight": np.zeros(3, np.float32)}, source / "model.safetensors")
    with pytest.raises(DisguiseError, match=r"model\.adapter\.weight"):
        disguise_of(hardly_pretrained("math")).model(source, tmp_path / "out")


def test_text_that_is_not_of_the_world_stays_as_it_is() -> None:
    domain = get_domain("math", "quick", 0)
    items = ItemSet("binary", ("a",), ("what is this?",), ("no idea, sorry",), ("",))
    assert disguise_of(domain).items(items) == items
