"""Where an experiment's models come from: a folder, the hub, or pretraining in a generated world.

Promise: `key()` names the weights by their content or by everything they are made from, never by a path alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any, Literal, Protocol

from gpu_pool.weak_to_strong.domains import Domain, PretrainSpec, prepare_corpus, write_pretrain_inputs
from gpu_pool.weak_to_strong.folders import content_digests, resolve
from gpu_pool.weak_to_strong.formats import PUBLISHED, PromptFormat
from gpu_pool.weak_to_strong.items import Kind
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.models.texts import OverLong
from gpu_pool.weak_to_strong.presets import PRESETS
from gpu_pool.weak_to_strong.pretrain import pretrain_model
from gpu_pool.weak_to_strong.tasks.artefacts import Artefacts, code_version

_LIBRARY = "gpu_pool.weak_to_strong"
_WORLD_CODE = (f"{_LIBRARY}.domains", f"{_LIBRARY}.formats")
_PRETRAIN_CODE = (*_WORLD_CODE, f"{_LIBRARY}.pretrain", f"{_LIBRARY}.models")


def world_of(domain: Domain, task: str) -> str:
    """The full name of a generated task's world, `math:quick:0`: what a spec leaves out is filled in."""
    parts = task.split(":")
    return f"{domain.name}:{domain.spec.size}:{int(parts[3]) if len(parts) > 3 else 0}"


class ModelSource(Protocol):
    """A model that can be loaded, and named without loading it."""

    def key(self) -> str:
        """A hash of the model's content."""

    def load(self, kind: Kind, fmt: PromptFormat | None, device: str) -> LabelModel:
        """The model for items of `kind`; `fmt` None: the model's own texts. Raises ModelError."""


class ModelAt:
    """A model folder or a hub id (`owner/name`).

    `max_length`: tokens of a text; longer ones are cut or refused by `over_long`. `chat`: ask through the tokenizer's
    chat template, with the task's own text format or else the published one. A hub id among PRESETS is asked as it was
    published.
    """

    def __init__(
        self,
        folder_or_id: Path | str,
        max_length: int | None = None,
        *,
        chat: bool = False,
        over_long: OverLong = "cut",
    ) -> None:
        preset = PRESETS.get(str(folder_or_id))
        self._where = folder_or_id
        self._max_length = max_length or (None if preset is None else preset.max_length)
        self._chat = chat or (preset is not None and preset.chat)
        self._over_long: OverLong = over_long
        self._key = ""

    def key(self) -> str:
        """A hash of every file that loading may read, and of the settings."""
        if not self._key:
            digest = hashlib.blake2b(repr((self._max_length, self._chat, self._over_long)).encode(), digest_size=16)
            for name, content in content_digests(resolve(self._where)):
                digest.update(name.encode() + b"\0" + content)
            self._key = digest.hexdigest()
        return self._key

    def load(self, kind: Kind, fmt: PromptFormat | None, device: str) -> LabelModel:
        """The model, from disk each time."""
        if self._chat:
            fmt = dataclasses.replace(fmt or PUBLISHED[kind], chat=True)
        return LabelModel.load(
            resolve(self._where),
            kind,
            fmt=fmt,
            device=device,
            max_length=self._max_length,
            over_long=self._over_long,
        )


class Pretrained:
    """The weak or strong model of a generated world, pretrained when it is first needed and kept as an artefact.

    `world` names the world (`math:quick:0`); `spec` replaces the domain's own sizes, for other models of one world.
    """

    def __init__(
        self,
        domain: Domain,
        world: str,
        which: Literal["weak", "strong"],
        artefacts: Artefacts,
        spec: PretrainSpec | None = None,
    ) -> None:
        self._domain = domain
        self._which: Literal["weak", "strong"] = which
        self._artefacts = artefacts
        self._spec = spec or (domain.spec.strong if which == "strong" else domain.spec.weak)
        self._corpus: dict[str, Any] = {
            "world": world,
            "documents": domain.spec.documents,
            "code": code_version(*_WORLD_CODE),
        }
        self._made_from: dict[str, Any] = {
            "corpus": self._corpus,
            "spec": dataclasses.asdict(self._spec),
            "code": code_version(*_PRETRAIN_CODE),
        }

    def key(self) -> str:
        """A hash of the world, the sizes and the code: all that the weights depend on."""
        text = json.dumps(self._made_from, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def folder(self) -> Path:
        """The model folder, pretrained if it is not there."""
        return self._artefacts.folder("model", self._made_from, self._pretrain)

    def load(self, kind: Kind, fmt: PromptFormat | None, device: str) -> LabelModel:
        """The model; pretraining runs on the CPU."""
        return LabelModel.load(self.folder(), kind, fmt=fmt, device=device)

    def _pretrain(self, target: Path) -> None:
        corpus = self._artefacts.arrays("corpus", self._corpus, lambda: prepare_corpus(self._domain))
        with tempfile.TemporaryDirectory() as name:
            inputs = Path(name)
            params = write_pretrain_inputs(self._domain, self._which, inputs, corpus["tokens"])
            path = inputs / "model_config.json"
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(self._spec.shape.config(config["vocab_size"])), encoding="utf-8")
            spec = {field: getattr(self._spec, field) for field in params}
            pretrain_model(inputs, target, params | spec)
