"""A causal language model that judges items: two label tokens at the last position.

Right padding under causal attention needs no mask, because the last real token never sees the padding behind it;
batches are sorted by length. Only the two label rows of the head are computed, so probabilities are over the two
labels, not the vocabulary. A model folder holds `config.json`, `model.safetensors`, `tokenizer.json` and, when its
texts are not the default ones, `prompt.json`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from gpu_pool.weak_to_strong.errors import ModelError
from gpu_pool.weak_to_strong.items import FORMATS, ItemSet, Kind, PromptFormat

FloatArray = npt.NDArray[np.float32]
Tokens = Sequence[npt.NDArray[np.int64]]
PREDICT_BATCH = 32  # larger batches leave a core's 1 MB cache: measured 5,300 items/s at 32, 2,700 at 256


def pad(tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pad with 0: ids (b, longest) int64 and the index of each last token (b,)."""
    lengths = np.array([len(row) for row in tokens], dtype=np.int64)
    ids = np.zeros((len(tokens), int(lengths.max())), dtype=np.int64)
    for row, values in zip(ids, tokens, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(ids), torch.from_numpy(lengths - 1)


def length_sorted(tokens: Tokens, batch_size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Index batches over `tokens`, shortest first."""
    order = np.argsort(np.array([len(row) for row in tokens]), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


class LabelModel(nn.Module):
    """A Hugging Face causal LM with its tokenizer, text format and two label tokens.

    `label_head` (2, d) holds separate label rows once a training run has untied them from the language model's head;
    until then the head's own rows answer.
    """

    def __init__(self, lm: Any, tokenizer: PreTrainedTokenizerFast, kind: Kind, fmt: PromptFormat) -> None:
        super().__init__()
        self.lm = lm
        self.tokenizer = tokenizer
        self.kind: Kind = kind
        self.fmt = fmt
        self.label_ids = [_single_token(tokenizer, label) for label in fmt.labels]
        self.label_head: nn.Parameter | None = None

    @classmethod
    def load(cls, folder: Path, kind: Kind) -> LabelModel:
        """Load a model folder for items of `kind`; raises ModelError when a file is missing or does not fit."""
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            if not (folder / name).is_file():
                raise ModelError(f"model folder {folder} has no {name}")
        prompt = folder / "prompt.json"
        fmt = PromptFormat.load(prompt) if prompt.is_file() else FORMATS[kind]
        lm = initial_lm(folder / "config.json", seed=0)
        try:
            missing, unexpected = lm.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        except (SafetensorError, RuntimeError) as error:
            raise ModelError(f"{folder}/model.safetensors does not fit config.json: {error}") from error
        tied = {"lm_head.weight"} if lm.config.tie_word_embeddings else set()
        if set(missing) - tied or unexpected:
            raise ModelError(f"{folder}/model.safetensors: missing {missing}, unexpected {unexpected}")
        return cls(lm.eval(), load_tokenizer(folder / "tokenizer.json"), kind, fmt)

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return len(self.lm.model.layers)

    @property
    def width(self) -> int:
        """Width d of the hidden states."""
        return int(self.lm.config.hidden_size)

    def copy(self) -> LabelModel:
        """An independent model with equal weights; tokenizer and format are shared."""
        twin = LabelModel(copy.deepcopy(self.lm), self.tokenizer, self.kind, self.fmt)
        if self.label_head is not None:
            twin.label_head = nn.Parameter(self.label_head.detach().clone())
        return twin

    def tokenize(self, items: ItemSet, *, prior: bool = False) -> Tokens:
        """Token ids of each item's text, variable length; `prior` asks the zero-shot question."""
        if items.kind != self.kind:
            raise ModelError(f"the model judges {self.kind} items, got {items.kind}")
        texts = items.render(self.fmt, prior=prior)
        encoded = self.tokenizer.backend_tokenizer.encode_batch(texts)
        return [np.array(row.ids, dtype=np.int64) for row in encoded]

    def label_rows(self) -> torch.Tensor:
        """The two rows (2, d) that score the labels."""
        return self.lm.lm_head.weight[self.label_ids] if self.label_head is None else self.label_head

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token embeddings (b, t, d): the state below the first layer."""
        embedded: torch.Tensor = self.lm.model.embed_tokens(ids)
        return embedded

    def run_layers(self, state: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Layers `start` to `stop` on states (b, t, d), without the final norm."""
        body = self.lm.model
        positions = torch.arange(state.shape[1], device=state.device).unsqueeze(0)
        rotary = body.rotary_emb(state, positions)
        for layer in body.layers[start:stop]:
            state = layer(state, attention_mask=None, position_ids=positions, position_embeddings=rotary)
        return state

    def last_logits(self, state: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Label logits (b, 2) from top-layer states (b, t, d) at position `last` (b,)."""
        top = self.lm.model.norm(state[torch.arange(len(last)), last])
        logits: torch.Tensor = top @ self.label_rows().T
        return logits

    def forward(self, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Label logits (b, 2) of right-padded ids (b, t), with gradient."""
        return self.last_logits(self.run_layers(self.embed(ids), 0, self.layers), last)

    @torch.no_grad()
    def logits(self, tokens: Tokens) -> FloatArray:
        """Label logits (n, 2) in the order of `tokens`."""
        out = np.zeros((len(tokens), 2), dtype=np.float32)
        for index in length_sorted(tokens, PREDICT_BATCH):
            out[index] = self(*pad([tokens[i] for i in index])).numpy()
        return out

    def probs(self, items: ItemSet) -> FloatArray:
        """Probabilities (n, 2) of label 0 and 1; each row sums to 1."""
        return softmax(self.logits(self.tokenize(items)))

    @torch.no_grad()
    def hidden(self, items: ItemSet) -> FloatArray:
        """States at the last position, (n, layers + 1, d): index 0 the embedding, the last one after the final norm."""
        tokens = self.tokenize(items)
        out = np.zeros((len(tokens), self.layers + 1, self.width), dtype=np.float32)
        for index in length_sorted(tokens, PREDICT_BATCH):
            ids, last = pad([tokens[i] for i in index])
            rows = torch.arange(len(last))
            state = self.embed(ids)
            for depth in range(self.layers):
                out[index, depth] = state[rows, last].numpy()
                state = self.run_layers(state, depth, depth + 1)
            out[index, self.layers] = self.lm.model.norm(state[rows, last]).numpy()
        return out

    def zero_shot(self, items: ItemSet) -> FloatArray:
        """The model's own opinion (n,) = P(label 1) with no label seen.

        Calibrated without truth: the median margin over `items` is moved to zero, so half of them get label 1.
        """
        logits = self.logits(self.tokenize(items, prior=True))
        margin = logits[:, 1] - logits[:, 0]
        return sigmoid(margin - np.median(margin))

    def save(self, folder: Path) -> None:
        """Write the model folder; separate label rows are not part of it (a Student keeps them)."""
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.lm, folder / "model.safetensors")
        (folder / "config.json").write_text(self.lm.config.to_json_string(use_diff=False), encoding="utf-8")
        self.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        self.fmt.save(folder / "prompt.json")


def initial_lm(config_file: Path, seed: int) -> Any:
    """A float32 causal LM of the architecture in `config_file`, initialised from `seed` (global generator kept)."""
    try:
        raw = json.loads(config_file.read_text(encoding="utf-8"))
        config = AutoConfig.for_model(**raw)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{config_file}: not a model configuration: {error}") from error
    config.use_cache = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.float32, attn_implementation="sdpa"
        )


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a `tokenizer.json`."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(path), pad_token="<pad>", bos_token="<bos>", unk_token="<unk>"
    )


def save_weights(lm: Any, path: Path) -> None:
    """Write each distinct parameter once (a tied head is left out)."""
    save_file({name: value.detach().contiguous() for name, value in lm.named_parameters()}, path)


def softmax(logits: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Row-wise softmax of (n, k), float32."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(margin: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Logistic function, float32, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(margin, dtype=np.float64))), dtype=np.float32)


def _single_token(tokenizer: PreTrainedTokenizerFast, label: str) -> int:
    ids = tokenizer.backend_tokenizer.encode(label, add_special_tokens=False).ids
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ModelError(f"label {label!r} is not a single known token of the tokenizer")
    return int(ids[0])
