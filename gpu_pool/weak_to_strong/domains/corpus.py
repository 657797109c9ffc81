"""What pretraining needs of a domain, as arrays and as files, so that it can run where `domains` does not exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from gpu_pool.weak_to_strong.domains.base import Domain

CORPUS_SEED = 1


def prepare_corpus(domain: Domain) -> dict[str, npt.NDArray[np.int32]]:
    """`tokens`: the pretraining text as one flat int32 run (about 16 tokens a document)."""
    return {"tokens": domain.corpus(domain.spec.documents, CORPUS_SEED)}


def pretrain_params(domain: Domain, which: Literal["strong", "weak"]) -> dict[str, Any]:
    """Parameters of the `pretrain` entry for that model."""
    spec = domain.spec.strong if which == "strong" else domain.spec.weak
    return {"steps": spec.steps, "batch": spec.batch, "row": spec.row, "lr": spec.lr, "seed": spec.seed}


def write_pretrain_inputs(
    domain: Domain, which: Literal["strong", "weak"], folder: Path, tokens: npt.NDArray[np.int32] | None = None
) -> dict[str, Any]:
    """Write corpus.safetensors, model_config.json, tokenizer.json and prompt.json; gives the entry's parameters.

    `tokens` is the corpus when it is at hand already (both models read the same).
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec = domain.spec.strong if which == "strong" else domain.spec.weak
    save_file({"tokens": prepare_corpus(domain)["tokens"] if tokens is None else tokens}, folder / "corpus.safetensors")
    tokenizer = domain.tokenizer()
    config = spec.shape.config(tokenizer.get_vocab_size())
    (folder / "model_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    domain.prompt_format.save(folder / "prompt.json")
    return pretrain_params(domain, which)
