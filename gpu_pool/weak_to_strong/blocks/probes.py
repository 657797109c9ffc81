"""Probes: linear classifiers on the strong model's cached states. A second at most; no fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from gpu_pool.weak_to_strong.blocks.targets import hard
from gpu_pool.weak_to_strong.errors import TrainingError
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel, sigmoid
from gpu_pool.weak_to_strong.run import MethodRun
from gpu_pool.weak_to_strong.student import Student

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Probe:
    """P(label 1) = sigmoid(((h - mean) / std) . weight + bias) on the state h of one layer; arrays (d,)."""

    layer: int
    weight: FloatArray
    bias: float
    mean: FloatArray
    std: FloatArray

    def probs(self, hidden: FloatArray) -> FloatArray:
        """P(label 1) from all layers' states (n, L + 1, d)."""
        return sigmoid((hidden[:, self.layer] - self.mean) / self.std @ self.weight + self.bias)

    def student(self, run: MethodRun) -> Student:
        """The probe as a student."""
        return Student.head(run.base, self.layer, self.weight, self.bias, self.mean, self.std)


def fit_probe(
    run: MethodRun, labels: FloatArray, layer: int = -1, l2: float = 1e-2, *, keep: Index | None = None
) -> Probe:
    """Logistic regression on the standardised states of `layer` (negative: from the top), items at `keep`.

    Minimises mean cross entropy + l2 |weight|^2 by L-BFGS. Raises TrainingError when it does not converge.
    """
    index = np.arange(len(run.items)) if keep is None else keep
    layer, inputs, mean, std = _standardised(run, layer, index)
    states = torch.from_numpy(inputs)
    target = torch.from_numpy(np.asarray(labels, dtype=np.float32)[index])
    weight = torch.zeros(states.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=60)

    def closure() -> float:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(states @ weight[:-1] + weight[-1], target)
        loss = loss + l2 * weight[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    fitted = weight.detach().numpy()
    if not np.isfinite(fitted).all():
        raise TrainingError(f"the probe on layer {layer} did not converge")
    return Probe(layer, fitted[:-1].copy(), float(fitted[-1]), mean, std)


def mean_difference(run: MethodRun, labels: FloatArray, layer: int = -1, *, keep: Index | None = None) -> Probe:
    """The direction mean(h | label 1) - mean(h | label 0) of the standardised states, cut at the labels' class rate.

    Difference in means ("mass mean"): Marks & Tegmark 2023, arXiv 2310.06824. Soft labels y weight the means by y and
    1 - y. Raises TrainingError when all labels are equal.
    """
    index = np.arange(len(run.items)) if keep is None else keep
    layer, inputs, mean, std = _standardised(run, layer, index)
    one = np.asarray(labels, dtype=np.float32)[index]
    if np.ptp(one) == 0:
        raise TrainingError("difference in means needs labels of both classes")
    direction = one @ inputs / one.sum() - (1 - one) @ inputs / (1 - one).sum()
    return _cut_at_rate(layer, direction, inputs, float(hard(one).mean()), mean, std)


def principal_probe(run: MethodRun, layer: int = -1, components: int = 4) -> Probe:
    """The one of the first principal directions that correlates most with the weak labels, which also give its sign.

    The cut is at the median: half of the items get label 1, which assumes balanced classes.
    Raises TrainingError when no direction of the layer says anything about the labels.
    """
    layer, inputs, mean, std = _standardised(run, layer, np.arange(len(run.items)))
    directions = np.linalg.svd(inputs, full_matrices=False)[2][:components]
    scores = inputs @ directions.T
    spread = scores.std(axis=0) * np.std(run.weak)
    shared = ((scores - scores.mean(axis=0)) * (run.weak - run.weak.mean())[:, None]).mean(axis=0)
    match = np.divide(shared, spread, out=np.zeros_like(shared), where=spread > 1e-6)
    if not match.any():
        raise TrainingError(f"no principal direction of layer {layer} goes with the weak labels: does the layer vary?")
    best = int(np.argmax(np.abs(match)))
    return _cut_at_rate(layer, directions[best] * np.sign(match[best]), inputs, 0.5, mean, std)


def start_from_probe(model: LabelModel, probe: Probe) -> None:
    """Set the label rows of `model` to a probe of its last layer, so that fine-tuning starts there (in place).

    LP-FT: linear probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054). Rows are -w and +w, with w half the
    probe's weight over std; the probe's constant has no place in a head without bias and is left out.
    """
    if probe.layer != model.layers:
        raise TrainingError(f"the probe reads layer {probe.layer}, the label rows read the last, {model.layers}")
    rows = model.label_rows()
    half = torch.from_numpy(probe.weight / probe.std / 2).to(rows)
    model.label_head = nn.Parameter(torch.stack([-half, half]))


def _standardised(run: MethodRun, layer: int, index: Index) -> tuple[int, FloatArray, FloatArray, FloatArray]:
    layer = layer % run.hidden.shape[1]
    states = run.hidden[index, layer]
    mean, std = states.mean(axis=0), states.std(axis=0) + 1e-5
    return layer, (states - mean) / std, mean, std


def _cut_at_rate(
    layer: int, direction: FloatArray, inputs: FloatArray, rate: float, mean: FloatArray, std: FloatArray
) -> Probe:
    direction = direction / ((inputs @ direction).std() + 1e-6)
    cut = float(np.quantile(inputs @ direction, 1 - rate))
    return Probe(layer, direction.astype(np.float32), -cut, mean, std)
