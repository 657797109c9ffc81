"""Building blocks of methods: targets, selection, relabelling, posteriors, probes, elicitation, curricula, critics.

Throughout, n is the number of the run's items and a label or target is P(label 1), float (n,). Nothing here sees truth.
Every block is one plain function; `recipes` and `methods.registry` only put them together.
"""

from __future__ import annotations

from gpu_pool.weak_to_strong.blocks.channel import confidence_bins, em_posterior, noisy_channel
from gpu_pool.weak_to_strong.blocks.contrast import ccs, ccs_loss, contrast_states, fit_ccs, normalised
from gpu_pool.weak_to_strong.blocks.critics import (
    CriticConfig,
    best_of,
    critique_labels,
    critique_prompts,
    judge,
    text_loss,
    train_critic,
    with_critiques,
    write_critiques,
)
from gpu_pool.weak_to_strong.blocks.curricula import curriculum, ensemble, interpolate, loss_drop, shortest_code
from gpu_pool.weak_to_strong.blocks.elicitation import (
    answer_keys,
    balanced,
    consistent,
    few_shot,
    few_shot_labels,
    make_consistent,
    swap_consistent,
    template_prior,
    zero_shot_labels,
)
from gpu_pool.weak_to_strong.blocks.evolution import evolve, evolve_lora, evolve_probe, fitness
from gpu_pool.weak_to_strong.blocks.noise import co_teach, elr, small_loss
from gpu_pool.weak_to_strong.blocks.probes import (
    Probe,
    fit_probe,
    mean_difference,
    principal_probe,
    start_from_probe,
)
from gpu_pool.weak_to_strong.blocks.relabel import bootstrap_chain, cross_fit, self_train
from gpu_pool.weak_to_strong.blocks.selection import (
    Index,
    agreement,
    confidence_weights,
    confident,
    confident_threshold,
    out_of_bag,
    overlap_density,
    overlap_scores,
    unanimous,
)
from gpu_pool.weak_to_strong.blocks.targets import (
    adaptive_smooth,
    code_length,
    hard,
    hard_at_rate,
    logit,
    mix_prior,
    pool_teachers,
    smooth,
)

__all__ = [
    "CriticConfig",
    "Index",
    "Probe",
    "adaptive_smooth",
    "agreement",
    "answer_keys",
    "balanced",
    "best_of",
    "bootstrap_chain",
    "ccs",
    "ccs_loss",
    "co_teach",
    "code_length",
    "confidence_bins",
    "confidence_weights",
    "confident",
    "confident_threshold",
    "consistent",
    "contrast_states",
    "critique_labels",
    "critique_prompts",
    "cross_fit",
    "curriculum",
    "elr",
    "em_posterior",
    "ensemble",
    "evolve",
    "evolve_lora",
    "evolve_probe",
    "few_shot",
    "few_shot_labels",
    "fit_ccs",
    "fit_probe",
    "fitness",
    "hard",
    "hard_at_rate",
    "interpolate",
    "judge",
    "logit",
    "loss_drop",
    "make_consistent",
    "mean_difference",
    "mix_prior",
    "noisy_channel",
    "normalised",
    "out_of_bag",
    "overlap_density",
    "overlap_scores",
    "pool_teachers",
    "principal_probe",
    "self_train",
    "shortest_code",
    "small_loss",
    "smooth",
    "start_from_probe",
    "swap_consistent",
    "template_prior",
    "text_loss",
    "train_critic",
    "unanimous",
    "with_critiques",
    "write_critiques",
    "zero_shot_labels",
]
