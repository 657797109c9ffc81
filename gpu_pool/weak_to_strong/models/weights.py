"""Model folders: their configuration, their weights in memory.

Weights of a checkpoint in the wanted type stay in the file's pages: the parameters are views of a private memory map,
so processes of a node that only read them share one copy, and a process that writes one gets its own pages.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from gpu_pool.weak_to_strong.errors import ModelError
from gpu_pool.weak_to_strong.folders import EXPECTED, weight_files
from gpu_pool.weak_to_strong.models.decoder import FAST_TYPES


def read_config(folder: Path) -> Any:
    """The configuration of a model folder, cache off; raises ModelError."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"model folder {folder} has no config.json: {EXPECTED}")
    return _config(folder / "config.json")


def _config(file: Path) -> Any:
    try:
        config = AutoConfig.for_model(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{file}: not a model configuration: {error}") from error
    if config.is_encoder_decoder:
        raise ModelError(f"{file}: {config.model_type} has an encoder and a decoder; causal LMs and encoders only")
    config.use_cache = False
    return config


def is_encoder(config: Any) -> bool:
    """Whether the model reads both ways and so has no next-token answer (BERT and its like)."""
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    return masked or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def initial_lm(config_file: Path, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    """A model of the architecture in `config_file` in `dtype`, initialised from `seed` (global generator kept)."""
    config = _config(config_file)
    factory = AutoModel if is_encoder(config) else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]


def load_lm(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """The model of a folder in `dtype` on the CPU, in evaluation mode; raises ModelError when weights don't fit."""
    files = weight_files(folder)
    if config.model_type in FAST_TYPES:
        return _mapped(folder, files, config, dtype)
    factory = AutoModel if is_encoder(config) else AutoModelForCausalLM
    try:
        lm, info = factory.from_pretrained(  # type: ignore[misc]
            str(folder), config=config, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: weights: a file does not fit config.json: {error}") from error
    missing = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if missing or info["mismatched_keys"]:
        raise ModelError(f"{folder}: missing {missing[:5]}, of another shape {sorted(info['mismatched_keys'])[:5]}")
    return lm.eval()


def _mapped(folder: Path, files: list[Path], config: Any, dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    names = {name for name, _ in lm.named_parameters(remove_duplicate=False)}
    try:
        given = {name: value for file in files for name, value in load_file(file).items()}
        # A cast makes a copy; without one the parameter is the file's page.
        weights = {name: value.to(dtype) for name, value in given.items() if name in names}
        tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
        missing = names - weights.keys() - tied
        unexpected = [name for name in given if name not in names and not name.endswith("rotary_emb.inv_freq")]
        if missing or unexpected:
            raise ModelError(f"{folder}: weights: missing {sorted(missing)[:5]}, unexpected {unexpected[:5]}")
        lm.load_state_dict(weights, strict=False, assign=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ModelError(f"{folder}: weights: a file does not fit config.json: {error}") from error
    if tied:
        lm.lm_head.weight = lm.model.embed_tokens.weight
    lm.model.rotary_emb = type(lm.model.rotary_emb)(config=config)  # its buffers were made without storage
    return lm.eval()


def stored_dtype(folder: Path) -> torch.dtype:
    """The type of a folder's weights: bfloat16 or float32 (also for what is stored in any other)."""
    with safe_open(weight_files(folder)[0], framework="pt") as file:
        name = next(iter(file.keys()), None)
        half = name is not None and file.get_slice(name).get_dtype() == "BF16"
    return torch.bfloat16 if half else torch.float32


def save_weights(lm: Any, path: Path) -> None:
    """Write each distinct parameter once (a tied head is left out)."""
    save_file({name: value.detach().contiguous() for name, value in lm.named_parameters()}, path)
