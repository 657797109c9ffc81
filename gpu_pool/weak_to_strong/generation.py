"""Text generation and scoring behind one small interface, for critiques and other written intermediate steps.

`TransformersGenerator` works with any causal LM in memory; `VllmGenerator` with a model folder, in an environment that
has vLLM. Both give the same greedy texts and the same probabilities up to rounding. For one-token label probabilities
alone `LabelModel` is the faster way; `label_log_probs` asks a generator that is there anyway.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from gpu_pool.weak_to_strong.errors import ModelError
from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel, texts, weights
from gpu_pool.weak_to_strong.models.memory import in_parts
from gpu_pool.weak_to_strong.models.texts import load_tokenizer

BATCH = 128
Engine = Literal["transformers", "vllm"]
Prompts = Sequence[str] | Sequence[Sequence[int]]


class Generator(Protocol):
    """Writes and scores continuations of prompts, both deterministic by their arguments."""

    def generate(
        self, prompts: Prompts, n: int = 1, max_tokens: int = 64, temperature: float = 1.0, seed: int = 0
    ) -> list[list[str]]:
        """`n` continuations of each prompt, of at most `max_tokens` tokens; temperature 0 is greedy (and n copies).

        Prompts are texts, or token ids where a text alone does not say which are special.
        """

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> FloatArray:
        """log P(continuation | prompt) in nats, summed over the continuation's tokens (m,), one for each prompt."""

    def choose(self, rows: Sequence[Sequence[int]], tokens: Sequence[int]) -> FloatArray:
        """log P (m, k) in nats of each of k `tokens` as the one that follows; `rows` are m prompts as token ids."""


class TransformersGenerator:
    """Generation with a Hugging Face causal LM and its tokenizer.

    Prompts are padded on the left, with positions and mask that ignore the padding, and sorted by length into batches,
    which are halved when memory runs out. The global random state is kept as it was.
    """

    def __init__(self, lm: Any, tokenizer: Any) -> None:
        """Raises ModelError for a model that cannot write."""
        _check_writes(lm)
        self._lm = lm
        self._tokenizer = tokenizer
        self._ends = _ends(lm.config, tokenizer)
        self._pad = int(tokenizer.pad_token_id or 0)

    @torch.no_grad()
    def generate(
        self, prompts: Prompts, n: int = 1, max_tokens: int = 64, temperature: float = 1.0, seed: int = 0
    ) -> list[list[str]]:
        """See `Generator.generate`; ends at an end or begin token, which is left out."""
        rows = _encode(self._tokenizer, prompts)
        out: list[list[str]] = [[] for _ in prompts]
        device = self._lm.get_input_embeddings().weight.device
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}

        def write(index: list[int]) -> None:
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
            answers = _decode(self._tokenizer, written[:, ids.shape[1] :].tolist(), self._ends)
            for at, i in enumerate(index):
                out[i] = answers[at * n : (at + 1) * n]

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            in_parts(_by_length(rows), write)
        return out

    @torch.no_grad()
    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> FloatArray:
        """See `Generator.score`; prompt and continuation are tokenised apart, so the prompt's tokens never change."""
        heads = _encode(self._tokenizer, prompts)
        tails = _encode(self._tokenizer, continuations, special=False)
        rows = [[*head, *tail] for head, tail in zip(heads, tails, strict=True)]
        out = np.zeros(len(rows), dtype=np.float32)
        device = self._lm.get_input_embeddings().weight.device

        def score(index: list[int]) -> None:
            ids, mask = left_padded([rows[i] for i in index], self._pad)
            positions = (mask.cumsum(-1) - 1).clamp_min(0)
            logits = self._lm(
                input_ids=ids.to(device), attention_mask=mask.to(device), position_ids=positions.to(device)
            ).logits
            each = torch.log_softmax(logits[:, :-1].float(), -1).gather(-1, ids[:, 1:, None].to(device))[..., 0]
            for row, i in enumerate(index):
                out[i] = float(each[row, each.shape[1] - len(tails[i]) :].sum()) if tails[i] else 0.0

        in_parts(_by_length(rows), score)
        return out

    @torch.no_grad()
    def choose(self, rows: Sequence[Sequence[int]], tokens: Sequence[int]) -> FloatArray:
        """See `Generator.choose`."""
        out = np.zeros((len(rows), len(tokens)), dtype=np.float32)
        device = self._lm.get_input_embeddings().weight.device

        def choose(index: list[int]) -> None:
            ids, mask = left_padded([rows[i] for i in index], self._pad)
            positions = (mask.cumsum(-1) - 1).clamp_min(0)
            logits = self._lm(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=positions.to(device),
                logits_to_keep=1,
            ).logits
            out[index] = torch.log_softmax(logits[:, -1].float(), -1)[:, list(tokens)].cpu().numpy()

        in_parts(_by_length(rows), choose)
        return out


