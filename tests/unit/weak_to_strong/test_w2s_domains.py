from __future__ import annotations

import ast
import contextlib
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpu_pool.weak_to_strong as library
from gpu_pool.weak_to_strong.domains import DOMAIN_NAMES, Domain, get_domain, prepare_corpus
from gpu_pool.weak_to_strong.domains.base import BOS, UNK, DomainSpec
from gpu_pool.weak_to_strong.domains.lexicon import Lexicon
from gpu_pool.weak_to_strong.domains.verify import CANDIDATES
from gpu_pool.weak_to_strong.errors import W2SError
from gpu_pool.weak_to_strong.items import ItemSet

BYTES = range(3, 259)
TOKENIZER = get_domain("code", "quick").tokenizer()


@pytest.fixture(scope="module", params=DOMAIN_NAMES)
def domain(request: pytest.FixtureRequest) -> Domain:
    return get_domain(str(request.param), "quick")


def rendered(domain: Domain, items: ItemSet) -> list[list[int]]:
    """Token ids of the items' texts."""
    return [row.ids for row in domain.tokenizer().encode_batch(items.render(domain.prompt_format))]


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
    assert first.max() < domain.tokenizer().get_vocab_size()


def test_another_world_seed_is_another_world(domain: Domain) -> None:
    other, same = (get_domain(domain.name, "quick", world_seed=seed).tokenizer().get_vocab() for seed in (1, 0))
    assert set(other) != set(domain.tokenizer().get_vocab())
    assert same == domain.tokenizer().get_vocab()


def test_corpus_is_the_tokenised_text_of_its_documents(domain: Domain) -> None:
    tokenizer, tokens = domain.tokenizer(), domain.corpus(1500, 1)
    for document in np.split(tokens, np.flatnonzero(tokens == BOS)[1:]):
        text = tokenizer.decode(document[1:].tolist())
        assert tokenizer.encode(text).ids == document.tolist(), text


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_encoded_without_loss(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert UNK not in ids
    assert TOKENIZER.decode(ids) == text


def test_items_are_whole_words_to_the_tokenizer(domain: Domain) -> None:
    tokenizer, (items, _) = domain.tokenizer(), domain.sample(500, 3)
    rows = rendered(domain, items)
    assert [tokenizer.decode(ids[1:]) for ids in rows] == items.render(domain.prompt_format)
    single = {tokenizer.id_to_token(token) for ids in rows for token in ids if BYTES.start <= token < BYTES.stop}
    assert single <= set("0123456789#?")
    assert max(map(len, rows)) <= domain.spec.strong.row, "the models are pretrained on rows of that length"


def test_labels_are_single_tokens_after_a_text(domain: Domain) -> None:
    fmt, tokenizer = domain.prompt_format, domain.tokenizer()
    text = domain.sample(1, 3)[0].render(fmt)[0]
    assert [len(tokenizer.encode(text + label).ids) - len(tokenizer.encode(text).ids) for label in fmt.labels] == [1, 1]


def test_a_piece_that_the_patterns_cut_is_refused() -> None:
    with pytest.raises(W2SError, match="7\\*8=56"):
        Lexicon(["7*8=56"], [r"[0-9]+"])


def test_labels_are_balanced(domain: Domain) -> None:
    _, labels = domain.sample(2000, 3)
    assert labels.dtype == np.int8
    assert 0.45 < labels.mean() < 0.55


def test_enough_distinct_items_for_all_splits(domain: Domain) -> None:
    items, _ = domain.sample(8000, 6)
    assert len({(item.prompt, item.first, item.second) for item in items}) > needed(domain.spec)


def needed(spec: DomainSpec) -> int:
    """Items of all splits together: DEV is half as large as BOARD and SEAL."""
    return spec.labelled + spec.unlabelled + spec.test * 5 // 2


def test_length_does_not_tell_the_label(domain: Domain) -> None:
    items, labels = domain.sample(4000, 4)
    encode = domain.tokenizer().encode_batch
    difference = [len(a.ids) - len(b.ids) for a, b in zip(encode(items.firsts), encode(items.seconds), strict=True)]
    assert abs(np.corrcoef(difference, labels)[0, 1]) < 0.06


def test_math_labels_follow_from_every_step_and_from_the_total() -> None:
    items, labels = get_domain("math", "quick").sample(400, 5)
    for item, label in zip(items, labels, strict=True):
        heading, *steps, total = item.first.split("\n")
        assert heading == "Solution:"
        claims = [step.split()[0].split("=") for step in steps]
        assert item.prompt.split(" + ")[1:] == [term for term, _ in claims]
        assert all(_value(term) == int(value) for term, value in claims) == bool(label)
        assert (_value(item.prompt) == int(total.removeprefix("Total: "))) == bool(label)


def _value(expression: str) -> int:
    return int(eval(expression, {"__builtins__": {}}))


def test_code_labels_follow_from_running_the_program() -> None:
    items, labels = get_domain("code", "quick").sample(200, 5)
    for item, label in zip(items, labels, strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(item.first, {})
        claimed = item.first.rpartition("# ")[2]
        assert (printed.getvalue().strip() == claimed) == bool(label), item.first


@pytest.mark.parametrize("name", ["math", "code"])
def test_the_most_common_final_answer_of_a_problem_is_usually_right(name: str) -> None:
    items, labels = get_domain(name, "quick").sample(400 * CANDIDATES, 5)
    answers = [first.split()[-1] for first in items.firsts]
    right, found = 0, 0
    for start in range(0, len(items), CANDIDATES):
        group = range(start, start + CANDIDATES)
        assert len({items.prompts[i] for i in group}) == 1
        (answer, votes), *others = Counter(answers[i] for i in group).most_common()
        if votes > 1 and (not others or others[0][1] < votes):
            found += 1
            right += any(answers[i] == answer and labels[i] for i in group)
    assert found > 0.7 * 400
    assert right > 0.8 * found


def test_the_tone_agrees_with_the_truth_only_in_part(domain: Domain) -> None:
    items, labels = domain.sample(4000, 8)
    cues = {"chat": ", surely", "math": " checked", "code": " tested"}
    shown = np.array([cues[domain.name] in first for first in items.firsts])
    good = 1 - labels if domain.kind == "pair" else labels
    assert 0.55 < good[shown].mean() < 0.85


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
