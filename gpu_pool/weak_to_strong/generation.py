"""Text generation and scoring behind one small interface, for critiques and other written intermediate steps.

One-token label probabilities do not belong here: `LabelModel` gives them faster. `TransformersGenerator` works with any
causal LM in memory; `VllmGenerator` needs a GPU and the `vllm` extra.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from gpu_pool.weak_to_strong.errors import ModelError
from gpu_pool.weak_to_strong.models import FloatArray

BATCH = 128


class Generator(Protocol):
    """Writes and scores continuations of prompts, both deterministic by their arguments."""

    def generate(
        self, prompts: Sequence[str], n: int = 1, max_tokens: int = 64, temperature: float = 1.0, seed: int = 0
    ) -> list[list[str]]:
        """`n` continuations of each prompt, of at most `max_tokens` tokens; temperature 0 is greedy (and n copies)."""

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> FloatArray:
        """log P(continuation | prompt) in nats, summed over the continuation's tokens (m,), one for each prompt."""


class TransformersGenerator:
    """Generation with a Hugging Face causal LM and its tokenizer.

    Prompts are padded on the left, with positions and mask that ignore the padding, and sorted by length into batches.
    The global random state is kept as it was.
    """

    def __init__(self, lm: Any, tokenizer: Any) -> None:
        self._lm = lm
        self._tokenizer = tokenizer
        ends = {lm.config.eos_token_id, lm.config.bos_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}
        self._ends = sorted(int(end) for end in ends if isinstance(end, int))
        self._pad = int(tokenizer.pad_token_id or 0)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], n: int = 1, max_tokens: int = 64, temperature: float = 1.0, seed: int = 0
    ) -> list[list[str]]:
        """See `Generator.generate`; ends at an end or begin token, which is left out."""
        rows = self._encode(prompts)
        out: list[list[str]] = [[] for _ in prompts]
        device = self._lm.get_input_embeddings().weight.device
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for index in _by_length(rows):
                ids, mask = left_padded([rows[i] for i in index for _ in range(n)], self._pad)
                written = self._lm.generate(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device),
                    max_new_tokens=max_tokens,
                    pad_token_id=self._pad,
                    eos_token_id=self._ends or None,
                    use_cache=True,
                    **sampling,
                )
                texts = self._texts(written[:, ids.shape[1] :].tolist())
                for at, i in enumerate(index):
                    out[i] = texts[at * n : (at + 1) * n]
        return out

    @torch.no_grad()
    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> FloatArray:
        """See `Generator.score`; prompt and continuation are tokenised apart, so the prompt's tokens never change."""
        heads, tails = self._encode(prompts), self._encode(continuations, special=False)
        rows = [[*head, *tail] for head, tail in zip(heads, tails, strict=True)]
        out = np.zeros(len(rows), dtype=np.float32)
        device = self._lm.get_input_embeddings().weight.device
        for index in _by_length(rows):
            ids, mask = left_padded([rows[i] for i in index], self._pad)
            positions = (mask.cumsum(-1) - 1).clamp_min(0)
            logits = self._lm(
                input_ids=ids.to(device), attention_mask=mask.to(device), position_ids=positions.to(device)
            ).logits
            each = torch.log_softmax(logits[:, :-1].float(), -1).gather(-1, ids[:, 1:, None].to(device))[..., 0]
            for row, i in enumerate(index):
                out[i] = float(each[row, each.shape[1] - len(tails[i]) :].sum()) if tails[i] else 0.0
        return out

    def _encode(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        encoded = self._tokenizer.backend_tokenizer.encode_batch(list(texts), add_special_tokens=special)
        return [list(row.ids) for row in encoded]

    def _texts(self, rows: list[list[int]]) -> list[str]:
        cut = []
        for row in rows:
            end = next((at for at, token in enumerate(row) if token in self._ends), len(row))
            cut.append(row[:end])
        return [str(text) for text in self._tokenizer.backend_tokenizer.decode_batch(cut)]


class VllmGenerator:
    """The same with vLLM, for models and amounts of text that pay for an engine's start (a minute and more).

    Thin on purpose and never run where this was written, which has no vLLM: the calls follow vLLM's documented `LLM`,
    `SamplingParams(n, temperature, max_tokens, seed)` and `prompt_logprobs`.
    """

    def __init__(self, model: Path | str, **options: Any) -> None:
        try:
            vllm: Any = importlib.import_module("vllm")
        except ImportError as error:
            raise ModelError(
                "vllm is not installed: pip install 'aar-cluster[vllm]', on a machine with a GPU"
            ) from error
        self._vllm = vllm
        self._llm = vllm.LLM(model=str(model), **options)

    def generate(
        self, prompts: Sequence[str], n: int = 1, max_tokens: int = 64, temperature: float = 1.0, seed: int = 0
    ) -> list[list[str]]:
        """See `Generator.generate`."""
        settings = self._vllm.SamplingParams(
            n=n if temperature > 0 else 1, temperature=temperature, max_tokens=max_tokens, seed=seed
        )
        written = [[output.text for output in answer.outputs] for answer in self._llm.generate(list(prompts), settings)]
        return written if temperature > 0 else [texts * n for texts in written]

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> FloatArray:
        """See `Generator.score`."""
        tokenizer = self._llm.get_tokenizer()
        tails = [tokenizer.encode(text, add_special_tokens=False) for text in continuations]
        rows = [{"prompt_token_ids": [*tokenizer.encode(p), *tail]} for p, tail in zip(prompts, tails, strict=True)]
        settings = self._vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        out = []
        for answer, tail in zip(self._llm.generate(rows, settings), tails, strict=True):
            behind = answer.prompt_logprobs[len(answer.prompt_logprobs) - len(tail) :]
            out.append(sum(entry[token].logprob for entry, token in zip(behind, tail, strict=True)))
        return np.array(out, dtype=np.float32)


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (b, longest), int64; padding stands on the left and has mask 0."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _by_length(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    return [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
