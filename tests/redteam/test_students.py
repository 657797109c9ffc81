"""Attacks by what a method returns: a student is data, so there is little that it can be made to do."""

from __future__ import annotations

import inspect
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from actors.evaluator.blinded_batch import make_blinded_batch
from actors.evaluator.secret import Secret
from actors.evaluator.splits import Splits
from gpu_pool.weak_to_strong import student as students
from gpu_pool.weak_to_strong.domains import Domain
from gpu_pool.weak_to_strong.entrypoints import predict
from gpu_pool.weak_to_strong.errors import StudentError
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.student import Student
from tests.redteam.theatre import tiny
from tests.unit.weak_to_strong.test_w2s_student import head_tensors, tuned

D = 16


class Bomb:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self._path,))  # type: ignore[return-value]


def every_kind(model: LabelModel, chat: Domain) -> dict[str, Student]:
    """A trained student of each kind that there is."""
    head = Student.head(model, 2, np.linspace(-1, 1, D), 0.1, np.zeros(D), np.ones(D))
    lm, lora = tuned(model, chat), tuned(model, chat, "lora:2")
    return {"lm": lm, "lora": lora, "head": head, "ensemble": Student.ensemble([lm, head, lora])}


def test_a_student_cannot_vote_across_a_batch(model: LabelModel, chat: Domain) -> None:
    """Alone, in any order and in any company, an item gets the same answer: there is nowhere to put a vote.

    The kinds of students are the library's; the form in which a vote is possible, over the training pool, is planted
    and caught by the audits.
    """
    items, _ = chat.sample(40, 3)
    order = np.random.default_rng(0).permutation(40)
    kinds = every_kind(model, chat)
    assert {node.node.kind for node in kinds.values()} == {
        node.model_fields["kind"].default
        for _, node in inspect.getmembers(students, inspect.isclass)
        if issubclass(node, students._Node) and "kind" in node.model_fields
    }
    for student in kinds.values():
        together = student.predict(items)
        alone = np.concatenate([student.predict(items.take([i])) for i in range(10)])
        assert np.abs(alone - together[:10]).max() < 1e-5
        assert np.abs(student.predict(items.take(order)) - together[order]).max() < 1e-5
        repeated = items.take([7])
        for other in range(12, 18):
            assert np.abs(student.predict(repeated.concat(items.take([other])))[0] - together[7]).max() < 1e-5


def test_a_student_cannot_tell_a_counted_run_from_any_other(chat: Domain) -> None:
    """What it reads is the text alone: no id, no tier, no position; batches of one split hold the same texts."""
    secret = Secret(b"k" * 32)
    split = Splits(secret, tiny("chat")).split("seal")
    one, other = (make_blinded_batch(secret, split, "method", tier, 0) for tier in ("dev", "seal"))
    pairs = [{frozenset(pair) for pair in zip(s.items.firsts, s.items.seconds, strict=True)} for s in (one, other)]
    assert pairs[0] == pairs[1]
    assert not any(item_id in text for item_id, text in zip(one.items.ids, one.items.render(), strict=True))


@pytest.mark.parametrize("form", ["pickle", "torch", "extra", "shape", "type", "nan", "script", "zip", "huge header"])
def test_code_and_foreign_tensors_are_no_student(form: str, model: LabelModel, tmp_path: Path) -> None:
    path, owned = tmp_path / "student.safetensors", tmp_path / "owned"
    meta = {"student": json.dumps({"version": 1, "student": {"kind": "head", "layer": 1}})}
    tensors = head_tensors()
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(owned)))
    elif form in ("torch", "zip"):
        torch.save({"weight": Bomb(owned)}, path, _use_new_zipfile_serialization=form == "zip")
    elif form == "script":
        path.write_text(f"open({str(owned)!r}, 'w')")
    elif form == "huge header":
        path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    else:
        changed = {
            "extra": {**tensors, "labels": torch.ones(4)},
            "shape": {**tensors, "weight": torch.ones(D + 1)},
            "type": {**tensors, "weight": torch.ones(D, dtype=torch.float64)},
            "nan": {**tensors, "weight": torch.full((D,), float("nan"))},
        }[form]
        save_file(changed, path, metadata=meta)
    with pytest.raises(StudentError) as caught:
        Student.load(path, model)
    assert "\n" not in str(caught.value)
    assert not owned.exists()


def test_a_students_own_config_and_tokenizer_are_never_read(
    model: LabelModel, folder: Path, chat: Domain, tmp_path: Path
) -> None:
    """They may lie beside the student; inference takes both from the pinned base, and only the answers leave."""
    items, _ = chat.sample(8, 4)
    given, out = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    out.mkdir()
    (given / "model").symlink_to(folder)
    items.save(given / "items.arrow")
    student = tuned(model, chat)
    student.save(given / "student.safetensors")
    predict(given, out, {}, lambda *_, **__: None)
    honest = (out / "probs.safetensors").read_bytes()
    evil = {"_attn_implementation_internal": "../../evil", "auto_map": {"AutoModel": "evil.Model"}, "hidden_size": 9}
    (given / "config.json").write_text(json.dumps(evil))
    (given / "tokenizer.json").write_text("{}")
    (given / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    predict(given, out, {}, lambda *_, **__: None)
    assert (out / "probs.safetensors").read_bytes() == honest
    assert not (tmp_path / "owned").exists()
    assert [path.name for path in out.iterdir()] == ["probs.safetensors"]
