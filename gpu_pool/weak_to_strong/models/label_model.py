"""A model that judges items: two label tokens of a causal LM at the last position, or a classification head.

Batches are sorted by length and only two rows of a head are computed, so probabilities are over the two labels and not
the vocabulary. A model folder holds `config.json`, `model.safetensors` (or shards with their index), a tokenizer and,
when its texts are not the default ones, `prompt.json`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from gpu_pool.weak_to_strong import folders
from gpu_pool.weak_to_strong.errors import ModelError
from gpu_pool.weak_to_strong.formats import PromptFormat
from gpu_pool.weak_to_strong.items import ItemSet, Kind
from gpu_pool.weak_to_strong.models import lora, texts, weights
from gpu_pool.weak_to_strong.models.activations import FloatArray, sigmoid, softmax
from gpu_pool.weak_to_strong.models.batches import Index, Tokens, each_batch
from gpu_pool.weak_to_strong.models.decoder import FAST_TYPES, Decoder, is_fast
from gpu_pool.weak_to_strong.models.generic_forward import Opaque
from gpu_pool.weak_to_strong.tokens import TokenTable

Readout = Literal["labels", "head"]
Pool = Literal["last", "first"]
HEAD_STD = 0.02
_PLAIN = (
    "tokenizer", "kind", "fmt", "readout", "pool", "max_length", "over_long", "lora", "label_ids", "_frame", "in_half",
)  # fmt: skip
"""Attributes that a copy shares: none of them is ever changed in place."""


class LabelModel(nn.Module):
    """A transformer with its tokenizer, text format and readout.

    Readout `labels`: the language model's own rows of the two label tokens answer, until a training run has untied
    them; then `label_head` (2, d) does. Readout `head`: `label_head` is a classification head from the start, on the
    state of the last or the first token (`pool`). `lora` are the settings of adapters when there are any.
    """

    def __init__(
        self,
        lm: Any,
        tokenizer: Any,
        kind: Kind,
        fmt: PromptFormat,
        *,
        readout: Readout = "labels",
        pool: Pool = "last",
        max_length: int | None = None,
        over_long: texts.OverLong = "cut",
    ) -> None:
        super().__init__()
        self.lm = lm
        self.tokenizer = tokenizer
        self.kind: Kind = kind
        self.fmt = fmt
        self.readout: Readout = readout
        self.pool: Pool = pool
        self.max_length = max_length
        self.over_long: texts.OverLong = over_long
        self.lora: lora.LoraSettings | None = None
        self.label_head: nn.Parameter | None = None
        self.decoder = Decoder(lm) if is_fast(lm) else None
        self.opaque = Opaque(lm) if self.decoder is None else None
        self.label_ids = [texts.single_token(tokenizer, label) for label in fmt.labels] if readout == "labels" else []
        self._frame = texts.chat_frame(tokenizer) if fmt.chat else None
        # Weights in half precision are trained as float32 masters and computed with under autocast.
        self.in_half = next(lm.parameters()).dtype == torch.bfloat16

    @classmethod
    def load(
        cls,
        folder_or_id: Path | str,
        kind: Kind,
        *,
        fmt: PromptFormat | None = None,
        readout: Readout | None = None,
        pool: Pool | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        max_length: int | None = None,
        over_long: texts.OverLong = "cut",
        seed: int = 0,
    ) -> LabelModel:
        """Load a local model folder or a hub id (`owner/name`) for items of `kind`.

        fmt: default `folders.prompt_format`. readout: default `labels` for causal LMs, `head` (drawn from `seed`) for
        encoders. pool: default the last token, of an encoder the first. dtype: default float32 on a CPU, bfloat16 on a
        GPU (that default has not been measured). max_length: tokens of a text, default what the format says or the
        positions allow; longer ones are cut or refused by `over_long`. Raises ModelError naming what is missing or does
        not fit.
        """
        folder, place = folders.resolve(folder_or_id), torch.device(device)
        config = weights.read_config(folder)
        encoder = weights.is_encoder(config)
        if encoder and readout == "labels":
            raise ModelError(f"{folder}: {config.model_type} predicts no next token: use readout='head'")
        dtype = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
        if dtype not in (torch.float32, torch.bfloat16):
            raise ModelError(f"dtype {dtype}: expected float32 or bfloat16")
        folders.weight_files(folder)
        tokenizer = texts.load_tokenizer(folder)
        fmt = fmt or folders.prompt_format(folder, kind)
        limit = max_length or fmt.max_length or getattr(config, "max_position_embeddings", None)
        model = cls(
            weights.load_lm(folder, config, dtype).to(place),
            tokenizer,
            kind,
            fmt,
            readout=readout or ("head" if encoder else "labels"),
            pool=pool or ("first" if encoder else "last"),
            max_length=limit,
            over_long=over_long,
        )
        if model.readout == "head":
            generator = torch.Generator().manual_seed(seed)
            rows = torch.randn(2, model.width, generator=generator) * HEAD_STD
            model.label_head = nn.Parameter(rows.to(place))
        return model

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return self._body.depth

    @property
    def width(self) -> int:
        """Width d of the hidden states."""
        return int(self.lm.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        place: torch.device = next(self.lm.parameters()).device
        return place

    @property
    def _body(self) -> Decoder | Opaque:
        body = self.decoder or self.opaque
        assert body is not None
        return body

    def copy(self, trainable: str = "full") -> LabelModel:
        """An independent model with equal weights; tokenizer and format are shared.

        What `trainable` (as in TrainConfig) leaves frozen is not copied: both models then read the same memory, which
        nobody may write.
        """
        moving = set(map(id, self.moving(trainable))) if trainable != "full" else None
        shared = {
            id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad)
            for p in self.lm.parameters()
            if moving is not None and id(p) not in moving
        }
        twin = LabelModel.__new__(LabelModel)
        nn.Module.__init__(twin)
        for name in _PLAIN:
            setattr(twin, name, getattr(self, name))
        twin.lm = copy.deepcopy(self.lm, dict(shared))
        twin.label_head = None if self.label_head is None else nn.Parameter(self.label_head.detach().clone())
        twin.decoder = Decoder(twin.lm) if self.decoder is not None else None
        twin.opaque = Opaque(twin.lm) if self.opaque is not None else None
        return twin

    def moving(self, trainable: str) -> list[nn.Parameter]:
        """The parameters that training `full`, `top:k`, `head`, `lora:r` or `lora:r:k` moves, without rows to come.

        Raises ModelError when the model cannot be trained so.
        """
        head = [] if self.label_head is None else [self.label_head]
        if trainable.startswith("lora:") or self.lora is not None:
            if self.lora is not None and trainable.split(":")[:2] != ["lora", str(self.lora.rank)]:
                raise ModelError(
                    f"the model has adapters of rank {self.lora.rank}: it trains with lora:{self.lora.rank}"
                )
            adapters, own = lora.parameters(self.lm), head if self.readout == "head" else []
            if trainable.count(":") < 2:
                return [*adapters.values(), *own]
            upper = set(map(id, self._upper(trainable).parameters()))
            return [*(p for p in adapters.values() if id(p) in upper), *own]
        if trainable == "full":
            return [*self.lm.parameters(), *head]
        if trainable == "head":
            return head
        return [*head, *self._upper(trainable).parameters(), *self._fast().body.norm.parameters()]

    def _upper(self, trainable: str) -> nn.ModuleList:
        """The k upper layers of `top:k` or `lora:r:k`."""
        depth = self.layers - int(trainable.rpartition(":")[2])
        if self.decoder is None:
            raise ModelError(f"trainable {trainable!r}: {self._no_layers()}; or train with full, head or lora:r")
        if depth < 0:
            raise ModelError(f"trainable {trainable!r}: the model has {self.layers} layers")
        upper: nn.ModuleList = self.decoder.body.layers[depth:]
        return upper

    def adapt(self, settings: lora.LoraSettings, seed: int) -> None:
        """Put adapters into the model unless it has such ones; raises ModelError when it has others."""
        if self.lora is None:
            lora.attach(self.lm, settings, seed)
            self.lora = settings
        elif self.lora != settings:
            raise ModelError(f"the model has adapters {self.lora}, cannot add {settings}")

    def merged(self) -> LabelModel:
        """An independent copy with equal answers and no adapters: they are added to its weights."""
        twin = self.copy()
        if twin.lora is not None:
            lora.merge(twin.lm)
            twin.lora = None
        return twin

    def untie(self) -> None:
        """Give the model label rows of its own, equal to the head's, so that the language model stays as it is."""
        if self.label_head is None:
            self.label_head = nn.Parameter(self.label_rows().detach().float().clone())

    def tokenize(self, items: ItemSet, *, prior: bool = False, ask: str | None = None, room: int = 0) -> TokenTable:
        """Token ids of each item's text, and which were cut.

        `prior` asks the zero-shot question, `ask` another one; `room` tokens of the context are left for an answer.
        Special tokens of the tokenizer that stand in an item are text like any other.
        """
        if items.kind != self.kind:
            raise ModelError(f"the model judges {self.kind} items, got {items.kind}")
        fmt = self.fmt if ask is None else dataclasses.replace(self.fmt, ask=ask)
        limit = None if self.max_length is None else self.max_length - room
        literal = {
            i: fmt.pieces(items.prompts[i], items.firsts[i], items.seconds[i], prior=prior)
            for i in texts.with_special(self.tokenizer, items.prompts, items.firsts, items.seconds)
        }
        rendered = items.render(fmt, prior=prior)
        return texts.encode(self.tokenizer, rendered, self._frame, limit, self.over_long, literal)

    def label_rows(self) -> torch.Tensor:
        """The two rows (2, d) that score the labels."""
        return self._token_rows(self.label_ids) if self.label_head is None else self.label_head

    def _token_rows(self, ids: list[int]) -> torch.Tensor:
        rows: torch.Tensor = self.lm.get_output_embeddings().weight[ids]
        return rows

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Token embeddings (b, t, d): the state below the first layer."""
        return self._fast().embed(ids)

    def run_layers(self, state: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Layers `start` to `stop` on states (b, t, d), without the final norm."""
        return self._fast().run(state, start, stop)

    def last_logits(self, state: torch.Tensor, last: torch.Tensor, start: int | None = None) -> torch.Tensor:
        """Label logits (b, 2) at position `last` (b,) from states (b, t, d) below layer `start` (default: the top)."""
        top = self._fast().top(state, self.layers if start is None else start, self._at(last))
        return self.read(top)

    def read(self, top: torch.Tensor) -> torch.Tensor:
        """Label logits (b, 2), float32, from the model's output (b, d) at the position that answers."""
        logits = top @ self.label_rows().T.to(top.dtype)
        return logits.float()

    def output(self, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """The model's output (b, d), after the final norm, at the position that answers; ids (b, t) right-padded."""
        if self.decoder is not None:
            return self.decoder.top(self.decoder.embed(ids), 0, self._at(last))
        return self._body_opaque().top(ids, last, self._at(last))

    def forward(self, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Label logits (b, 2) of right-padded ids (b, t), with gradient."""
        with self.precision():
            if self.opaque is not None and self.label_head is None:
                return self.opaque.label_logits(ids, last, self.label_ids).float()
            return self.read(self.output(ids, last))

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast to bfloat16 where the weights were loaded so."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.in_half else contextlib.nullcontext()

    def logits(self, tokens: Tokens) -> FloatArray:
        """Label logits (n, 2) in the order of `tokens`."""
        return self._infer(tokens, self, (2,))

    def probs(self, items: ItemSet) -> FloatArray:
        """Probabilities (n, 2) of label 0 and 1; each row sums to 1."""
        return softmax(self.logits(self.tokenize(items)))

    def hidden(self, items: ItemSet, layers: Sequence[int] | None = None) -> FloatArray:
        """`states` of the items' texts."""
        return self.states(self.tokenize(items), layers)

    def states(self, tokens: Tokens, layers: Sequence[int] | None = None) -> FloatArray:
        """States at the position that answers, (n, layers + 1, d): the embedding first, the last after the final norm.

        `layers` chooses some of them, (n, len(layers), d).
        """
        chosen = list(range(self.layers + 1)) if layers is None else [range(self.layers + 1)[k] for k in layers]

        def states(ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
            at = self._at(last)
            if self.decoder is None:
                return self._body_opaque().states(ids, last, at)[:, chosen]
            rows, found, state = torch.arange(len(at), device=ids.device), {}, self.decoder.embed(ids)
            for depth in range(max(chosen) + 1):
                if depth == self.layers:
                    found[depth] = self.decoder.top(state, depth - 1, at)
                    break
                found[depth] = state[rows, at]
                if depth + 1 < self.layers:
                    state = self.decoder.run(state, depth, depth + 1)
            return torch.stack([found[k] for k in chosen], dim=1)

        return self._infer(tokens, states, (len(chosen), self.width))

    def zero_shot(self, items: ItemSet) -> FloatArray:
        """The model's own prediction (n,) = P(label 1) with no label seen.

        Calibrated without truth: the median margin over `items` is moved to zero, so half of them get label 1.
        """
        if self.readout == "head":
            raise ModelError(
                "a classification head has no zero-shot prediction: take a causal LM with readout='labels'"
            )
        tokens = self.tokenize(items, prior=True)
        if self.fmt.prior_labels is None:
            logits = self.logits(tokens)
        else:
            ids = [texts.single_token(self.tokenizer, label) for label in self.fmt.answers(prior=True)]
            logits = self._infer(tokens, lambda rows, last: self._by_tokens(rows, last, ids), (2,))
        margin = logits[:, 1] - logits[:, 0]
        return sigmoid(margin - np.median(margin))

    def _by_tokens(self, ids: torch.Tensor, last: torch.Tensor, label_ids: list[int]) -> torch.Tensor:
        if self.opaque is not None:
            return self.opaque.label_logits(ids, last, label_ids)
        top = self.output(ids, last)
        return top @ self._token_rows(label_ids).T.to(top.dtype)

    @torch.no_grad()
    def _infer(
        self, tokens: Tokens, run: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], shape: tuple[int, ...]
    ) -> FloatArray:
        """`run` over length-sorted batches; rows (n, *shape) in the order of `tokens`."""
        out = np.zeros((len(tokens), *shape), dtype=np.float32)

        def batch(index: Index, ids: torch.Tensor, last: torch.Tensor) -> None:
            out[index] = run(ids, last).float().cpu().numpy()

        self.each_batch(tokens, batch)
        return out

    def each_batch(self, tokens: Tokens, work: Callable[[Index, torch.Tensor, torch.Tensor], None]) -> None:
        """`work(index, ids, last)` on length-sorted batches of `tokens` on the model's device, in its precision."""

        def batch(index: Index, ids: torch.Tensor, last: torch.Tensor) -> None:
            with self.precision():
                work(index, ids, last)

        each_batch(tokens, self.width, self.device, batch)

    def save(self, folder: Path) -> None:
        """Write the model folder; separate label rows and adapters are not part of it (a Student keeps them)."""
        if self.lora is not None:
            raise ModelError("a model with adapters is saved as a Student, which holds only them")
        folder.mkdir(parents=True, exist_ok=True)
        weights.save_weights(self.lm, folder / folders.WEIGHTS)
        (folder / "config.json").write_text(self.lm.config.to_json_string(use_diff=False), encoding="utf-8")
        if _is_bare(self.tokenizer):
            self.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        else:
            self.tokenizer.save_pretrained(str(folder))
        self.fmt.save(folder / folders.PROMPT)

    def _at(self, last: torch.Tensor) -> torch.Tensor:
        return last if self.pool == "last" else torch.zeros_like(last)

    def _fast(self) -> Decoder:
        if self.decoder is None:
            raise ModelError(self._no_layers())
        return self.decoder

    def _no_layers(self) -> str:
        return (
            f"{type(self.lm).__name__} does not show its single layers, which this needs: take a model of type "
            f"{', '.join(FAST_TYPES)} (full attention)"
        )

    def _body_opaque(self) -> Opaque:
        assert self.opaque is not None
        return self.opaque


def _is_bare(tokenizer: Any) -> bool:
    return not getattr(tokenizer, "name_or_path", "")
