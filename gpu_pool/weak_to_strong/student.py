"""Students are data, not code: named tensors in one safetensors file, with a JSON manifest in its metadata.

Four kinds. `lm`: tensors of the base model that training changed. `lora`: low-rank adapters of its linear layers, and
nothing of the base. `head`: a linear head on the standardised state of one layer at the position that answers.
`ensemble`: a weighted mean of the members' probabilities. Inference is always this library's. Promise: `Student.load`
executes nothing from the file and refuses whatever does not fit the base model with StudentError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from gpu_pool.weak_to_strong.errors import StudentError
from gpu_pool.weak_to_strong.items import ItemSet
from gpu_pool.weak_to_strong.models import FloatArray, LabelModel, lora, sigmoid, softmax
from gpu_pool.weak_to_strong.tokens import TokenTable

LABEL_HEAD = "label_head"
MAX_MEMBERS = 32
MAX_DEPTH = 3
MAX_RANK = 1024
MAX_MANIFEST = 64 * 1024
MAX_FILE_BYTES = 1 << 35
"""Whoever hands a file over has a limit of its own; names, shapes and types are checked before a tensor is read."""
Tensors = Mapping[str, torch.Tensor]


class _Node(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LmNode(_Node):
    """Manifest of an `lm` student."""

    kind: Literal["lm"] = "lm"


class LoraNode(_Node):
    """Manifest of a `lora` student: the adapters' rank and alpha (see models.lora for the formula)."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(ge=1, le=MAX_RANK)
    alpha: float = Field(gt=0, le=1e6)


class HeadNode(_Node):
    """Manifest of a `head` student: the layer it reads, 0 (embedding) to the number of layers (final norm)."""

    kind: Literal["head"] = "head"
    layer: int = Field(ge=0, le=1000)


class EnsembleNode(_Node):
    """Manifest of an `ensemble` student: members, and their weights (not negative, sum above 0)."""

    kind: Literal["ensemble"] = "ensemble"
    members: list[Node] = Field(min_length=1, max_length=MAX_MEMBERS)
    weights: list[float] = Field(min_length=1, max_length=MAX_MEMBERS)


AnyNode = LmNode | LoraNode | HeadNode | EnsembleNode
Node = Annotated[AnyNode, Field(discriminator="kind")]
EnsembleNode.model_rebuild()


class Manifest(_Node):
    """What the file's metadata says: a version and the tree of students."""

    version: Literal[1] = 1
    student: Node


class Inputs:
    """Items as a base model reads them, for many students of it: what one has computed the next one finds."""

    def __init__(self, base: LabelModel, items: ItemSet) -> None:
        self.base = base
        self.items = items
        self._states: dict[int, FloatArray] = {}

    @cached_property
    def tokens(self) -> TokenTable:
        """Token ids of each item's text."""
        return self.base.tokenize(self.items)

    def states(self, layer: int) -> FloatArray:
        """The base's states (n, d) after `layer`, at the position that answers."""
        if layer not in self._states:
            self._states[layer] = self.base.states(self.tokens, [layer])[:, 0]
        return self._states[layer]


