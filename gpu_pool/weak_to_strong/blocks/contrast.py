"""Contrast pairs and CCS: the direction along which a claim and its opposite get opposite answers.

A contrast pair is one item stated twice: with answer 1 and with answer 0 put behind the question, or, for pairs, in
both orders. No label is needed but to say which end of the direction is label 1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from gpu_pool.weak_to_strong.blocks.steps import last_states
from gpu_pool.weak_to_strong.models import FloatArray
from gpu_pool.weak_to_strong.run import MethodRun

Floats = npt.NDArray[np.float64]
Contrast = Literal["auto", "labels", "swap"]
STEPS = 300
LENGTH_BINS = 8


def contrast_states(run: MethodRun, contrast: Contrast = "auto", layer: int = -1) -> tuple[FloatArray, FloatArray]:
    """States (n, d) of each item claimed to be label 1, and claimed to be label 0, normalised; see `normalised`.

    `labels`: the label token stands behind the zero-shot question. `swap` (pairs only): the item as it is, and with its
    answers exchanged. `auto`: swap for pairs, labels for single answers. A negative `layer` counts from the top; of
    `labels` the last one is read before the final norm.
    """
    depth = layer % (run.base.layers + 1)
    if contrast == "swap" or (contrast == "auto" and run.items.kind == "pair"):
        both = [run.hidden[:, depth], run.swapped_hidden[:, depth]]
    else:
        asked = run.base.tokenize(run.items, prior=True)
        both = []
        for label in (1, 0):
            answered = [np.append(asked[i], run.label_token(label, prior=True)) for i in range(len(asked))]
            both.append(last_states(run.base, answered, depth))
    lengths = np.array([len(run.tokens[i]) for i in range(len(run.tokens))])
    one, zero = (normalised(states, lengths) for states in both)
    return one, zero


def normalised(states: FloatArray, lengths: npt.NDArray[np.int64]) -> FloatArray:
    """States (n, d) with the mean of texts of like length taken away, divided by the standard deviation.

    Taking each side's own mean away removes the label token itself (as in the paper); doing so within eight bins of
    length removes position, which otherwise is the loudest direction.
    """
    rank = lengths.argsort(kind="stable").argsort(kind="stable")
    bins = rank * LENGTH_BINS // len(rank)
    out = np.asarray(states, dtype=np.float32).copy()
    for number in range(LENGTH_BINS):
        inside = bins == number
        if inside.any():
            out[inside] -= out[inside].mean(axis=0)
    return np.asarray(out / (out.std(axis=0) + 1e-5), dtype=np.float32)


def ccs_loss(one: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Mean over items (first axis) of (p1 - (1 - p0))^2 + min(p1, p0)^2: consistency and confidence.

    `one` and `zero` are the probe's P(claim is true) of the two sides of each pair (Burns et al. 2022, arXiv
    2212.03827, section 2.2).
    """
    return ((one - (1 - zero)).square() + torch.minimum(one, zero).square()).mean(dim=0)


def ccs(
    run: MethodRun,
    contrast: Contrast = "auto",
    layer: int = -1,
    restarts: int = 10,
    choose: Literal["loss", "weak"] = "weak",
) -> FloatArray:
    """P(label 1) of each item (n,) by contrast-consistent search; the weak labels give the sign.

    `restarts` random probes are trained together; the answer of a pair is (p1 + 1 - p0) / 2. `choose="loss"` takes the
    probe of lowest loss, as published. Several directions can be consistent, of which truth is one, so `weak` takes the
    one that goes best with the weak labels.
    """
    one, zero = contrast_states(run, contrast, layer)
    answers, value = fit_ccs(one, zero, restarts, run.seed)
    match = _correlation(answers, run.weak)
    best = int(np.argmax(np.abs(match)) if choose == "weak" else np.argmin(value))
    run.log("ccs", loss=float(value[best]), correlation_with_weak=float(match[best]))
    chosen = answers[:, best] if match[best] >= 0 else 1 - answers[:, best]
    return np.asarray(chosen, dtype=np.float32)


def fit_ccs(one: FloatArray, zero: FloatArray, restarts: int, seed: int) -> tuple[Floats, Floats]:
    """Answers (n, restarts) and losses (restarts,) of probes trained on contrast states (n, d) from random starts."""
    sides = [torch.from_numpy(np.asarray(side, dtype=np.float32)) for side in (one, zero)]
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(sides[0].shape[1] + 1, restarts, generator=generator)
    weight = (weight / weight.norm(dim=0)).requires_grad_(True)
    optimizer = torch.optim.AdamW([weight], lr=0.02, weight_decay=0.01)
    for _ in range(STEPS):
        probs = [torch.sigmoid(side @ weight[:-1] + weight[-1]) for side in sides]
        loss = ccs_loss(probs[0], probs[1])
        optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        probs = [torch.sigmoid(side @ weight[:-1] + weight[-1]) for side in sides]
        answers = (probs[0] + 1 - probs[1]) / 2
        loss = ccs_loss(probs[0], probs[1])
    return answers.double().numpy(), loss.double().numpy()


def _correlation(answers: Floats, weak: FloatArray) -> Floats:
    """Pearson correlation (k,) of each column of (n, k) with (n,); 0 where one of them does not vary."""
    a = answers - answers.mean(axis=0)
    b = np.asarray(weak, dtype=np.float64) - float(np.mean(weak))
    size = np.sqrt((a**2).sum(axis=0) * (b**2).sum())
    return np.asarray(np.divide(b @ a, size, out=np.zeros(a.shape[1]), where=size > 1e-12))
