"""Trainings done together give what each gives by itself, and do not touch one another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gpu_pool.weak_to_strong import losses
from gpu_pool.weak_to_strong.domains import Domain
from gpu_pool.weak_to_strong.errors import DeadlineError, TrainingError
from gpu_pool.weak_to_strong.models import LabelModel, lora
from gpu_pool.weak_to_strong.models.stack import Stack
from gpu_pool.weak_to_strong.run import Fit, MethodRun, RunParams
from gpu_pool.weak_to_strong.tokens import TokenTable
from gpu_pool.weak_to_strong.trainer import Job, TrainConfig, TrainReport, finetune_many
from gpu_pool.weak_to_strong.training.jobs import blocks, pays

CONFIG = TrainConfig(epochs=2, batch_size=8, lr=1e-3, trainable="full")


@pytest.fixture(scope="module")
def tables() -> list[TokenTable]:
    """Three sets of texts of very different length and number, as many steps each."""
    rng = np.random.default_rng(0)
    return [TokenTable.of([rng.integers(3, 30, size=int(n)) for n in rng.integers(1, 40, k)]) for k in (20, 24, 19)]


def jobs(model: LabelModel, tables: Sequence[TokenTable], *, weighted: bool = True, **changes: Any) -> list[Job]:
    made = []
    for seed, table in enumerate(tables):
        rng = np.random.default_rng(10 + seed)
        targets, weights = rng.random(len(table)), rng.random(len(table)) + 0.5
        config = replace(CONFIG, seed=seed, **changes)
        made.append(
            Job(model.copy(config.trainable), table, targets, config, weights if weighted or seed == 1 else None)
        )
    return made


def moved(job: Job) -> torch.Tensor:
    """What training moved, as one vector."""
    return torch.cat([p.detach().flatten() for p in job.model.moving(job.config.trainable)])


def alike(one: list[Job], other: list[Job], reports: list[list[TrainReport]]) -> None:
    for a, b, first, second in zip(one, other, *reports, strict=True):
        assert torch.allclose(moved(a), moved(b), atol=1e-4)
        assert first.loss == pytest.approx(second.loss, rel=1e-4)
        assert (first.steps, first.tokens, first.truncated) == (second.steps, second.tokens, second.truncated)


@pytest.mark.parametrize("trainable", ["full", "head", "top:1", "lora:4", "lora:4:1"])
@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.logconf(0.75, warmup=0)], ids=["ce", "logconf"])
@pytest.mark.parametrize("budget", [None, 90])
def test_together_equals_one_by_one(
    model: LabelModel, tables: list[TokenTable], trainable: str, loss: Any, budget: int | None
) -> None:
    changes = {"trainable": trainable, "loss": loss, "token_budget": budget}
    alone, many = (jobs(model, tables, weighted=False, **changes) for _ in range(2))
    assert len(blocks(many, 3)) == 1
    reports = [finetune_many(alone, at_once=1), finetune_many(many, at_once=3)]
    alike(alone, many, reports)
    starts = jobs(model, tables, **changes)
    finetune_many([replace(job, config=replace(job.config, lr=1e-9)) for job in starts], at_once=1)
    assert all(float((moved(job) - moved(start)).abs().max()) > 5e-4 for job, start in zip(many, starts, strict=True))


@pytest.mark.parametrize("changes", [{"drop_share": 0.5, "drop_after": 0.0}, {"ema": 0.9}, {"clip": 0.01}])
def test_options_of_the_loop_work_by_member(
    model: LabelModel, tables: list[TokenTable], changes: dict[str, Any]
) -> None:
    alone, many = (jobs(model, tables, **changes) for _ in range(2))
    alike(alone, many, [finetune_many(alone, at_once=1), finetune_many(many, at_once=3)])


@pytest.mark.parametrize("trainable", ["full", "lora:4"])
def test_no_member_sees_another(model: LabelModel, tables: list[TokenTable], trainable: str) -> None:
    first = jobs(model, [tables[0]] * 3, trainable=trainable)
    second = jobs(model, [tables[0]] * 3, trainable=trainable)
    second[1] = replace(second[1], targets=1 - np.asarray(second[1].targets))
    for given in (first, second):
        finetune_many(given, at_once=3)
    assert torch.equal(moved(first[0]), moved(second[0]))
    assert torch.equal(moved(first[2]), moved(second[2]))
    assert not torch.allclose(moved(first[1]), moved(second[1]), atol=1e-3)
    assert not torch.allclose(moved(first[0]), moved(first[2]), atol=1e-3)


def test_memory_deadline_and_a_broken_loss_are_those_of_the_single_loop(
    model: LabelModel, tables: list[TokenTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = jobs(model, tables)
    finetune_many(free, at_once=3)
    forward, refused = Stack.logits, 0

    def tight(stack: Stack, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        nonlocal refused
        if ids.numel() > 300:
            refused += 1
            raise torch.OutOfMemoryError("fake")
        return forward(stack, ids, last)

    monkeypatch.setattr(Stack, "logits", tight)
    squeezed = jobs(model, tables)
    reports = finetune_many(squeezed, at_once=3)
    assert 1 <= refused <= 6
    assert all(0 < report.token_budget <= 300 for report in reports)
    assert all(torch.allclose(moved(a), moved(b), atol=1e-4) for a, b in zip(free, squeezed, strict=True))
    with pytest.raises(DeadlineError, match="training step 0 of 6"):
        finetune_many(jobs(model, tables), at_once=3, deadline=time.monotonic() - 1)

    def broken(logits: torch.Tensor, target: torch.Tensor, done: float) -> torch.Tensor:
        return logits.sum(-1) / (0.0 if len(target) == 8 and float(target[:, 1].mean()) > 0 and done > 0 else 1.0)

    with pytest.raises(TrainingError, match=r"loss is .* of 6 \(lr 0.001, seed \d\)"):
        finetune_many(jobs(model, tables, loss=broken), at_once=3)


def test_what_cannot_be_stacked_is_trained_alone(model: LabelModel, tables: list[TokenTable]) -> None:
    three = jobs(model, tables)
    assert [len(block) for block in blocks([*three, *three], 8)] == [3, 3]  # no model twice in one block
    assert [len(block) for block in blocks(three, 2)] == [2, 1]
    other = replace(three[1], config=replace(three[1].config, lr=2e-3))
    assert [len(block) for block in blocks([three[0], other, three[2]], 3)] == [1, 1, 1]
    longer = replace(three[1], tokens=[*tables[1], *tables[1]])
    assert [len(block) for block in blocks([three[0], longer], 3)] == [1, 1]
    apart = jobs(model, tables, trainable="top:1")
    apart[1] = replace(apart[1], model=model.copy())  # the frozen part is not the same memory
    assert [len(block) for block in blocks(apart, 3)] == [1, 1, 1]
    with pytest.raises(TrainingError, match="the model has"):
        finetune_many([replace(job, config=replace(job.config, trainable="top:9")) for job in three], at_once=3)


def test_adapters_on_all_layers_as_upper_layers_are_adapters(model: LabelModel, tables: list[TokenTable]) -> None:
    whole, upper = jobs(model, tables[:1], trainable="lora:4"), jobs(model, tables[:1], trainable="lora:4:2")
    alike(whole, upper, [finetune_many(whole), finetune_many(upper)])
    half = jobs(model, tables[:1], trainable="lora:4:1")
    finetune_many(half)
    adapters = lora.parameters(half[0].model.lm)
    assert all(bool(p.any()) == (".layers.1." in name) for name, p in adapters.items() if name.endswith("lora_B"))


def test_by_itself_it_stacks_only_what_was_measured_to_pay(model: LabelModel, tables: list[TokenTable]) -> None:
    job = jobs(model, tables)[0]
    wide = model.copy()
    wide.lm.config = type(wide.lm.config)(**(wide.lm.config.to_dict() | {"hidden_size": 128}))
    for trainable, most in {"full": 1, "lora:4": 1, "top:1": 8, "head": 8}.items():
        config = replace(CONFIG, trainable=trainable)
        assert pays(replace(job, config=config)) == 8
        assert pays(replace(job, model=wide, config=config)) == most


def test_a_run_fits_many_as_it_fits_one(model: LabelModel, chat: Domain) -> None:
    items, _ = chat.sample(24, 3)
    run = MethodRun(items, np.linspace(0.1, 0.9, 24), model, RunParams(batch=8, epochs=1, trainable="full"))
    half = np.arange(12)
    config = run.config(trainable="top:1", lr=1e-2)
    fits = [Fit(run.weak[half], config, half), Fit(run.weak, config, weights=np.ones(24)), Fit(run.weak, config)]
    many = list(run.fit_many(fits))
    alone = [run.fit(fit.targets, fit.config, indices=fit.indices, weights=fit.weights) for fit in fits]
    for one, other in zip(alone, many, strict=True):
        assert np.allclose(run.predict(one), run.predict(other), atol=1e-5)
        assert not np.allclose(run.predict(one), run.predict(model), atol=1e-2)