@dataclass(frozen=True, eq=False)
class Student:
    """One student; `tensors` are named by their path in the tree (`0/1/weight` is member 1 of member 0)."""

    base: LabelModel
    node: AnyNode
    tensors: Tensors

    @classmethod
    def from_model(cls, model: LabelModel, base: LabelModel) -> Student:
        """The tensors of `model` that differ from `base`, as a student; with adapters, those alone and its own head."""
        if model.lora is not None:
            adapters = {k: v.detach().float() for k, v in lora.parameters(model.lm).items()}
            return cls(base, LoraNode(rank=model.lora.rank, alpha=model.lora.alpha), adapters | _own_head(model, base))
        own, reference = lm_tensors(model), lm_tensors(base)
        changed = {k: v for k, v in own.items() if k not in reference or not torch.equal(v, reference[k])}
        return cls(base, LmNode(), changed)

    @classmethod
    def head(
        cls,
        base: LabelModel,
        layer: int,
        weight: npt.ArrayLike,
        bias: float,
        mean: npt.ArrayLike,
        std: npt.ArrayLike,
    ) -> Student:
        """P(label 1) = sigmoid(((h - mean) / std) . weight + bias), h (d,) the state after `layer`; all (d,)."""
        arrays = {"weight": weight, "bias": [bias], "mean": mean, "std": std}
        tensors = {k: torch.from_numpy(np.array(v, dtype=np.float32)) for k, v in arrays.items()}
        student = cls(base, HeadNode(layer=layer), tensors)
        _check(student.node, student.tensors, base, "")
        return student

    @classmethod
    def ensemble(cls, students: Sequence[Student], weights: Sequence[float] | None = None) -> Student:
        """The weighted mean of the students' probabilities (equal weights by default)."""
        if not students:
            raise StudentError("an ensemble needs at least one student")
        chosen = [float(w) for w in (weights if weights is not None else [1.0] * len(students))]
        try:
            node = EnsembleNode(members=[s.node for s in students], weights=chosen)
        except ValidationError as error:
            raise StudentError(f"ensemble refused: {_first_line(error)}") from error
        tensors = {f"{i}/{name}": t for i, s in enumerate(students) for name, t in s.tensors.items()}
        student = cls(students[0].base, node, tensors)
        _check(node, tensors, student.base, "")
        return student

    def predict(self, items: ItemSet | Inputs) -> FloatArray:
        """Probabilities (n, 2), rows sum to 1; raises StudentError when a value is not finite."""
        return self.pool(self.opinions(items))

    def opinions(self, items: ItemSet | Inputs) -> npt.NDArray[np.float64]:
        """P(label 1) by each of the k members of an ensemble, (n, k); of any other student its own, (n, 1)."""
        node, given = self.node, items if isinstance(items, Inputs) else Inputs(self.base, items)
        inputs = given if given.base is self.base else Inputs(self.base, given.items)
        if not isinstance(node, EnsembleNode):
            return _predict(node, self.tensors, inputs)[:, None]
        return np.stack(_members(node, self.tensors, inputs), axis=1)

    def pool(self, opinions: npt.ArrayLike) -> FloatArray:
        """What `predict` gives (n, 2) when the members' opinions are `opinions` (n, k); raises as `predict`."""
        node = self.node
        weights = node.weights if isinstance(node, EnsembleNode) else None
        probs = np.average(np.asarray(opinions, dtype=np.float64), axis=1, weights=weights)
        if not np.isfinite(probs).all():
            raise StudentError("the student gives a probability that is not finite")
        return np.stack([1 - probs, probs], axis=1).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        manifest = Manifest(student=self.node).model_dump_json()
        tensors = {name: t.detach().clone().contiguous() for name, t in self.tensors.items()}
        save_file(tensors, path, metadata={"student": manifest})

    @classmethod
    def load(cls, path: Path, base: LabelModel) -> Student:
        """Read a student file for `base`.

        Refused with StudentError: no safetensors file, an unknown manifest, an ensemble that is too large or too deep,
        a tensor whose name, shape or type `base` does not expect, a value that is not finite.
        """
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise StudentError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes")
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get("student", "")
                if len(text) > MAX_MANIFEST:
                    raise StudentError(f"{path.name}: manifest is larger than {MAX_MANIFEST} characters")
                node = Manifest.model_validate_json(text).student
                expected = expected_tensors(node, base)
                names = set(file.keys())
                if names - set(expected):
                    raise StudentError(f"{path.name}: unknown tensors {sorted(names - set(expected))[:3]}")
                for name in names:
                    _check_header(file.get_slice(name), name, expected[name])
                tensors = {name: file.get_tensor(name) for name in sorted(names)}
        except (OSError, SafetensorError, RecursionError, UnicodeError) as error:
            raise StudentError(f"{path.name} is not a student file: {error}") from error
        except ValidationError as error:
            raise StudentError(f"{path.name}: manifest refused: {_first_line(error)}") from error
        _check(node, tensors, base, "")
        return cls(base, node, tensors)


def lm_tensors(model: LabelModel) -> dict[str, torch.Tensor]:
    """The distinct tensors of a label model by name, float32 (a tied head once, separate label rows `label_head`)."""
    tensors = {name: value.detach().float() for name, value in model.lm.named_parameters()}
    if model.label_head is not None:
        tensors[LABEL_HEAD] = model.label_head.detach()
    return tensors


def _own_head(model: LabelModel, base: LabelModel) -> dict[str, torch.Tensor]:
    if model.label_head is None or (base.label_head is not None and torch.equal(model.label_head, base.label_head)):
        return {}
    return {LABEL_HEAD: model.label_head.detach()}


