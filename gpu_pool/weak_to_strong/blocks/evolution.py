"""Evolution strategies: a probe, or low-rank changes of the top layer, improved without gradients.

The fitness is what can be known without truth: agreement with the labels, balance of the two classes, and, for pairs,
opposite answers when the two options are swapped. OpenAI-ES with mirrored noise (Salimans et al. 2017, arXiv
1703.03864).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gpu_pool.weak_to_strong.blocks.probes import Index, Probe, fit_probe
from gpu_pool.weak_to_strong.blocks.targets import hard
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel, Tokens
from gpu_pool.weak_to_strong.models.batches import pad
from gpu_pool.weak_to_strong.run import MethodRun

Floats = npt.NDArray[np.float64]
Signs = npt.NDArray[np.floating[Any]]
BASIS = 128  # items of which the states under the top layer are kept while a LoRA evolves


def fitness(own: Floats, sign: Signs, swapped: Floats | None = None) -> Floats:
    """Fitness (k,) of k candidates from their answers in [-1, 1] to each item, (n, k); `sign` (n,) is the label, +-1.

    mean(own sign) - |mean(own)| - mean |own + swapped|, the last only where answers to swapped items are given.
    """
    score = (own * sign[:, None]).mean(axis=0) - np.abs(own.mean(axis=0))
    if swapped is not None:
        score = score - np.abs(own + swapped).mean(axis=0)
    return np.asarray(score)


def evolve(
    start: Floats,
    score: Callable[[Floats], Floats],
    *,
    generations: int,
    population: int,
    scale: float,
    rng: np.random.Generator,
) -> Floats:
    """A vector (d,) after `generations` of OpenAI-ES; `score` gives the fitness (k,) of candidates (k, d).

    Each step adds scale / 2 times the mean of the noise, weighted by the standardised fitness; noise is mirrored.
    """
    vector = start.astype(np.float64)
    for _ in range(generations):
        half = rng.standard_normal((population // 2, len(vector)))
        noise = np.concatenate([half, -half])
        value = score(vector + scale * noise)
        value = (value - value.mean()) / (value.std() + 1e-9)
        vector = vector + scale * 0.5 * (value @ noise) / population
    return vector


def evolve_probe(
    run: MethodRun,
    labels: FloatArray,
    layer: int = -1,
    generations: int = 60,
    population: int = 24,
    *,
    keep: Index | None = None,
) -> Probe:
    """A probe improved by an evolution strategy from `fit_probe` on, on the items at `keep`."""
    start = fit_probe(run, labels, layer, keep=keep)
    index = np.arange(len(run.items)) if keep is None else keep
    inputs = (run.hidden[index, start.layer] - start.mean) / start.std
    swapped = None
    if run.items.kind == "pair":
        swapped = (run.swapped_hidden[index, start.layer] - start.mean) / start.std
    sign = 2.0 * hard(np.asarray(labels)[index]) - 1

    def score(weights: Floats) -> Floats:
        own = np.tanh(inputs @ weights[:, :-1].T + weights[:, -1])
        if swapped is None:
            return fitness(own, sign)
        return fitness(own, sign, np.tanh(swapped @ weights[:, :-1].T + weights[:, -1]))

    weight = np.append(start.weight, start.bias).astype(np.float64)
    scale = 0.3 * float(np.abs(weight).mean())
    rng = np.random.default_rng(run.seed)
    weight = evolve(weight, score, generations=generations, population=population, scale=scale, rng=rng)
    return Probe(start.layer, weight[:-1].astype(np.float32), float(weight[-1]), start.mean, start.std)


def evolve_lora(
    run: MethodRun,
    model: LabelModel,
    labels: FloatArray,
    rank: int = 2,
    generations: int = 20,
    population: int = 10,
    scale: float = 0.02,
) -> LabelModel:
    """`model` (changed in place, and returned) with an evolved low-rank change of every linear map of its top layer.

    A model with adapters is left as it is: they are merged into the weights of the copy that evolves. Raises ModelError
    for a model that does not show its single layers.

    W + B A with A (rank, in) drawn once and fixed, B (out, rank) evolved from 0 (LoRA: arXiv 2106.09685). Fitness on a
    fixed random basis of at most 128 items, on which the states under the top layer are computed once.
    """
    model = model if model.lora is None else model.merged()
    rng = np.random.default_rng(run.seed)
    index = rng.permutation(len(run.items))[:BASIS]
    sign = 2.0 * hard(np.asarray(labels)[index]) - 1
    below = [_Below(model, run.tokens.take(index))]
    if run.items.kind == "pair":
        swapped = run.base.tokenize(run.items.take(index).swap())
        below.append(_Below(model, swapped))
    adapter = _Adapter(model, rank, run.seed)

    def score(candidates: Floats) -> Floats:
        run.check_deadline()
        answers = []
        for candidate in candidates:
            adapter.apply(candidate)
            answers.append([part.answers(model) for part in below])
        columns = [np.stack([answer[side] for answer in answers], axis=1) for side in range(len(below))]
        return fitness(columns[0], sign, columns[1] if len(columns) > 1 else None)

    zero = np.zeros(adapter.size)
    best = evolve(zero, score, generations=generations, population=population, scale=scale, rng=rng)
    before, after = score(np.stack([zero, best]))
    run.log("evolved", parameters=adapter.size, fitness_before=float(before), fitness_after=float(after))
    adapter.apply(best if after > before else zero)
    return model


class _Below:
    """States under the top layer of some texts, and the answers that the top layer makes of them."""

    def __init__(self, model: LabelModel, tokens: Tokens) -> None:
        with torch.no_grad(), model.precision():
            ids, self._last = (value.to(model.device) for value in pad(tokens))
            self._state = model.run_layers(model.embed(ids), 0, model.layers - 1)

    @torch.no_grad()
    def answers(self, model: LabelModel) -> Floats:
        """tanh of half the label margin, (n,): P(label 1) - P(label 0)."""
        with model.precision():
            logits = model.last_logits(model.run_layers(self._state, model.layers - 1, model.layers), self._last)
        return np.tanh((logits[:, 1] - logits[:, 0]).double().cpu().numpy() / 2)


class _Adapter:
    """Low-rank changes of the top layer's linear maps, set by one flat vector."""

    def __init__(self, model: LabelModel, rank: int, seed: int) -> None:
        top = model.lm.model.layers[-1]
        self._maps = [module for module in top.modules() if isinstance(module, nn.Linear)]
        self._before = [module.weight.detach().clone() for module in self._maps]
        for module, before in zip(self._maps, self._before, strict=True):
            module.weight = nn.Parameter(before.clone())  # its own memory: copies may share what training froze
        generator = torch.Generator().manual_seed(seed)
        self._down = [
            torch.randn(rank, module.in_features, generator=generator).to(module.weight) / module.in_features**0.5
            for module in self._maps
        ]
        self._rank = rank
        self.size = sum(module.out_features * rank for module in self._maps)

    @torch.no_grad()
    def apply(self, vector: Floats) -> None:
        at = 0
        for module, before, down in zip(self._maps, self._before, self._down, strict=True):
            size = module.out_features * self._rank
            up = torch.from_numpy(vector[at : at + size].astype(np.float32)).to(before)
            module.weight.copy_(before + up.reshape(module.out_features, self._rank) @ down)
            at += size
