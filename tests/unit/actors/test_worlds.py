"""What is scored happens in a world that nobody has seen; researchers practise in another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.evaluator.secret import KEY_BYTES, Secret
from actors.evaluator.splits import SPLITS, Splits
from actors.evaluator.worlds import Scene, Scenery, secret_world
from cluster.config import CampaignConfig
from gpu_pool.cache import NodeCache
from gpu_pool.weak_to_strong.domains import DOMAIN_NAMES, Domain, get_domain
from tests.unit.actors.evaluator_world import small_config, small_domain

ONE, OTHER = Secret(b"1" * KEY_BYTES), Secret(b"2" * KEY_BYTES)


def scene(tmp_path: Path, domain: Domain, *, disguise: bool) -> tuple[Scene, CampaignConfig]:
    config = small_config(tmp_path / "cache", scoring={"disguise": disguise})
    unused: Any = None
    return Scenery(config, ONE, unused, unused, tmp_path / "judge").scene(domain), config


def texts(splits: Splits) -> set[tuple[str, str, str]]:
    rows = (splits.split(name).items for name in SPLITS)
    return {row for items in rows for row in zip(items.prompts, items.firsts, items.seconds, strict=True)}


@pytest.mark.parametrize("name", DOMAIN_NAMES)
def test_a_secret_gives_one_world_and_another_secret_another(name: str) -> None:
    public = get_domain(name, "quick")
    same, again, other = secret_world(public, ONE), secret_world(public, ONE), secret_world(public, OTHER)
    assert same.sample(20, 1)[0] == again.sample(20, 1)[0]
    words = [domain.tokenizer().get_vocab() for domain in (public, same, other)]
    assert words[0] != words[1] != words[2] != words[0]
    assert not set(same.sample(200, 1)[0].firsts) & set(public.sample(200, 1)[0].firsts)


@pytest.mark.parametrize("name", DOMAIN_NAMES)
def test_its_models_start_from_weights_of_their_own_and_are_of_the_same_kind(name: str) -> None:
    """From equal initial weights a rarely trained row would still be known by its place in the vocabulary."""
    public = get_domain(name, "quick").spec
    one, other = (secret_world(get_domain(name, "quick"), secret).spec for secret in (ONE, OTHER))
    seeds = {spec.seed for domain in (public, one, other) for spec in (domain.strong, domain.weak)}
    assert len(seeds) == 6
    assert (one.strong.shape, one.strong.steps, one.labelled) == (public.strong.shape, public.strong.steps,
                                                                    public.labelled)  # fmt: skip


def test_researchers_see_the_public_world_and_nothing_of_the_scored_one(tmp_path: Path) -> None:
    found, config = scene(tmp_path, small_domain("math"), disguise=True)
    assert found.practice is not None
    assert found.tools.disguise is not None
    shown = set(found.practice.items().firsts)
    assert not shown & {first for _, first, _ in texts(found.tools.splits)}
    cache = NodeCache.of(config.pool).root
    assert found.practice.strong.is_relative_to(cache)
    assert found.models.folder("strong").is_relative_to(tmp_path / "judge"), "no sandbox reads the evaluator's folder"
    files = found.practice.files().values()
    assert all(path.is_relative_to(tmp_path / "judge" / "math-practice") for path in files)


def test_order_and_draws_of_the_public_pools_say_nothing_of_the_scored_ones(tmp_path: Path) -> None:
    """Whoever computed the truth of the public items would else have a part of the scored pools' coin flips."""
    found, _ = scene(tmp_path, small_domain("math"), disguise=True)
    assert found.practice is not None
    practice = found.practice._t
    assert practice.secret.commitment() != found.tools.secret.commitment()
    for name in SPLITS:
        own, scored = practice.splits.split(name), found.tools.splits.split(name)
        assert not set(own.items.ids) & set(scored.items.ids)
        assert not (own.labels == scored.labels).all()


def test_without_disguise_and_from_files_there_is_one_world(tmp_path: Path) -> None:
    domain = small_domain("math")
    found, config = scene(tmp_path, domain, disguise=False)
    assert found.practice is None
    assert found.tools.splits.domain is domain
    assert found.models.folder("strong").is_relative_to(NodeCache.of(config.pool).root)
