"""Unsupervised elicitation: the strong model's own labels, made consistent within groups. No teacher is needed.

The published baselines `ue_zeroshot` and `ue_fewshot`. A group is a set of claims of which one answer can be right:
the two orders of a pair, or the candidate answers to one question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpu_pool.weak_to_strong.blocks.selection import Index
from gpu_pool.weak_to_strong.blocks.targets import hard, logit
from gpu_pool.weak_to_strong.models import FloatArray, sigmoid
from gpu_pool.weak_to_strong.run import MethodRun

_FINAL = re.compile(r"(?:answer is|answer:|result:|####|\\boxed\{)[\s$]*(.+)", re.IGNORECASE)


def consistent(probs: npt.ArrayLike, groups: Sequence[object], keys: Sequence[object]) -> FloatArray:
    """The published consistency fix, labels (n,): in each group the key of the claim with the largest P(label 1) gets
    label 1, every other key 0. `groups` and `keys` name each claim's group and answer; ties go to the earlier claim.
    """
    given = np.asarray(probs, dtype=np.float64)
    best: dict[object, int] = {}
    for i, group in enumerate(groups):
        if group not in best or given[i] > given[best[group]]:
            best[group] = i
    return np.array([keys[i] == keys[best[group]] for i, group in enumerate(groups)], dtype=np.float32)


def swap_consistent(probs: npt.ArrayLike, swapped: npt.ArrayLike) -> FloatArray:
    """`consistent` for pairs: label 1 where P(second is better) is larger as asked than after exchanging the answers.

    `swapped` is P(label 1) of the exchanged items. Each item is a group of two claims, "the second is better" and,
    exchanged, "the first is better". A claim that only likes a position cancels. Ties get label 1.
    """
    one, other = np.asarray(probs), np.asarray(swapped)
    n = len(one)
    both = np.concatenate([one, other])
    fixed = consistent(both, [*range(n), *range(n)], ["second"] * n + ["first"] * n)
    return fixed[:n]


def balanced(labels: FloatArray, probs: npt.ArrayLike, ratio: float = 1.1) -> Index:
    """Indices to train on: the least confident rows of the larger class dropped until it is `ratio` times the smaller.

    As published for single answers. (For pairs the original turns majority rows around instead; a run trains on items
    in their given order, so rows are dropped there, too.) All items when one class is empty.
    """
    ones = hard(labels) == 1
    small = min(int(ones.sum()), int((~ones).sum()))
    most = int(np.floor(ratio * small))
    if small == 0 or max(int(ones.sum()), int((~ones).sum())) <= most:
        return np.arange(len(ones))
    larger = np.flatnonzero(ones == (ones.sum() > small))
    sure = np.abs(np.asarray(probs, dtype=np.float64)[larger] - 0.5)
    kept = larger[np.argsort(-sure, kind="stable")[:most]]
    return np.sort(np.concatenate([kept, np.flatnonzero(ones != (ones.sum() > small))]))


def answer_keys(run: MethodRun) -> list[str] | None:
    """The final answer that each item's choice states, normalised, or `None` when fewer than half state one.

    Recognised: "answer is", "answer:", "final answer", "result:", "####", a box. A choice without one is its own key.
    The totals of the generated math task are not: a key that several candidates share is chosen more often whatever
    the model thinks, so that the fix would leak the most common answer into labels that should be the model's own.
    On real items with final answers the published fix does just that, and the evaluator's audit disqualifies what uses
    it there ("no source"): there it is a published baseline to compare with, not a method to enter.
    """
    found = [_FINAL.findall(choice) for choice in run.items.firsts]
    if sum(1 for hits in found if hits) * 2 < len(found):
        return None
    return [
        re.sub(r"[\s.$}]+$", "", hits[-1].strip().casefold()) if hits else choice
        for hits, choice in zip(found, run.items.firsts, strict=True)
    ]


def make_consistent(run: MethodRun, probs: FloatArray, swapped: FloatArray | None = None) -> FloatArray:
    """Hard labels (n,) of the model's opinions `probs` after the consistency fix that the items allow.

    Pairs: with `swapped` the swap fix. Single answers: the group fix when `answer_keys` finds final answers and
    some group holds two items. Otherwise the opinions as they are: without a common answer, several candidates of one
    group may be right.
    """
    if run.items.kind == "pair":
        return hard(probs) if swapped is None else swap_consistent(probs, swapped)
    keys, groups = answer_keys(run), run.groups
    if keys is None or len(set(groups)) == len(groups):
        return hard(probs)
    return consistent(probs, groups, keys)


def template_prior(run: MethodRun) -> FloatArray:
    """The zero-shot prediction (n,) pooled over question texts: the mean of median-centred log odds.

    Texts: the zero-shot question and the trained one; for pairs each in both orders. Four margins instead of one.
    """
    margins = [logit(run.prior), _centred(run.base.logits(run.tokens))]
    if run.items.kind == "pair":
        turned = run.base.logits(run.base.tokenize(run.items.swap()))
        margins += [-logit(run.swapped_prior), -_centred(turned)]
    pooled = np.mean([margin / (margin.std() + 1e-6) for margin in margins], axis=0)
    return sigmoid(pooled - np.median(pooled))


def zero_shot_labels(run: MethodRun) -> tuple[FloatArray, Index]:
    """Consistent labels (n,) of the zero-shot prediction, and the balanced indices to train on."""
    swapped = run.swapped_prior if run.items.kind == "pair" else None
    labels = make_consistent(run, run.prior, swapped)
    return labels, balanced(labels, run.prior)


def few_shot(run: MethodRun, labels: FloatArray, shots: int, seed: int = 0, *, swapped: bool = False) -> FloatArray:
    """P(label 1) of each item (n,) with `shots` other items before it, as `labels` answers them.

    Demonstrations are drawn anew for each item, half of each class, from other groups. Those that the context cannot
    hold are left out, never a part of the question. Calibrated like the zero-shot prediction: the median margin is
    zero.
    `swapped` asks about the items with first and second exchanged (pairs), behind the same examples.
    """
    rng = np.random.default_rng((run.seed, seed, shots))
    # The model reads its answer off the trained labels, so a zero-shot question with other answers cannot be asked.
    prior = run.base.fmt.prior_labels is None
    asked = run.base.tokenize(run.items, prior=prior)
    answers = hard(labels).astype(int)
    answered = [np.append(asked[i], run.label_token(int(answers[i]))) for i in range(len(asked))]
    questions = run.base.tokenize(run.items.swap(), prior=prior) if swapped else asked
    pools = [np.flatnonzero(answers == label) for label in (0, 1)]
    longest = int(getattr(run.base.lm.config, "max_position_embeddings", 1 << 20))
    texts = []
    for i in range(len(asked)):
        chosen = _demonstrations(run.groups, pools, i, shots, rng)
        room = longest - len(questions[i])
        parts: list[npt.NDArray[np.int64]] = []
        for demo in chosen:
            room -= len(answered[demo])
            if room < 0:
                break
            parts.append(answered[demo])
        texts.append(np.concatenate([*parts, questions[i]]))
    return sigmoid(_centred(run.base.logits(texts)))


def few_shot_labels(run: MethodRun, schedule: Sequence[int] = (2, 4, 16)) -> tuple[FloatArray, Index]:
    """Labels (n,) relabelled with ever more of the model's own examples, made consistent after each round; indices.

    As published: zero-shot first, then `schedule` shots; pairs are asked in both orders.
    """
    labels, _ = zero_shot_labels(run)
    probs = run.prior
    for number, shots in enumerate(schedule):
        run.check_deadline()
        probs = few_shot(run, labels, shots, number)
        swapped = few_shot(run, labels, shots, number, swapped=True) if run.items.kind == "pair" else None
        labels = make_consistent(run, probs, swapped)
        run.log("few-shot round", shots=shots, ones=float(labels.mean()))
    return labels, balanced(labels, probs)


def _demonstrations(
    groups: Sequence[str], pools: list[npt.NDArray[np.int64]], item: int, shots: int, rng: np.random.Generator
) -> list[int]:
    chosen: list[int] = []
    for number, pool in enumerate(pools):
        wanted = (shots + number) // 2
        drawn = pool[rng.permutation(len(pool))[: 4 * wanted + 4]].tolist()
        others = [demo for demo in drawn if groups[demo] != groups[item]]
        chosen += others[:wanted]
    return [chosen[at] for at in rng.permutation(len(chosen))]


def _centred(logits: FloatArray) -> npt.NDArray[np.float64]:
    margin = logits[:, 1].astype(np.float64) - logits[:, 0]
    return np.asarray(margin - np.median(margin))
