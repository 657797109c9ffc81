from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gpu_pool.weak_to_strong.domains import Domain
from gpu_pool.weak_to_strong.errors import StudentError
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.student import MAX_MEMBERS, Student
from gpu_pool.weak_to_strong.trainer import TrainConfig, finetune

D = 16
HEAD = {"kind": "head", "layer": 1}
LM = {"kind": "lm"}


def head_tensors(prefix: str = "") -> dict[str, torch.Tensor]:
    return {
        f"{prefix}weight": torch.ones(D),
        f"{prefix}bias": torch.zeros(1),
        f"{prefix}mean": torch.zeros(D),
        f"{prefix}std": torch.ones(D),
    }


def write(path: Path, student: object, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path, metadata={"student": json.dumps({"version": 1, "student": student})})
    return path


def tuned(model: LabelModel, chat: Domain, trainable: str = "top:1") -> Student:
    items, labels = chat.sample(16, 1)
    twin = model.copy()
    finetune(twin, twin.tokenize(items), labels, TrainConfig(epochs=1, lr=1e-2, trainable=trainable))
    return Student.from_model(twin, model)


def test_each_kind_survives_the_file(model: LabelModel, chat: Domain, tmp_path: Path) -> None:
    items, _ = chat.sample(9, 2)
    lm = tuned(model, chat)
    head = Student.head(model, 2, np.linspace(-1, 1, D), 0.1, np.zeros(D), np.ones(D))
    for student in (lm, head, Student.ensemble([lm, head, Student.ensemble([head])], [1, 2, 0.5])):
        student.save(tmp_path / "s")
        loaded = Student.load(tmp_path / "s", model)
        probs = student.predict(items)
        assert np.array_equal(loaded.predict(items), probs)
        assert probs.shape == (9, 2)
        assert probs.dtype == np.float32
        assert np.allclose(probs.sum(axis=1), 1)


def test_lm_student_holds_only_what_changed(model: LabelModel, chat: Domain, tmp_path: Path) -> None:
    assert "model.embed_tokens.weight" not in tuned(model, chat).tensors
    same = Student.from_model(model.copy(), model)
    assert not same.tensors
    same.save(tmp_path / "same")
    items, _ = chat.sample(4, 2)
    assert np.allclose(Student.load(tmp_path / "same", model).predict(items), model.probs(items))


def test_ensemble_is_the_weighted_mean(model: LabelModel, chat: Domain) -> None:
    items, _ = chat.sample(6, 2)
    parts = [Student.head(model, 1, np.full(D, v), 0.0, np.zeros(D), np.ones(D)) for v in (0.1, -0.3)]
    mixed = Student.ensemble(parts, [3, 1]).predict(items)
    assert np.allclose(mixed, 0.75 * parts[0].predict(items) + 0.25 * parts[1].predict(items), atol=1e-6)


@pytest.mark.parametrize(
    ("student", "tensors", "says"),
    [
        (LM, {"evil": torch.zeros(1)}, "unknown tensors"),
        (LM, {"model.norm.weight": torch.zeros(D + 1)}, "expected"),
        (LM, {"model.norm.weight": torch.zeros(D, dtype=torch.float64)}, "F64"),
        (LM, {"model.norm.weight": torch.zeros(D, dtype=torch.int32)}, "I32"),
        (LM, {"model.norm.weight": torch.full((D,), float("nan"))}, "not finite"),
        (LM, {"model.norm.weight": torch.full((D,), float("inf"))}, "not finite"),
        (HEAD, {"weight": torch.ones(D)}, "lacks"),
        (HEAD, head_tensors() | {"std": torch.zeros(D)}, "std"),
        ({"kind": "head", "layer": 99}, head_tensors(), "layer 99"),
        ({"kind": "head", "layer": -1}, head_tensors(), "manifest"),
        ({"kind": "pickle"}, {}, "manifest"),
        ({"kind": "lm", "code": "import os"}, {}, "manifest"),
        ({"kind": "ensemble", "members": [], "weights": []}, {}, "manifest"),
        ({"kind": "ensemble", "members": [LM, LM], "weights": [1.0]}, {}, "one weight"),
        ({"kind": "ensemble", "members": [LM], "weights": [-1.0]}, {}, "one weight"),
        ({"kind": "ensemble", "members": [LM], "weights": [float("nan")]}, {}, "one weight"),
        ({"kind": "ensemble", "members": [LM], "weights": [float("inf")]}, {}, "one weight"),
        (
            {"kind": "ensemble", "members": [LM] * (MAX_MEMBERS + 1), "weights": [1.0] * (MAX_MEMBERS + 1)},
            {},
            "at most",
        ),
        ({"kind": "ensemble", "members": [LM], "weights": [1.0]}, head_tensors("0/"), "unknown tensors"),
    ],
)
def test_hostile_files_are_refused(
    model: LabelModel, tmp_path: Path, student: object, tensors: dict[str, torch.Tensor], says: str
) -> None:
    with pytest.raises(StudentError, match=says):
        Student.load(write(tmp_path / "s", student, tensors), model)


def test_deep_and_wide_trees_are_refused(model: LabelModel, tmp_path: Path) -> None:
    deep: object = LM
    for _ in range(5):
        deep = {"kind": "ensemble", "members": [deep], "weights": [1.0]}
    wide = {"kind": "ensemble", "members": [LM] * 8, "weights": [1.0] * 8}
    wider = {"kind": "ensemble", "members": [wide] * 8, "weights": [1.0] * 8}
    endless = "[" * 60_000
    for student in (deep, wider):
        with pytest.raises(StudentError):
            Student.load(write(tmp_path / "s", student, {}), model)
    save_file({}, tmp_path / "e", metadata={"student": endless})
    with pytest.raises(StudentError):
        Student.load(tmp_path / "e", model)


def test_files_that_are_no_safetensors_are_refused(model: LabelModel, tmp_path: Path) -> None:
    cases = {
        "empty": b"",
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "huge header": struct.pack("<Q", 1 << 62) + b"{}",
        "lying offsets": _raw(
            {"model.norm.weight": {"dtype": "F32", "shape": [D], "data_offsets": [0, 999]}}, b"\0" * 64
        ),
        "huge shape": _raw({"bias": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}, b"\0" * 4),
        "no manifest": _raw({}, b""),
    }
    for name, data in cases.items():
        (tmp_path / "s").write_bytes(data)
        with pytest.raises(StudentError):
            Student.load(tmp_path / "s", model)
        assert name
    with pytest.raises(StudentError):
        Student.load(tmp_path / "missing", model)
    with pytest.raises(StudentError):
        Student.load(tmp_path, model)


def _raw(header: object, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_a_damaged_file_loads_or_is_refused_and_nothing_else(
    model: LabelModel, tmp_path_factory: pytest.TempPathFactory, at: int, patch: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("s") / "s", HEAD, head_tensors())
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at : at + len(patch)] = patch
    path.write_bytes(bytes(data))
    with contextlib.suppress(StudentError):
        Student.load(path, model)


def test_finite_but_absurd_weights_end_in_a_student_error(model: LabelModel, chat: Domain, tmp_path: Path) -> None:
    items, _ = chat.sample(4, 2)
    tensors = {"model.norm.weight": torch.full((D,), 3e38), "label_head": torch.full((2, D), 3e38)}
    student = Student.load(write(tmp_path / "s", LM, tensors), model)
    with pytest.raises(StudentError, match="not finite"):
        student.predict(items)
