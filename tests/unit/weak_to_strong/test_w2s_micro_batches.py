"""What is computed at once changes nothing but speed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gpu_pool.weak_to_strong import losses
from gpu_pool.weak_to_strong.domains import Domain
from gpu_pool.weak_to_strong.errors import ModelError, TrainingError
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.models.memory import in_parts
from gpu_pool.weak_to_strong.run import RunParams
from gpu_pool.weak_to_strong.student import lm_tensors
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.trainer import TrainConfig, TrainReport, finetune


@pytest.fixture(scope="module")
def texts() -> tuple[TokenTable, Any, Any]:
    """Texts of very different length, soft targets, weights."""
    rng = np.random.default_rng(0)
    table = TokenTable.of([rng.integers(3, 30, size=int(n)) for n in rng.integers(1, 60, size=24)])
    return table, rng.random(24), rng.random(24)


def step(
    model: LabelModel, texts: tuple[TokenTable, Any, Any], **changes: Any
) -> tuple[dict[str, torch.Tensor], float]:
    """The gradients that the optimiser is given at the one step, and the loss; no clipping."""
    twin = model.copy()
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 24, "clip": 1e9, "schedule": "constant", "trainable": "full"}
    config = TrainConfig(**(settings | changes))
    gradients: dict[str, torch.Tensor] = {}

    def keep(self: Any, closure: Any = None) -> None:
        names = {id(p): name for name, p in twin.named_parameters()}
        for group in self.param_groups:
            gradients.update({names[id(p)]: p.grad.clone() for p in group["params"] if p.grad is not None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", keep)
        report = finetune(twin, texts[0], texts[1], config, weights=texts[2])
    return gradients, report.loss


LOSSES = [losses.cross_entropy, losses.logconf(0.75, warmup=0), losses.gce(0.7)]


@pytest.mark.parametrize("loss", LOSSES, ids=["ce", "logconf", "gce"])
@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_gradients_of_parts_are_those_of_the_whole_batch(
    model: LabelModel, texts: tuple[TokenTable, Any, Any], loss: Any, drop: float
) -> None:
    settings = {"loss": loss, "drop_share": drop, "drop_after": 0.0}
    whole, value = step(model, texts, token_budget=1 << 30, **settings)
    for budget in (1, 100, 400):
        parts, same = step(model, texts, token_budget=budget, **settings)
        assert same == pytest.approx(value, rel=1e-5)
        assert parts.keys() == whole.keys()
        for name, gradient in whole.items():
            assert torch.allclose(parts[name], gradient, atol=1e-6, rtol=1e-4), name


def test_training_by_parts_ends_at_the_same_weights_and_pads_less(
    model: LabelModel, texts: tuple[TokenTable, Any, Any]
) -> None:
    ends, reports = [], []
    for budget in (1 << 30, 80):
        twin = model.copy()
        config = TrainConfig(epochs=3, batch_size=8, lr=1e-3, token_budget=budget, trainable="full")
        reports.append(finetune(twin, texts[0], texts[1], config))
        ends.append(lm_tensors(twin))
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=2e-4) for name in ends[0])
    whole, parts = reports
    assert whole.tokens == parts.tokens == 3 * int(texts[0].lengths.sum())
    assert parts.tokens <= parts.padded < whole.padded


class Tight:
    """A machine that runs out of memory above so many tokens at once."""

    def __init__(self, patch: pytest.MonkeyPatch, room: int) -> None:
        self.refused = 0
        forward = LabelModel.forward

        def tight(model: LabelModel, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
            if ids.numel() > room:
                self.refused += 1
                raise torch.OutOfMemoryError("fake")
            return forward(model, ids, last)

        patch.setattr(LabelModel, "forward", tight)


def test_out_of_memory_halves_what_is_computed_and_goes_on(
    model: LabelModel, texts: tuple[TokenTable, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(epochs=2, batch_size=24, lr=1e-3, token_budget=2000, trainable="full")

    def run() -> tuple[dict[str, torch.Tensor], TrainReport]:
        twin = model.copy()
        report = finetune(twin, texts[0], texts[1], config)
        return lm_tensors(twin), report

    free, roomy = run()
    tight = Tight(monkeypatch, 200)
    squeezed, report = run()
    assert 1 <= tight.refused <= 4
    assert report.token_budget <= 200 < roomy.token_budget
    assert report.steps == roomy.steps
    assert all(torch.allclose(free[name], squeezed[name], atol=2e-4) for name in free)


@pytest.mark.parametrize("trainable", ["full", "head", "top:1"])
def test_inference_and_frozen_states_halve_their_batches_and_go_on(
    model: LabelModel, texts: tuple[TokenTable, Any, Any], monkeypatch: pytest.MonkeyPatch, trainable: str
) -> None:
    config = TrainConfig(epochs=1, batch_size=24, lr=1e-3, trainable=trainable)
    twins = [model.copy(trainable) for _ in range(2)]
    finetune(twins[0], texts[0], texts[1], config)
    expected = twins[0].logits(texts[0])
    batches: list[int] = []
    work = in_parts

    def tight(parts: Any, run: Any) -> None:
        def refusing(index: Any) -> None:
            batches.append(len(index))
            if len(index) > 6:
                raise torch.OutOfMemoryError("fake")
            run(index)

        work(parts, refusing)

    monkeypatch.setattr("gpu_pool.weak_to_strong.models.batches.in_parts", tight)
    finetune(twins[1], texts[0], texts[1], config)
    assert np.allclose(twins[1].logits(texts[0]), expected, atol=2e-4)
    assert max(batches) > 6 >= min(batches)


def test_parts_are_halved_from_the_failure_on_and_each_is_done_once() -> None:
    asked: list[list[int]] = []
    done: list[int] = []

    def work(index: list[int]) -> None:
        asked.append(index)
        if len(index) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        done.extend(index)

    in_parts([[0], [1, 2, 3, 4, 5], [6, 7, 8]], work)
    assert done == list(range(9))
    assert asked == [[0], [1, 2, 3, 4, 5], [1, 2, 3], [1, 2], [3], [4], [5], [6], [7], [8]]
    with pytest.raises(ModelError, match="one text: lower max_length"):
        in_parts([[0, 1]], lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("fake")))
    with pytest.raises(RuntimeError, match="shape"):
        in_parts([[0, 1]], lambda _: (_ for _ in ()).throw(RuntimeError("shape")))


def test_one_text_that_does_not_fit_is_a_clear_error(
    model: LabelModel, texts: tuple[TokenTable, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Tight(monkeypatch, 40)
    with pytest.raises(TrainingError, match=r"one text of \d+ tokens: lower max_length"):
        finetune(model.copy(), texts[0], texts[1])


def test_other_errors_of_the_model_pass_through(
    model: LabelModel, texts: tuple[TokenTable, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> torch.Tensor:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(LabelModel, "forward", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        finetune(model.copy(), texts[0], texts[1])


def test_a_loss_that_turns_nan_later_is_named_by_its_step(model: LabelModel, chat: Domain) -> None:
    def later(logits: torch.Tensor, target: torch.Tensor, done: float) -> torch.Tensor:
        return logits.sum(-1) * (float("nan") if done >= 0.5 else 1.0)

    items, labels = chat.sample(32, 1)
    config = TrainConfig(loss=later, batch_size=4, epochs=1, trainable="full")
    with pytest.raises(TrainingError, match=r"loss is nan at step 4 of 8 \(lr"):
        finetune(model.copy(), model.tokenize(items), labels, config)


def test_presets_are_the_published_settings() -> None:
    from gpu_pool.weak_to_strong.presets import PRESETS

    weak, strong = PRESETS.values()
    assert (weak.name, weak.chat) == ("Qwen/Qwen1.5-0.5B-Chat", True)
    assert (strong.name, strong.chat) == ("Qwen/Qwen3-4B-Base", False)
    for preset in (weak, strong):
        assert preset.format("pair").chat == preset.chat
    for config in (TrainConfig(), RunParams().train_config()):
        assert (config.epochs, config.batch_size, config.lr, config.warmup) == (5, 32, 1e-4, 0.1)
        assert (config.trainable, config.lora_alpha, config.betas) == ("lora:32", 32.0, (0.9, 0.95))