class VllmGenerator:
    """The same with vLLM: one engine with one model folder, started here and ended by `close`.

    When it pays: for long continuations of many prompts by a large model, which it writes side by side as room comes
    free, where `TransformersGenerator` pads a batch and waits for its longest text. It does not pay for one-token
    answers (priors, evaluations): both engines then read each prompt once, so the start of an engine (on a GPU a minute
    and more, expected; nothing here has run on one) is lost, unless it is up for its texts anyway. At the size of
    the generated domains it never pays. Prompts that share a long beginning are read once; scores are an exception.

    Prompts are tokenised as `TransformersGenerator` does it and never by vLLM, and answers are decoded the same way.
    Sampled texts follow `seed`, and each prompt and each place in the list has a random stream of its own; the streams
    are others than those of `TransformersGenerator`.
    """

    def __init__(self, folder: Path | str, **options: Any) -> None:
        """`folder` is a model folder; `options` go to `vllm.LLM` (`dtype`, `max_model_len`, ...). Raises ModelError."""
        try:
            self._vllm: Any = importlib.import_module("vllm")
            client_error = importlib.import_module("vllm.exceptions").VLLMClientError
        except ImportError as error:
            raise ModelError(
                "vllm is not installed here: pip install 'aar-cluster[vllm]' on a machine with a GPU, or make an "
                "environment with scripts/vllm_env.sh"
            ) from error
        self._refusals: tuple[type[Exception], ...] = (ValueError, client_error)
        place = Path(folder)
        self._tokenizer = load_tokenizer(place)
        self._ends = _ends(weights.read_config(place), self._tokenizer)
        self._llm = self._vllm.LLM(model=str(place), skip_tokenizer_init=True, **{"seed": 0, **options})

    @classmethod
    def of(cls, model: LabelModel, folder: Path, **options: Any) -> VllmGenerator:
        """An engine with the present weights of `model`, adapters merged in, which are written to `folder` first."""
        _check_writes(model.lm)
        (model if model.lora is None else model.merged()).save(folder)
        return cls(folder, **{"dtype": "bfloat16" if model.in_half else "float32", **options})

    def generate(
        self, prompts: Prompts, n: int = 1, max_tokens: int = 64, temperature: float = 1.0, seed: int = 0
    ) -> list[list[str]]:
        """See `Generator.generate`; ends at an end or begin token, which is left out."""
        copies = n if temperature > 0 else 1
        settings = [
            self._vllm.SamplingParams(
                n=copies,
                temperature=temperature,
                max_tokens=max_tokens,
                seed=_stream(seed, number),
                stop_token_ids=self._ends,
                detokenize=False,
            )
            for number in range(len(prompts))
        ]
        answers = self._ask(_encode(self._tokenizer, prompts), settings)
        rows = [list(output.token_ids) for answer in answers for output in answer.outputs]
        decoded = _decode(self._tokenizer, rows, self._ends)
        written = [decoded[at : at + copies] for at in range(0, len(decoded), copies)]
        return written if temperature > 0 else [each * n for each in written]

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> FloatArray:
        """See `Generator.score`."""
        heads = _encode(self._tokenizer, prompts)
        tails = _encode(self._tokenizer, continuations, special=False)
        settings = self._vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        rows = [[*head, *tail] for head, tail in zip(heads, tails, strict=True)]
        out = []
        for answer, tail in zip(self._ask(rows, settings), tails, strict=True):
            behind = answer.prompt_logprobs[len(answer.prompt_logprobs) - len(tail) :]
            out.append(sum(entry[token].logprob for entry, token in zip(behind, tail, strict=True)))
        return np.array(out, dtype=np.float32)

    def choose(self, rows: Sequence[Sequence[int]], tokens: Sequence[int]) -> FloatArray:
        """See `Generator.choose`."""
        wanted = list(tokens)
        settings = self._vllm.SamplingParams(
            max_tokens=1, temperature=0.0, logprobs=len(wanted), logprob_token_ids=wanted, detokenize=False
        )
        answers = self._ask([list(map(int, row)) for row in rows], settings)
        found = [answer.outputs[0].logprobs[0] for answer in answers]
        return np.array([[entry[token].logprob for token in tokens] for entry in found], dtype=np.float32)

    def _ask(self, rows: list[list[int]], settings: Any) -> Any:
        prompts = [{"prompt_token_ids": row} for row in rows]
        try:
            return self._llm.generate(prompts, settings, use_tqdm=False)
        except self._refusals as error:  # a prompt that is empty, or longer than the engine's context
            raise ModelError(f"vllm refuses a prompt: {error}") from error

    def close(self) -> None:
        """End the engine and free its memory."""
        self._llm.llm_engine.engine_core.shutdown()


