from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import gpu_pool.weak_to_strong as library
from gpu_pool.weak_to_strong.domains import DOMAIN_NAMES, Domain, get_domain, prepare_corpus
from gpu_pool.weak_to_strong.domains.verify import VerifyDomain
from gpu_pool.weak_to_strong.errors import W2SError


@pytest.fixture(scope="module", params=DOMAIN_NAMES)
def domain(request: pytest.FixtureRequest) -> Domain:
    return get_domain(str(request.param), "quick")


def test_items_are_decided_by_the_seed_alone(domain: Domain) -> None:
    again = get_domain(domain.name, "quick")
    for seed in (7, b"secret"):
        items, labels = domain.sample(50, seed)
        other, other_labels = again.sample(50, seed)
        assert items == other
        assert np.array_equal(labels, other_labels)
    assert domain.sample(50, 7)[0].prompts != domain.sample(50, b"7")[0].prompts
    assert not set(domain.sample(50, 7)[0].ids) & set(domain.sample(50, 8)[0].ids)


def test_corpus_is_decided_by_the_seed_alone(domain: Domain) -> None:
    first, second = (domain.corpus(300, 1) for _ in range(2))
    assert first.dtype == np.int32
    assert np.array_equal(first, second)
    assert not np.array_equal(first[:100], domain.corpus(300, 2)[:100])
    assert first.min() > 0
    assert first.max() < len(domain.vocabulary)


def test_another_world_seed_is_another_world(domain: Domain) -> None:
    other = get_domain(domain.name, "quick", world_seed=1)
    assert set(other.vocabulary) != set(domain.vocabulary)
    assert get_domain(domain.name, "quick", world_seed=0).vocabulary == domain.vocabulary


def test_labels_are_balanced_and_words_known(domain: Domain) -> None:
    items, labels = domain.sample(2000, 3)
    assert labels.dtype == np.int8
    assert 0.45 < labels.mean() < 0.55
    encoded = domain.tokenizer().encode_batch(items.render())
    assert all(2 not in row.ids for row in encoded)
    assert len(set(domain.vocabulary)) == len(domain.vocabulary)


def test_length_does_not_tell_the_label(domain: Domain) -> None:
    items, labels = domain.sample(4000, 4)
    difference = [len(a.split()) - len(b.split()) for a, b in zip(items.firsts, items.seconds, strict=True)]
    assert abs(np.corrcoef(difference, labels)[0, 1]) < 0.06


def test_math_and_code_labels_follow_from_the_text() -> None:
    for name in ("math", "code"):
        domain = get_domain(name, "quick")
        assert isinstance(domain, VerifyDomain)
        items, labels = domain.sample(300, 5)
        for work, label in zip(items.firsts, labels, strict=True):
            claims = [word for word in work.split() if "=" in word or ":" in word]
            assert all(_holds(claim) for claim in claims) == bool(label)


def _holds(claim: str) -> bool:
    if "=" in claim:
        left, right = claim.split("=")
        sign = next(s for s in "*+-" if s in left)
        a, b = map(int, left.split(sign))
        return {"*": a * b, "+": a + b, "-": a - b}[sign] == int(right)
    name, body = claim.split(":")
    bodies = {"inc": "x+1", "dec": "x-1", "dbl": "x*2", "tri": "x*3", "neg": "-x", "sqr": "x*x", "half": "x//2"}
    bodies |= {f"add{k}": f"x+{k}" for k in (2, 3, 5)} | {f"sub{k}": f"x-{k}" for k in (2, 3)}
    bodies |= {f"mod{k}": f"x%{k}" for k in (5, 7)} | {"abs": "abs(x)", "quad": "x*4"}
    return bodies[name.rsplit("_", 1)[-1]] == body


def test_corpus_has_enough_tokens_for_its_rows(domain: Domain) -> None:
    tokens = prepare_corpus(domain)["tokens"]
    assert len(tokens) > domain.spec.strong.batch * domain.spec.strong.row * 100


def test_unknown_names_are_refused() -> None:
    with pytest.raises(W2SError, match="chat"):
        get_domain("poetry")


def test_nothing_else_of_the_package_imports_domains() -> None:
    root = Path(str(library.__file__)).parent
    for path in root.rglob("*.py"):
        if {"domains", "tasks", "experiment"} & set(path.relative_to(root).parts):  # the judge's side
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert "domains" not in (node.module or ""), path