def expected_tensors(node: AnyNode, base: LabelModel, prefix: str = "", depth: int = 1) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a student of this tree may hold; raises StudentError when it is too deep or too large."""
    if depth > MAX_DEPTH:
        raise StudentError(f"ensembles may be nested {MAX_DEPTH - 1} deep at most")
    if isinstance(node, LmNode):
        shapes = {prefix + name: tuple(value.shape) for name, value in base.lm.named_parameters()}
        shapes[prefix + LABEL_HEAD] = (2, base.width)
        return shapes
    if isinstance(node, LoraNode):
        shapes = {prefix + LABEL_HEAD: (2, base.width)}
        for name, (wide, tall) in lora.targets(base.lm).items():
            shapes |= {f"{prefix}{name}.lora_A": (node.rank, wide), f"{prefix}{name}.lora_B": (tall, node.rank)}
        return shapes
    if isinstance(node, HeadNode):
        if node.layer > base.layers:
            raise StudentError(f"head reads layer {node.layer}, the model has {base.layers}")
        width = (base.width,)
        return {f"{prefix}weight": width, f"{prefix}bias": (1,), f"{prefix}mean": width, f"{prefix}std": width}
    if _leaves(node) > MAX_MEMBERS:
        raise StudentError(f"an ensemble may hold {MAX_MEMBERS} students at most")
    shapes = {}
    for number, member in enumerate(node.members):
        shapes |= expected_tensors(member, base, f"{prefix}{number}/", depth + 1)
    return shapes


def _leaves(node: AnyNode) -> int:
    return sum(_leaves(m) for m in node.members) if isinstance(node, EnsembleNode) else 1


def _check_header(header: object, name: str, shape: tuple[int, ...]) -> None:
    given, dtype = tuple(header.get_shape()), str(header.get_dtype())  # type: ignore[attr-defined]
    if given != shape or dtype != "F32":
        raise StudentError(f"tensor {name!r} is {dtype} {given}, expected F32 {shape}")


def _check(node: AnyNode, tensors: Tensors, base: LabelModel, prefix: str) -> None:
    """Shapes, finiteness, completeness and weights of a whole tree."""
    if prefix == "":
        expected = expected_tensors(node, base)
        for name, value in tensors.items():
            if expected.get(name) != tuple(value.shape) or value.dtype != torch.float32:
                raise StudentError(f"tensor {name!r} is {tuple(value.shape)}, expected {expected.get(name)} float32")
            if not bool(torch.isfinite(value).all()):
                raise StudentError(f"tensor {name!r} holds a value that is not finite")
    if isinstance(node, LoraNode):
        halves = {name[:-1] for name in tensors if name.startswith(prefix) and name.endswith((".lora_A", ".lora_B"))}
        alone = [half for half in halves if not {f"{half}A", f"{half}B"} <= tensors.keys()]
        if alone:
            raise StudentError(f"adapter {min(alone)!r} lacks its A or B")
    if isinstance(node, HeadNode):
        missing = [n for n in ("weight", "bias", "mean", "std") if prefix + n not in tensors]
        if missing:
            raise StudentError(f"head lacks {missing}")
        if float(tensors[f"{prefix}std"].min()) <= 0:
            raise StudentError("a head's std must be above 0")
    if isinstance(node, EnsembleNode):
        weights = node.weights
        if len(weights) != len(node.members) or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
            raise StudentError("an ensemble needs one weight a member, none negative, with a sum above 0")
        for number, member in enumerate(node.members):
            _check(member, tensors, base, f"{prefix}{number}/")


def _predict(node: AnyNode, tensors: Tensors, inputs: Inputs) -> npt.NDArray[np.float64]:
    """P(label 1) of each item (n,)."""
    if isinstance(node, EnsembleNode):
        return np.average(np.stack(_members(node, tensors, inputs)), axis=0, weights=node.weights)
    if isinstance(node, HeadNode):
        hidden = inputs.states(node.layer)
        weight, bias, mean, std = (tensors[n].numpy().astype(np.float64) for n in ("weight", "bias", "mean", "std"))
        return sigmoid((hidden - mean) / std @ weight + bias[0]).astype(np.float64)
    rank = (node.rank, node.alpha) if isinstance(node, LoraNode) else None
    logits = to_model(tensors, inputs.base, rank).logits(inputs.tokens)
    return softmax(logits)[:, 1].astype(np.float64)


def _members(node: EnsembleNode, tensors: Tensors, inputs: Inputs) -> list[npt.NDArray[np.float64]]:
    """P(label 1) of each item (n,) by each member."""
    found = []
    for number, member in enumerate(node.members):
        own = {k.removeprefix(f"{number}/"): v for k, v in tensors.items() if k.startswith(f"{number}/")}
        found.append(_predict(member, own, inputs))
    return found


def to_model(tensors: Tensors, base: LabelModel, rank: tuple[int, float] | None = None) -> LabelModel:
    """A model for inference: `base` with the tensors of an `lm` student, or of a `lora` one with (rank, alpha), put in.

    What the student does not hold is the base's own memory: read only.
    """
    if rank is None:
        model = base.copy("head")
        parameters: Mapping[str, nn.Parameter] = dict(model.lm.named_parameters())
    else:
        model = base.copy(f"lora:{rank[0]}")
        model.adapt(lora.LoraSettings(*rank), seed=0)
        parameters = lora.parameters(model.lm)
    for name, value in tensors.items():
        if name == LABEL_HEAD:
            model.label_head = nn.Parameter(value.to(base.device, copy=True))
        else:
            parameters[name].data = value.to(parameters[name].device, copy=True)
    return model


def _first_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"[:300]
