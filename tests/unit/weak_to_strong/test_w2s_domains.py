from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpu_pool.weak_to_strong as library
from gpu_pool.weak_to_strong.domains import DOMAIN_NAMES, Domain, get_domain, prepare_corpus
from gpu_pool.weak_to_strong.domains.base import BOS, UNK, DomainSpec
from gpu_pool.weak_to_strong.domains.chat import ChatDomain
from gpu_pool.weak_to_strong.domains.lexicon import Lexicon
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


def test_math_labels_follow_from_most_of_the_steps() -> None:
    items, labels = get_domain("math", "quick").sample(400, 5)
    for item, label in zip(items, labels, strict=True):
        heading, *steps = item.first.split("\n")
        assert heading == "Solution:"
        claims = [step.split()[0].split("=") for step in steps]
        assert item.prompt.split(" + ")[1:] == [term for term, _ in claims]
        hold = [_value(term) == int(value) for term, value in claims]
        assert len(hold) % 2
        assert (2 * sum(hold) > len(hold)) == bool(label)


def _value(expression: str) -> int:
    return int(eval(expression, {"__builtins__": {}, "max": max, "min": min, "abs": abs, "len": len}))


def test_code_labels_follow_from_most_of_the_lines() -> None:
    items, labels = get_domain("code", "quick").sample(200, 5)
    for item, label in zip(items, labels, strict=True):
        start, *lines = item.first.split("\n")
        assert re.fullmatch(r"t = \d", start)
        claims = [line.removeprefix("t += ").split("  # ") for line in lines]
        hold = [_value(expression) == int(value.split()[0]) for expression, value in claims]
        assert (2 * sum(hold) > len(hold)) == bool(label), item.first


def test_chat_labels_follow_from_what_helps_on_the_whole() -> None:
    domain = get_domain("chat", "quick")
    assert isinstance(domain, ChatDomain)
    texts = domain._lexicon.texts(domain._all[:, None])
    helps = dict(zip((text.strip() for text in texts), (2 * domain._helps - 1).tolist(), strict=True))
    items, labels = domain.sample(400, 5)
    for item, label in zip(items, labels, strict=True):
        scores = [sum(helps[f"- {remedy}"] for remedy in re.findall(r"- ([a-z-]+)", side)) for side in
                  (item.first, item.second)]  # fmt: skip
        assert (scores[1] > scores[0]) == bool(label)
        assert scores[0] != scores[1]


VOTERS = ("step", "share", "rank", "final", "pairs")
WORLDS = 12


@pytest.mark.parametrize("name", DOMAIN_NAMES)
def test_what_items_have_in_common_says_nothing_of_the_truth(name: str) -> None:
    """Votes, frequencies and company, over as many items as a campaign has.

    In one world a word that is met often may be a good one or a bad one; nobody who counts knows which.
    """
    found: dict[str, list[float]] = {voter: [] for voter in VOTERS}
    for world in range(WORLDS):
        items, labels = get_domain(name, "quick", world).sample(2000, 9)
        for voter, right in found.items():
            score = votes(items, voter)
            middle = np.median(score)
            says = np.where(score == middle, 0.5, (score > middle) == (labels == 1))
            right.append(float(says.mean()))
    gains = {voter: float(np.mean(right)) - 0.5 for voter, right in found.items()}
    assert max(map(abs, gains.values())) < 0.02, gains


def pieces(text: str) -> list[str]:
    """The claims of a work, or the remedies of an answer."""
    return re.findall(r"^(?:- [a-z-]+|t \+= \S+  # \d+|\d+[*+-]\d+=\d+)", text, flags=re.MULTILINE)


def context(piece: str) -> str:
    """What a claim is about: its term or expression; remedies are all about one thing."""
    return "" if piece.startswith("- ") else re.split(r"=(?=\d+$)|  # ", piece)[0]


def votes(items: ItemSet, voter: str) -> npt.NDArray[np.float64]:
    """An item's score (n,) by what others say; of a pair the second answer's less the first's."""
    sides = (items.firsts,) if items.kind == "binary" else (items.firsts, items.seconds)
    rows = [[pieces(text) for text in side] for side in sides]
    every = Counter(piece for side in rows for row in side for piece in row)
    about: dict[str, Counter[str]] = {}
    company: Counter[tuple[str, str]] = Counter()
    ends: dict[str, Counter[str]] = {}
    for side in rows:
        for prompt, row in zip(items.prompts, side, strict=True):
            ends.setdefault(prompt, Counter())[row[-1]] += 1
            for piece in row:
                about.setdefault(context(piece), Counter())[piece] += 1
            company.update((a, b) for a in row for b in row if a < b)

    def one(prompt: str, row: list[str]) -> float:
        if voter == "step":
            return float(np.mean([about[context(p)].most_common(1)[0][0] == p for p in row]))
        if voter == "share":
            return float(np.mean([every[p] / sum(about[context(p)].values()) for p in row]))
        if voter == "rank":
            return float(np.mean([np.log(every[p]) for p in row]))
        if voter == "final":
            return float(ends[prompt][row[-1]])
        return float(np.mean([company[min(a, b), max(a, b)] / (every[a] * every[b]) for a in row for b in row if a != b]
                             or [0.0]))  # fmt: skip

    scores = [np.array([one(p, row) for p, row in zip(items.prompts, side, strict=True)]) for side in rows]
    return scores[0] if len(scores) == 1 else scores[1] - scores[0]


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