@contextmanager
def bulk_generator(model: LabelModel, engine: Engine = "transformers") -> Iterator[Generator]:
    """A generator with the present weights of `model` for one large piece of writing; `VllmGenerator` says what pays.

    With `vllm` the weights pass through a temporary folder. On a GPU the engine takes 0.9 of the memory that is free.
    """
    if engine == "transformers":
        yield TransformersGenerator(model.lm, model.tokenizer)
        return
    options: dict[str, Any] = {}
    if model.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(model.device)
        options["gpu_memory_utilization"] = 0.9 * free / total
    with tempfile.TemporaryDirectory() as folder:
        writer = VllmGenerator.of(model, Path(folder), **options)
        try:
            yield writer
        finally:
            writer.close()


def label_log_probs(generator: Generator, model: LabelModel, items: ItemSet, *, prior: bool = False) -> FloatArray:
    """log P (n, 2) of the two label tokens as the next token, among the whole vocabulary; texts as `model` makes them.

    `prior` asks the zero-shot question: `sigmoid(margin - median(margin))` of the rows' differences is then what
    `LabelModel.zero_shot` gives. `generator` must hold the language model of `model`, whose own weights are not used.
    """
    names = model.fmt.answers(prior=prior)
    ids = [texts.single_token(model.tokenizer, name) for name in names]
    return generator.choose([row.tolist() for row in model.tokenize(items, prior=prior)], ids)


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (b, longest), int64; padding stands on the left and has mask 0."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _by_length(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    return [order[at : at + BATCH] for at in range(0, len(order), BATCH)]


def _check_writes(lm: Any) -> None:
    if not lm.can_generate():
        raise ModelError(
            f"{type(lm).__name__} writes no text: take a causal LM for what generates texts (as critic does)"
        )


def _encode(tokenizer: Any, given: Prompts, *, special: bool = True) -> list[list[int]]:
    texts_only = [prompt for prompt in given if isinstance(prompt, str)]
    if len(texts_only) < len(given):
        return [[int(token) for token in row] for row in given]
    encoded = tokenizer.backend_tokenizer.encode_batch(texts_only, add_special_tokens=special)
    return [list(row.ids) for row in encoded]


def _decode(tokenizer: Any, rows: Sequence[Sequence[int]], ends: Sequence[int]) -> list[str]:
    """The text of each row up to its first end."""
    cut = []
    for row in rows:
        end = next((at for at, token in enumerate(row) if token in ends), len(row))
        cut.append(list(row[:end]))
    return [str(text) for text in tokenizer.backend_tokenizer.decode_batch(cut)]


def _ends(config: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a text: those that end or begin one, by the model's configuration or by the tokenizer."""
    given = [config.eos_token_id, config.bos_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id]
    flat = [end for ends in given for end in (ends if isinstance(ends, list) else [ends])]
    return sorted({int(end) for end in flat if isinstance(end, int)})


def _stream(seed: int, number: int) -> int:
    """A seed of its own for prompt `number`: with one seed for all, vLLM would draw the same numbers for each."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
