"""Building blocks of methods: targets, selection, relabelling, posteriors, probes.

Throughout, n is the number of the run's items and a label or target is P(label 1), float (n,). Nothing here sees truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from gpu_pool.weak_to_strong.errors import TrainingError
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel, sigmoid
from gpu_pool.weak_to_strong.run import MethodRun
from gpu_pool.weak_to_strong.student import Student
from gpu_pool.weak_to_strong.trainer import TrainConfig

Index = npt.NDArray[np.int64]


# targets


def hard(probs: FloatArray) -> FloatArray:
    """1.0 where P(label 1) is above a half, else 0.0."""
    return (np.asarray(probs) > 0.5).astype(np.float32)


def smooth(labels: FloatArray, share: float = 0.1) -> FloatArray:
    """Labels moved towards a half: (1 - share) y + share / 2 (label smoothing, arXiv 2003.02819)."""
    return np.asarray((1 - share) * labels + share / 2, dtype=np.float32)


def mix_prior(labels: FloatArray, prior: FloatArray, share: float = 0.5) -> FloatArray:
    """Pool two opinions in log odds: sigmoid((1 - share) logit(labels) + share logit(prior)), clipped at .02."""
    return sigmoid((1 - share) * _logit(labels) + share * _logit(prior))


# selection


def confident(probs: FloatArray, share: float = 0.5) -> Index:
    """Indices of the `share` of items on which `probs` is farthest from a half, most confident first."""
    keep = max(1, round(share * len(probs)))
    return np.argsort(-np.abs(np.asarray(probs) - 0.5), kind="stable")[:keep]


def confidence_weights(probs: FloatArray) -> FloatArray:
    """Example weights |2p - 1|, scaled to mean 1."""
    weight = np.abs(2 * np.asarray(probs, dtype=np.float32) - 1)
    return np.asarray(weight / max(float(weight.mean()), 1e-6), dtype=np.float32)


def agreement(run: MethodRun, labels: FloatArray, config: TrainConfig | None = None) -> Index:
    """Indices of items on which a student that did not train on them agrees with `labels` (two folds).

    Keeps what strong and weak share (confident learning, arXiv 1911.00068; overlap density, 2412.03881). Costs one
    extra training. All items when none agrees.
    """
    keep = np.flatnonzero(hard(cross_fit(run, labels, config)) == hard(labels))
    run.log("agreement", kept=len(keep), of=len(labels))
    return keep if len(keep) else np.arange(len(labels))


# relabelling


def cross_fit(run: MethodRun, labels: FloatArray, config: TrainConfig | None = None, folds: int = 2) -> FloatArray:
    """P(label 1) of each item by a student trained on the other folds (n,)."""
    config = config or run.config(epochs=2)
    fold = np.random.default_rng(run.seed).permutation(len(labels)) % folds
    out = np.zeros(len(labels), dtype=np.float32)
    for number in range(folds):
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        model = run.fit(np.asarray(labels)[inside], config, indices=inside)
        out[outside] = run.predict(model, outside)
    return out


def self_train(run: MethodRun, labels: FloatArray, rounds: int = 2, config: TrainConfig | None = None) -> FloatArray:
    """Hard labels of the last of `rounds` students, each trained afresh on the labels of the one before.

    Born-again networks, arXiv 1805.04770.
    """
    config = config or run.config(epochs=2)
    for number in range(rounds):
        model = run.fit(labels, replace(config, seed=config.seed + number))
        labels = hard(run.predict(model))
    return labels


def noisy_channel(weak: FloatArray, prior: FloatArray, bins: int = 4, iterations: int = 20) -> FloatArray:
    """Posterior P(label 1 | weak label, prior) with an estimated error rate per confidence bin (Dawid & Skene 1979).

    `prior` is an opinion that does not come from the same weak label, such as an out-of-fold student or the zero-shot
    prior.
    """
    vote = hard(weak)
    rank = np.abs(weak - 0.5).argsort().argsort()
    member = np.minimum(rank * bins // len(weak), bins - 1)
    before = np.clip(np.asarray(prior, dtype=np.float64), 0.02, 0.98)
    after = before
    for _ in range(iterations):
        rates = np.empty((bins, 2))
        for b in range(bins):
            inside = member == b
            for label, mass in ((0, 1 - after[inside]), (1, after[inside])):
                rates[b, label] = ((mass * vote[inside]).sum() + 1) / (mass.sum() + 2)
        says_one = rates[member]
        likelihood = np.where(vote[:, None] == 1, says_one, 1 - says_one)
        joint = likelihood * np.stack([1 - before, before], axis=1)
        after = joint[:, 1] / joint.sum(axis=1)
    return after.astype(np.float32)


def em_posterior(
    run: MethodRun, rounds: int = 2, config: TrainConfig | None = None, *, prior: FloatArray | None = None
) -> FloatArray:
    """Posterior labels of a noisy-channel EM: cross-fitted students as P(label | text), the weak label as a channel.

    With `prior` (for example `run.prior`) the first round starts from it instead of training.
    """
    posterior = 0.15 + 0.7 * hard(run.weak)
    if prior is not None:
        posterior, rounds = noisy_channel(run.weak, prior), rounds - 1
    for _ in range(rounds):
        posterior = noisy_channel(run.weak, cross_fit(run, posterior.astype(np.float32), config))
    return np.asarray(posterior, dtype=np.float32)


# training in several parts


def curriculum(
    run: MethodRun,
    labels: FloatArray,
    config: TrainConfig | None = None,
    share: float = 0.5,
    *,
    keep: Index | None = None,
    weights: FloatArray | None = None,
) -> LabelModel:
    """A student trained on the `share` of items the teacher is surest of, then on all of them at half the learning
    rate.

    `keep` are the indices of the items to use; `weights` (n,) as in `trainer.finetune`.
    """
    config = config or run.protocol
    index = np.arange(len(run.items)) if keep is None else keep
    easy = index[confident(run.weak[index], share)]
    model = run.strong()
    for part, chosen in ((easy, config), (index, replace(config, lr=config.lr / 2))):
        part_weights = None if weights is None else weights[part]
        run.finetune(model, np.asarray(labels)[part], chosen, indices=part, weights=part_weights)
    return model


def ensemble(
    run: MethodRun,
    labels: FloatArray,
    config: TrainConfig | None = None,
    members: int = 3,
    *,
    keep: Index | None = None,
    weights: FloatArray | None = None,
) -> Student:
    """The mean of `members` students that differ in the order of their data; `keep`, `weights` as in `curriculum`."""
    config = config or run.protocol
    index = np.arange(len(run.items)) if keep is None else keep
    rows = np.asarray(labels)[index]
    chosen = None if weights is None else weights[index]
    models = [
        run.fit(rows, replace(config, seed=config.seed + 1000 * number), indices=index, weights=chosen)
        for number in range(members)
    ]
    return Student.ensemble([run.student(model) for model in models])


# model internals


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear classifier on the states of one layer; arrays (d,)."""

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
    """Logistic regression on cached states of `layer` (negative: from the top), items at `keep`; seconds at most."""
    index = np.arange(len(run.items)) if keep is None else keep
    layer = layer % run.hidden.shape[1]
    states = run.hidden[index, layer]
    mean, std = states.mean(axis=0), states.std(axis=0) + 1e-5
    inputs = torch.from_numpy((states - mean) / std)
    target = torch.from_numpy(np.asarray(labels, dtype=np.float32)[index])
    weight = torch.zeros(inputs.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=60)

    def closure() -> float:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(inputs @ weight[:-1] + weight[-1], target)
        loss = loss + l2 * weight[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    fitted = weight.detach().numpy()
    if not np.isfinite(fitted).all():
        raise TrainingError(f"the probe on layer {layer} did not converge")
    return Probe(layer, fitted[:-1].copy(), float(fitted[-1]), mean, std)


def principal_probe(run: MethodRun, layer: int = -1, components: int = 4) -> Probe:
    """The one of the first principal directions that correlates most with the weak labels, which also give its sign.

    Raises TrainingError when no direction of the layer says anything about the labels.
    """
    layer = layer % run.hidden.shape[1]
    states = run.hidden[:, layer]
    mean, std = states.mean(axis=0), states.std(axis=0) + 1e-5
    inputs = (states - mean) / std
    directions = np.linalg.svd(inputs, full_matrices=False)[2][:components]
    scores = inputs @ directions.T
    spread = scores.std(axis=0) * np.std(run.weak)
    shared = ((scores - scores.mean(axis=0)) * (run.weak - run.weak.mean())[:, None]).mean(axis=0)
    match = np.divide(shared, spread, out=np.zeros_like(shared), where=spread > 1e-6)
    if not match.any():
        raise TrainingError(f"no principal direction of layer {layer} goes with the weak labels: does the layer vary?")
    best = int(np.argmax(np.abs(match)))
    direction = directions[best] * np.sign(match[best]) / (scores[:, best].std() + 1e-6)
    cut = float(np.median(inputs @ direction))
    return Probe(layer, direction.astype(np.float32), -cut, mean, std)


def evolve_probe(
    run: MethodRun,
    labels: FloatArray,
    layer: int = -1,
    generations: int = 60,
    population: int = 24,
    *,
    keep: Index | None = None,
) -> Probe:
    """A probe improved by an evolution strategy (OpenAI-ES, arXiv 1703.03864), started at `fit_probe`.

    Fitness on the items at `keep`: agreement with the hardened labels, balance of the two classes, and for pairs
    opposite answers when first and second are swapped.
    """
    start = fit_probe(run, labels, layer, keep=keep)
    rng = np.random.default_rng(run.seed)
    index = np.arange(len(run.items)) if keep is None else keep
    inputs = (run.hidden[index, start.layer] - start.mean) / start.std
    swapped = None
    if run.items.kind == "pair":
        swapped = (run.base.hidden(run.items.take(index).swap())[:, start.layer] - start.mean) / start.std
    sign = 2 * hard(np.asarray(labels)[index]) - 1

    def fitness(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        own = np.tanh(inputs @ weights[:, :-1].T + weights[:, -1])
        score = (own * sign[:, None]).mean(axis=0) - np.abs(own.mean(axis=0))
        if swapped is not None:
            score = score - np.abs(own + np.tanh(swapped @ weights[:, :-1].T + weights[:, -1])).mean(axis=0)
        return np.asarray(score)

    weight = np.append(start.weight, start.bias).astype(np.float64)
    scale = 0.3 * np.abs(weight).mean()
    for _ in range(generations):
        half = rng.standard_normal((population // 2, len(weight)))
        noise = np.concatenate([half, -half])
        score = fitness(weight + scale * noise)
        score = (score - score.mean()) / (score.std() + 1e-9)
        weight = weight + scale * 0.5 * (score @ noise) / population
    return Probe(start.layer, weight[:-1].astype(np.float32), float(weight[-1]), start.mean, start.std)


def _logit(probs: FloatArray) -> npt.NDArray[np.float64]:
    clipped = np.clip(np.asarray(probs, dtype=np.float64), 0.02, 0.98)
    return np.asarray(np.log(clipped / (1 - clipped)))
