"""Training in parts: which items come first, what was learnt from each, and averages of weights and students."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gpu_pool.weak_to_strong.blocks.relabel import cross_fit
from gpu_pool.weak_to_strong.blocks.selection import Index, confident
from gpu_pool.weak_to_strong.blocks.targets import code_length, hard
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel, lora
from gpu_pool.weak_to_strong.run import Fit, MethodRun
from gpu_pool.weak_to_strong.student import Student
from gpu_pool.weak_to_strong.trainer import TrainConfig


def curriculum(
    run: MethodRun,
    labels: FloatArray,
    config: TrainConfig | None = None,
    share: float = 0.5,
    *,
    keep: Index | None = None,
    weights: FloatArray | None = None,
    easy: Index | None = None,
    epochs: tuple[int, int] | None = None,
) -> LabelModel:
    """A student trained on easy items, then on all of them at half the learning rate.

    `easy` are the indices of the easy items, by default the `share` of which the teacher is surest; `keep` the indices
    of all items to use; `epochs` of the two parts, by default both as in `config`; `weights` (n,) as in
    `trainer.finetune`.
    """
    config = config or run.protocol
    index = np.arange(len(run.items)) if keep is None else keep
    first = index[confident(run.weak[index], share)] if easy is None else easy
    long = epochs or (config.epochs, config.epochs)
    parts = (
        (first, replace(config, epochs=long[0])),
        (index, replace(config, epochs=long[1], lr=config.lr / 2)),
    )
    model = run.strong()
    for part, chosen in parts:
        part_weights = None if weights is None else weights[part]
        run.finetune(model, np.asarray(labels)[part], chosen, indices=part, weights=part_weights)
    return model


def shortest_code(run: MethodRun, labels: FloatArray, share: float = 0.5, config: TrainConfig | None = None) -> Index:
    """Indices of the `share` of items whose label a cross-fitted student says in the fewest bits, fewest first."""
    bits = code_length(labels, cross_fit(run, labels, config))
    return np.argsort(bits, kind="stable")[: max(1, round(share * len(bits)))]


def loss_drop(labels: npt.ArrayLike, out_of_fold: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Bits (n,) that training saves on each label: its code length by the class rate alone, less that by the student.

    What a learner of bounded means takes from data is the loss it sheds while it learns (epiplexity: Finzi et al. 2026,
    arXiv 2601.03220); for a single example with a held-out student this is pointwise V-information (Ethayarajh et al.
    2022, arXiv 2110.08420). Low or negative: nothing that can be learnt says so, the label is likely noise.
    """
    rate = np.full(len(np.asarray(labels)), float(hard(labels).mean()))
    return code_length(labels, rate) - code_length(labels, out_of_fold)


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
    seeds = [replace(config, seed=config.seed + 1000 * number) for number in range(members)]
    models = run.fit_many([Fit(rows, own, index, chosen) for own in seeds])
    return Student.ensemble([run.student(model) for model in models])


@torch.no_grad()
def interpolate(run: MethodRun, model: LabelModel, share: float = 0.5) -> LabelModel:
    """A model with weights (1 - share) * pretrained + share * `model`: WiSE-FT (Wortsman et al. 2021, 2109.01903).

    Label rows of its own, when `model` has them, are mixed with the pretrained head's. Of adapters, W + B A becomes
    W + share * B A.
    """
    if model.lora is not None:
        mixed = model.copy(f"lora:{model.lora.rank}")
        for name, value in lora.parameters(mixed.lm).items():
            if name.endswith(".lora_B"):
                value.mul_(share)
    else:
        mixed = run.strong()
        tuned = dict(model.lm.named_parameters())
        for name, value in mixed.lm.named_parameters():
            value.lerp_(tuned[name].to(value), share)
    if model.label_head is not None:
        start = run.base.label_rows().detach()
        mixed.label_head = nn.Parameter(start.lerp(model.label_head.detach().to(start), share))
    return mixed
