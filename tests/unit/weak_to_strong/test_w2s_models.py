from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_pool.weak_to_strong.domains import Domain
from gpu_pool.weak_to_strong.errors import ModelError
from gpu_pool.weak_to_strong.models import LabelModel, pad


def test_logits_equal_the_full_hugging_face_model(model: LabelModel, chat: Domain) -> None:
    items, _ = chat.sample(7, 1)
    tokens = model.tokenize(items)
    batched = model.logits(tokens)
    for row, ids in zip(batched, tokens, strict=True):
        with torch.no_grad():
            full = model.lm(input_ids=torch.from_numpy(ids)[None]).logits[0, -1]
        assert np.allclose(row, full[model.label_ids].numpy(), atol=1e-5)


def test_hidden_states_end_at_the_last_token_and_reproduce_the_logits(model: LabelModel, chat: Domain) -> None:
    items, _ = chat.sample(5, 2)
    hidden = model.hidden(items)
    assert hidden.shape == (5, model.layers + 1, model.width)
    rows = model.label_rows().detach().numpy()
    assert np.allclose(hidden[:, -1] @ rows.T, model.logits(model.tokenize(items)), atol=1e-5)
    last = [int(t[-1]) for t in model.tokenize(items)]
    assert np.allclose(hidden[:, 0], model.lm.model.embed_tokens.weight[last].detach().numpy())


def test_tokens_start_with_bos_and_know_every_word(model: LabelModel, chat: Domain) -> None:
    items, _ = chat.sample(20, 3)
    for ids in model.tokenize(items):
        assert ids[0] == 1
        assert 2 not in ids


def test_zero_shot_gives_label_one_to_half(model: LabelModel, chat: Domain) -> None:
    items, _ = chat.sample(40, 4)
    assert float((model.zero_shot(items) > 0.5).mean()) == pytest.approx(0.5, abs=0.03)


def test_save_and_load_give_the_same_model(model: LabelModel, chat: Domain, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    items, _ = chat.sample(5, 5)
    assert np.array_equal(LabelModel.load(tmp_path / "m", "pair").probs(items), model.probs(items))


def test_incomplete_or_foreign_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        LabelModel.load(tmp_path, "pair")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="does not fit"):
        LabelModel.load(tmp_path, "pair")


def test_a_pair_model_refuses_binary_items(model: LabelModel, chat: Domain) -> None:
    items, _ = chat.sample(2, 6)
    binary = type(items)("binary", items.ids, items.prompts, items.firsts, ("", ""))
    with pytest.raises(ModelError):
        model.probs(binary)


def test_pad_marks_the_last_real_token() -> None:
    ids, last = pad([np.array([5, 6]), np.array([7])])
    assert ids.tolist() == [[5, 6], [7, 0]]
    assert last.tolist() == [1, 0]
