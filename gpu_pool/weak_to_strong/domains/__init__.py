"""Generated weak-to-strong domains: worlds with a hidden truth. Evaluator's side only; never bound into a sandbox.

`get_domain("chat", size="quick")` gives a world; `prepare_corpus` and `write_pretrain_inputs` give what pretraining
needs as plain files, so that it can run where this package does not exist.
"""

from __future__ import annotations

from gpu_pool.weak_to_strong.domains.base import Domain, DomainSpec, ModelShape, PretrainSpec, Seed, Size
from gpu_pool.weak_to_strong.domains.catalogue import DOMAIN_NAMES, get_domain
from gpu_pool.weak_to_strong.domains.corpus import prepare_corpus, pretrain_params, write_pretrain_inputs

__all__ = [
    "DOMAIN_NAMES",
    "Domain",
    "DomainSpec",
    "ModelShape",
    "PretrainSpec",
    "Seed",
    "Size",
    "get_domain",
    "prepare_corpus",
    "pretrain_params",
    "write_pretrain_inputs",
]
