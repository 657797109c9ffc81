from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from gpu_pool.weak_to_strong.domains import Domain
from gpu_pool.weak_to_strong.errors import DeadlineError, TrainingError
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.student import lm_tensors
from gpu_pool.weak_to_strong.trainer import TrainConfig, finetune


def trained(
    model: LabelModel, chat: Domain, n: int = 48, **changes: object
) -> tuple[LabelModel, dict[str, torch.Tensor]]:
    items, labels = chat.sample(n, 1)
    twin = model.copy()
    settings: dict[str, Any] = {"epochs": 1, "lr": 3e-3, "trainable": "full"} | changes
    finetune(twin, twin.tokenize(items), labels, TrainConfig(**settings))
    return twin, lm_tensors(twin)


def test_same_seed_same_weights_other_seed_other_weights(model: LabelModel, chat: Domain) -> None:
    first, second, other = (trained(model, chat, seed=seed)[1] for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_training_leaves_the_global_random_state_alone(model: LabelModel, chat: Domain) -> None:
    before = torch.get_rng_state()
    trained(model, chat)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("trainable", ["full", "top:1", "head"])
def test_training_fits_and_moves_only_what_it_may(model: LabelModel, chat: Domain, trainable: str) -> None:
    items, labels = chat.sample(32, 1)
    twin = model.copy()
    losses: list[float] = []
    config = TrainConfig(epochs=12, lr=1e-2, trainable=trainable, schedule="constant")
    finetune(twin, twin.tokenize(items), labels, config, on_progress=lambda *a: losses.append(a[2]))
    base = lm_tensors(model)
    moved = {name for name, value in lm_tensors(twin).items() if name not in base or not torch.equal(value, base[name])}
    if trainable == "head":
        assert moved == {"label_head"}
    if trainable == "top:1":
        assert {name.split(".")[2] for name in moved if ".layers." in name} == {"1"}
        assert "model.embed_tokens.weight" not in moved
    if trainable == "full":
        assert "model.embed_tokens.weight" in moved
    assert losses[-1] < 0.69


def test_cached_upper_layers_give_the_same_logits(model: LabelModel, chat: Domain) -> None:
    items, labels = chat.sample(16, 2)
    tokens = model.tokenize(items)
    before = model.logits(tokens)
    twin = model.copy()
    finetune(twin, tokens, labels, TrainConfig(epochs=1, lr=1e-12, trainable="top:1"))
    assert np.allclose(twin.logits(tokens), before, atol=1e-5)


def test_ema_and_small_loss_run(model: LabelModel, chat: Domain) -> None:
    plain = trained(model, chat)[1]
    averaged = trained(model, chat, ema=0.9)[1]
    dropped = trained(model, chat, drop_share=0.4)[1]
    name = "model.norm.weight"
    assert not torch.equal(plain[name], averaged[name])
    assert not torch.equal(plain[name], dropped[name])


def test_deadline_and_bad_inputs_are_clear_errors(model: LabelModel, chat: Domain) -> None:
    items, labels = chat.sample(8, 1)
    tokens = model.tokenize(items)
    with pytest.raises(DeadlineError, match="step 0"):
        finetune(model.copy(), tokens, labels, deadline=time.monotonic() - 1)
    with pytest.raises(TrainingError, match="shape"):
        finetune(model.copy(), tokens, labels[:3])
    with pytest.raises(TrainingError, match="not finite"):
        finetune(model.copy(), tokens, np.full(8, np.nan))
    with pytest.raises(TrainingError, match="probabilities"):
        finetune(model.copy(), tokens, np.full(8, 3.0))
    with pytest.raises(TrainingError, match="2 layers"):
        finetune(model.copy(), tokens, labels, TrainConfig(trainable="top:9"))


def test_a_loss_that_is_not_finite_stops_the_run(model: LabelModel, chat: Domain) -> None:
    def broken(logits: torch.Tensor, target: torch.Tensor, done: float) -> torch.Tensor:
        return logits.sum(-1) / 0.0

    items, labels = chat.sample(8, 1)
    with pytest.raises(TrainingError, match="loss is"):
        finetune(model.copy(), model.tokenize(items), labels, TrainConfig(loss=broken, trainable="full"))


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"lr": float("nan")}, {"trainable": "top:0"}, {"ema": 1.0}])
def test_a_config_out_of_range_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(TrainingError):
        TrainConfig(**bad)  # type: ignore[arg-type]
