"""The weak teacher as a noisy channel: a posterior over the true label from its vote and an independent opinion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gpu_pool.weak_to_strong.blocks.relabel import cross_fit
from gpu_pool.weak_to_strong.blocks.targets import CLIP, hard
from gpu_pool.weak_to_strong.models import FloatArray
from gpu_pool.weak_to_strong.run import MethodRun
from gpu_pool.weak_to_strong.trainer import TrainConfig


def confidence_bins(weak: FloatArray, bins: int) -> npt.NDArray[np.int64]:
    """Bin (n,) of each item by the rank of its confidence |p - 1/2|: 0 the least sure, `bins` - 1 the surest."""
    rank = np.abs(np.asarray(weak) - 0.5).argsort(kind="stable").argsort(kind="stable")
    return np.asarray(np.minimum(rank * bins // len(rank), bins - 1), dtype=np.int64)


def noisy_channel(weak: FloatArray, prior: FloatArray, bins: int = 4, iterations: int = 20) -> FloatArray:
    """Posterior P(y = 1 | weak vote v, prior) (n,) by EM over the channel's rates (Dawid & Skene 1979).

    In bin b the teacher says 1 with rate r[b, y]; E step: P(y | v) is proportional to prior(y) r[b, y]^v
    (1 - r[b, y])^(1 - v); M step: r[b, y] = (sum of P(y) v + 1) / (sum of P(y) + 2) over the bin. `bins=1` is the
    class-dependent channel; more bins, by the teacher's confidence, make it depend on the instance. `prior` is an
    opinion that does not come from the same weak vote, such as an out-of-fold student or the zero-shot prior.
    """
    vote = hard(weak)
    member = confidence_bins(weak, bins)
    before = np.clip(np.asarray(prior, dtype=np.float64), CLIP, 1 - CLIP)
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
    run: MethodRun,
    rounds: int = 2,
    config: TrainConfig | None = None,
    *,
    prior: FloatArray | None = None,
    bins: int = 4,
) -> FloatArray:
    """Posterior labels of a noisy-channel EM: cross-fitted students as P(label | text), the weak label as a channel.

    With `prior` (for example `run.prior`) the first round starts from it instead of training. It is what the published
    researchers tried in production; theirs used two rounds and margins of several question texts (`template_prior`).
    """
    posterior = 0.15 + 0.7 * hard(run.weak)
    if prior is not None:
        posterior, rounds = noisy_channel(run.weak, prior, bins), rounds - 1
    for _ in range(rounds):
        posterior = noisy_channel(run.weak, cross_fit(run, posterior.astype(np.float32), config), bins)
    return np.asarray(posterior, dtype=np.float32)
