"""Building blocks against numbers worked out by hand or by a second, plain implementation."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gpu_pool.weak_to_strong import blocks, losses
from gpu_pool.weak_to_strong.blocks import critics
from gpu_pool.weak_to_strong.domains import Domain
from gpu_pool.weak_to_strong.errors import DeadlineError, MethodError, ModelError, TrainingError
from gpu_pool.weak_to_strong.generation import TransformersGenerator
from gpu_pool.weak_to_strong.methods import registry
from gpu_pool.weak_to_strong.models import LabelModel
from gpu_pool.weak_to_strong.run import MethodRun, RunParams

RNG = np.random.default_rng(5)


def f32(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


@pytest.fixture
def run(chat: Domain, model: LabelModel) -> MethodRun:
    items, labels = chat.sample(40, 1)
    weak = np.where(np.arange(40) % 4 == 0, 1 - labels, labels) * 0.6 + 0.2
    return MethodRun(items, weak, model, RunParams(seed=3, epochs=1, lr=1e-3, trainable="full"))


# targets and selection


def test_the_published_threshold_keeps_what_is_surer_than_three_quarters() -> None:
    assert blocks.confident_threshold(f32(0.9, 0.6, 0.1, 0.25, 0.75, 0.5)).tolist() == [0, 2]
    assert blocks.confident_threshold(f32(0.6, 0.4)).tolist() == [0, 1]


def test_smoothing_adapts_to_the_rank_of_a_value() -> None:
    # Ranks of 3, 1, 2 are 2, 0, 1: shares 0, .4, .2.
    assert np.allclose(blocks.adaptive_smooth(f32(1, 1, 0), [3, 1, 2], most=0.4), [1, 0.8, 0.1])


def test_code_length_is_in_bits_and_loss_drop_is_what_a_student_saves() -> None:
    assert np.allclose(blocks.code_length([1, 0, 1], [0.25, 0.25, 0.5]), [2, -math.log2(0.75), 1])
    assert np.allclose(blocks.loss_drop([1, 0], [0.5, 0.25]), [0, 1 + math.log2(0.75)])
    assert blocks.code_length([1], [0.0])[0] == pytest.approx(-math.log2(0.02))


def test_scores_are_cut_at_a_rate() -> None:
    assert blocks.hard_at_rate([0.1, 0.2, 0.3, 0.35], 0.25).tolist() == [0, 0, 0, 1]


def test_teachers_are_pooled_by_their_mean(chat: Domain, model: LabelModel) -> None:
    members = [[0.2, 0.4], [0.9, 0.5]]
    assert np.allclose(blocks.pool_teachers(members), [0.3, 0.7])
    with pytest.raises(ValueError, match="teachers"):
        blocks.pool_teachers([0.2, 0.4])
    items = chat.sample(2, 1)[0]
    given = MethodRun(items, f32(0.3, 0.7), model, weak_members=members).weak_members
    assert given is not None
    assert given.shape == (2, 2)
    with pytest.raises(MethodError, match="weak members"):
        MethodRun(items, f32(0.3, 0.7), model, weak_members=[0.2, 0.4])


def test_unanimous_items_are_those_with_one_label_from_all_teachers() -> None:
    assert blocks.unanimous([[0.2, 0.4, 0.1], [0.9, 0.4, 0.8], [0.6, 0.7, 0.51]]).tolist() == [0, 2]
    assert blocks.unanimous([[0.2], [0.9]]).tolist() == [0, 1]
    assert blocks.unanimous([[0.2, 0.9], [0.9, 0.4]]).tolist() == [0, 1], "all of them when none is unanimous"


def test_overlap_is_the_mean_similarity_to_the_nearest_hard_items() -> None:
    states = RNG.standard_normal((12, 5)).astype(np.float32)
    probs = RNG.random(12).astype(np.float32)
    found = blocks.overlap_scores(states, probs, hard_share=0.5, neighbours=3)
    centred = states - states.mean(axis=0)
    unsure = sorted(range(12), key=lambda i: abs(float(probs[i]) - 0.5))[:6]
    for i in range(12):
        cosines = [
            float(centred[i] @ centred[j] / np.linalg.norm(centred[i]) / np.linalg.norm(centred[j]))
            for j in unsure
            if j != i
        ]
        assert found[i] == pytest.approx(np.mean(sorted(cosines)[-3:]), abs=1e-4)


def test_overlap_density_keeps_the_asked_share(run: MethodRun) -> None:
    keep = blocks.overlap_density(run, share=0.3)
    assert len(set(keep.tolist())) == 12


def test_small_losses_come_first() -> None:
    assert blocks.small_loss([0.3, 0.1, 0.9, 0.2], keep=0.5).tolist() == [1, 3]


def test_out_of_bag_asks_only_students_that_did_not_see_the_item(
    run: MethodRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []

    def fit_many(fits: Any) -> Any:
        for fit in fits:
            assert len(fit.targets) == len(fit.indices)
            seen.append(set(fit.indices.tolist()))
            yield len(seen)

    monkeypatch.setattr(run, "fit_many", fit_many)
    monkeypatch.setattr(run, "predict", lambda number: np.full(40, 0.1 * number, np.float32))
    found = blocks.out_of_bag(run, blocks.hard(run.weak), members=3)
    for i in range(40):
        out = [0.1 * (k + 1) for k in range(3) if i not in seen[k]] or [0.1, 0.2, 0.3]
        assert found[i] == pytest.approx(np.mean(out), abs=1e-6)


# channel


def test_the_channel_is_dawid_and_skenes_em() -> None:
    weak = RNG.random(60).astype(np.float32)
    prior = RNG.uniform(0.1, 0.9, 60).astype(np.float32)
    for bins in (1, 3):
        found = blocks.noisy_channel(weak, prior, bins=bins, iterations=4)
        assert np.allclose(found, _plain_em(weak.tolist(), prior.tolist(), bins, 4), atol=1e-5)


def _plain_em(weak: list[float], prior: list[float], bins: int, iterations: int) -> list[float]:
    order = sorted(range(len(weak)), key=lambda i: abs(np.float32(weak[i]) - np.float32(0.5)))
    member = {item: rank * bins // len(weak) for rank, item in enumerate(order)}
    posterior = list(prior)
    for _ in range(iterations):
        rate = {}
        for b in range(bins):
            rows = [i for i in range(len(weak)) if member[i] == b]
            one = sum(posterior[i] for i in rows)
            one_votes = sum(posterior[i] for i in rows if weak[i] > 0.5)
            zero = len(rows) - one
            zero_votes = sum(1 - posterior[i] for i in rows if weak[i] > 0.5)
            rate[b] = ((zero_votes + 1) / (zero + 2), (one_votes + 1) / (one + 2))
        for i in range(len(weak)):
            r0, r1 = rate[member[i]]
            a, b1 = (r0, r1) if weak[i] > 0.5 else (1 - r0, 1 - r1)
            posterior[i] = prior[i] * b1 / (prior[i] * b1 + (1 - prior[i]) * a)
    return posterior


# probes and contrast


def test_difference_in_means_points_from_zero_to_one_and_keeps_the_class_rate(run: MethodRun) -> None:
    labels = blocks.hard(run.weak)
    probe = blocks.mean_difference(run, labels, layer=-2)
    states = run.hidden[:, -2]
    scaled = (states - states.mean(axis=0)) / (states.std(axis=0) + 1e-5)
    plain = scaled[labels == 1].mean(axis=0) - scaled[labels == 0].mean(axis=0)
    cosine = plain @ probe.weight / np.linalg.norm(plain) / np.linalg.norm(probe.weight)
    assert cosine == pytest.approx(1, abs=1e-4)
    assert (probe.probs(run.hidden) > 0.5).mean() == pytest.approx(labels.mean(), abs=0.03)
    with pytest.raises(TrainingError, match="both classes"):
        blocks.mean_difference(run, np.ones(40, np.float32))


def test_a_student_can_start_at_a_probe(run: MethodRun) -> None:
    probe = blocks.fit_probe(run, blocks.hard(run.weak))
    model = run.strong()
    blocks.start_from_probe(model, probe)
    logits = model.logits(run.tokens)
    expected = run.hidden[:, -1] @ (probe.weight / probe.std)
    assert np.allclose(logits[:, 1] - logits[:, 0], expected, atol=1e-4)
    with pytest.raises(TrainingError, match="layer 1"):
        blocks.start_from_probe(model, blocks.fit_probe(run, blocks.hard(run.weak), layer=1))


def test_ccs_loss_is_consistency_plus_confidence() -> None:
    one, zero = torch.tensor([0.9, 0.4]), torch.tensor([0.2, 0.6])
    # (.9 - .8)^2 + .2^2 = .05 and (.4 - .4)^2 + .4^2 = .16
    assert blocks.ccs_loss(one, zero).item() == pytest.approx(0.105)


def test_ccs_finds_the_direction_along_which_opposites_differ() -> None:
    truth = RNG.integers(2, size=300) * 2 - 1
    shared = RNG.standard_normal((300, 8)).astype(np.float32)
    direction = np.zeros(8, np.float32)
    direction[3] = 2.0
    one, zero = (shared + side * truth[:, None] * direction for side in (1, -1))
    answers, value = blocks.fit_ccs(one.astype(np.float32), zero.astype(np.float32), restarts=5, seed=0)
    best = answers[:, int(np.argmin(value))]
    right = ((best > 0.5) == (truth == 1)).mean()
    assert max(right, 1 - right) > 0.9


def test_contrast_states_lose_their_mean_at_every_length() -> None:
    states = RNG.standard_normal((64, 3)).astype(np.float32) + 7
    lengths = np.repeat(np.arange(8), 8)
    states += lengths[:, None] * 3
    out = blocks.normalised(states, lengths)
    for length in range(8):
        assert np.allclose(out[lengths == length].mean(axis=0), 0, atol=1e-4)
    assert np.allclose(out.std(axis=0), 1, atol=1e-3)


@pytest.mark.parametrize("contrast", ["labels", "swap"])
def test_the_sign_of_ccs_comes_from_the_weak_labels(run: MethodRun, contrast: Any) -> None:
    one = blocks.ccs(run, contrast=contrast)
    run.weak = 1 - run.weak
    assert np.allclose(blocks.ccs(run, contrast=contrast), 1 - one, atol=1e-5)


# elicitation


def test_in_a_group_the_surest_answer_wins_and_all_others_lose() -> None:
    groups = ["a", "a", "a", "b", "b"]
    keys = ["4", "5", "4", "7", "8"]
    assert blocks.consistent([0.2, 0.6, 0.7, 0.9, 0.95], groups, keys).tolist() == [1, 0, 1, 0, 1]


def test_a_claim_that_survives_the_swap_is_kept() -> None:
    assert blocks.swap_consistent([0.9, 0.6, 0.2], [0.3, 0.7, 0.1]).tolist() == [1, 0, 1]


def test_balance_drops_the_least_sure_of_the_larger_class() -> None:
    labels = f32(1, 1, 1, 1, 0, 0)
    probs = [0.9, 0.6, 0.8, 0.7, 0.2, 0.1]
    assert blocks.balanced(labels, probs, ratio=1.1).tolist() == [0, 2, 4, 5]
    assert blocks.balanced(f32(1, 1, 0, 0), probs[:4]).tolist() == [0, 1, 2, 3]
    assert blocks.balanced(f32(1, 1), [0.9, 0.8]).tolist() == [0, 1]


def test_final_answers_are_the_keys_of_single_answers(binary: MethodRun) -> None:
    assert blocks.answer_keys(binary) is None, "the most common total is a shortcut, not the model's opinion"
    texts = ("so. Answer: 12.", "thus the final answer is $12$", "#### 13", "unclear")
    items = dataclasses.replace(binary.items.take(range(4)), firsts=texts, prompts=("p", "p", "p", "q"))
    run = MethodRun(items, f32(0.2, 0.4, 0.6, 0.8), binary.base)
    assert blocks.answer_keys(run) == ["12", "12", "13", "unclear"]
    assert blocks.make_consistent(run, f32(0.4, 0.3, 0.2, 0.1)).tolist() == [1, 1, 0, 1]


@pytest.fixture
def binary(tmp_path_factory: pytest.TempPathFactory) -> MethodRun:
    from gpu_pool.weak_to_strong.domains import write_pretrain_inputs
    from gpu_pool.weak_to_strong.pretrain import pretrain_model
    from tests.unit.weak_to_strong.conftest import tiny_domain

    world = tiny_domain("math")
    root = tmp_path_factory.mktemp("math")
    pretrain_model(root / "in", root / "out", write_pretrain_inputs(world, "strong", root / "in"))
    items, labels = world.sample(40, 1)
    return MethodRun(
        items, labels * 0.6 + 0.2, LabelModel.load(root / "out", "binary"), RunParams(epochs=1, trainable="full")
    )


def test_few_shot_texts_end_in_the_whole_question_after_balanced_examples(
    run: MethodRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = run.base.tokenize(run.items, prior=True)
    labels = blocks.hard(run.weak)
    given: list[Any] = []

    def logits(tokens: Any) -> npt.NDArray[np.float32]:
        given.extend(tokens)
        return np.zeros((len(tokens), 2), np.float32)

    monkeypatch.setattr(run.base, "logits", logits)
    blocks.few_shot(run, labels, shots=4)
    examples = {(*asked[i].tolist(), run.label_token(int(labels[i]))): (i, int(labels[i])) for i in range(len(asked))}
    for i, text in enumerate(given):
        size = len(asked[i])
        assert text[-size:].tolist() == asked[i].tolist()
        begins = [at for at, token in enumerate(text) if token == asked[0][0]]
        shown = [tuple(text[a:b].tolist()) for a, b in itertools.pairwise(begins)]
        assert len(shown) == 4
        assert sorted(examples[one][1] for one in shown) == [0, 0, 1, 1]
        assert all(run.groups[examples[one][0]] != run.groups[i] for one in shown)


def test_examples_that_do_not_fit_the_context_are_left_out(run: MethodRun, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = 40
    monkeypatch.setattr(run.base.lm.config, "max_position_embeddings", longest)
    given: list[Any] = []

    def logits(tokens: Any) -> npt.NDArray[np.float32]:
        given.extend(tokens)
        return np.zeros((len(tokens), 2), np.float32)

    monkeypatch.setattr(run.base, "logits", logits)
    blocks.few_shot(run, blocks.hard(run.weak), shots=16)
    assert max(len(text) for text in given) <= longest


def test_template_prior_centres_the_opinion_and_does_not_depend_on_the_order_of_a_pair(run: MethodRun) -> None:
    prior = blocks.template_prior(run)
    assert abs(float((prior > 0.5).mean()) - 0.5) <= 0.05
    turned = MethodRun(run.items.swap(), 1 - run.weak, run.base)
    assert np.allclose(blocks.template_prior(turned), 1 - prior, atol=1e-4)


# training


def test_interpolation_lies_between_the_weights(run: MethodRun) -> None:
    tuned = run.fit(blocks.hard(run.weak), run.config(lr=0.01, trainable="top:1"))
    half = blocks.interpolate(run, tuned, 0.25)
    start, end = dict(run.base.lm.named_parameters()), dict(tuned.lm.named_parameters())
    for name, value in half.lm.named_parameters():
        assert torch.allclose(value, 0.75 * start[name] + 0.25 * end[name], atol=1e-6)
    assert half.label_head is not None
    assert tuned.label_head is not None
    expected = 0.75 * run.base.label_rows() + 0.25 * tuned.label_head
    assert torch.allclose(half.label_head, expected, atol=1e-6)


def test_adapters_are_interpolated_by_their_share_and_merged_without_a_difference(run: MethodRun) -> None:
    tuned = run.fit(blocks.hard(run.weak), run.config(lr=0.05, trainable="lora:4"))
    half = blocks.interpolate(run, tuned, 0.25)
    before, quarter, all_of_it = run.base.merged(), half.merged(), tuned.merged()
    assert (quarter.lora, half.lora) == (None, tuned.lora)
    start, end = dict(before.lm.named_parameters()), dict(all_of_it.lm.named_parameters())
    for name, value in quarter.lm.named_parameters():
        assert torch.allclose(value, 0.75 * start[name] + 0.25 * end[name], atol=1e-5)
    assert any(not torch.equal(value, start[name]) for name, value in end.items())
    for adapted, plain in ((half, quarter), (tuned, all_of_it)):
        assert np.allclose(run.predict(adapted), run.predict(plain), atol=1e-5)
    assert not np.allclose(run.predict(half), run.predict(tuned), atol=1e-3)


@pytest.mark.parametrize("make", [blocks.elr, lambda *given: blocks.co_teach(*given)[0]], ids=["elr", "co_teach"])
def test_half_precision_weights_are_stepped_as_float32_masters(folder: Path, run: MethodRun, make: Any) -> None:
    base = LabelModel.load(folder, "pair", dtype=torch.bfloat16)
    own = MethodRun(run.items, run.weak, base, RunParams(epochs=2, lr=1e-5, trainable="full"))
    model = make(own, blocks.hard(run.weak), own.protocol)
    moved = [(a, b) for a, b in zip(model.lm.parameters(), base.lm.parameters(), strict=True)]
    assert all(a.dtype == torch.float32 and b.dtype == torch.bfloat16 for a, b in moved)
    still = sum(int((a == b.float()).sum()) for a, b in moved) / sum(a.numel() for a, _ in moved)
    assert still < 0.5, "steps of 1e-5 are lost in half precision"
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_early_learning_rewards_staying_with_ones_own_past() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    target, memory = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.2, 0.8]])
    # p = (.25, .75), p . t = .65
    value = losses.early_learning(logits, target, memory, strength=3.0).item()
    assert value == pytest.approx(-math.log(0.25) + 3 * math.log(0.35), rel=1e-5)


def test_product_takes_powers_of_both_opinions() -> None:
    logits, target = torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[0.8, 0.2]])
    value = losses.product(2.0, warmup=0, weak_power=0.5)(logits, target, 0.0).item()
    one, two = 0.25**2 * 0.8**0.5, 0.75**2 * 0.2**0.5
    assert value == pytest.approx(-(one * math.log(0.25) + two * math.log(0.75)) / (one + two), rel=1e-5)


def test_co_teaching_and_elr_train_deterministically_and_end_at_the_deadline(run: MethodRun) -> None:
    labels = blocks.hard(run.weak)
    config = run.config(epochs=2)
    first, second = blocks.co_teach(run, labels, config)
    again, _ = blocks.co_teach(run, labels, config)
    assert np.array_equal(run.predict(first), run.predict(again))
    assert not np.array_equal(run.predict(first), run.predict(second))
    assert np.array_equal(run.predict(blocks.elr(run, labels)), run.predict(blocks.elr(run, labels)))
    run.deadline = 0.0
    with pytest.raises(DeadlineError):
        blocks.elr(run, labels)


def test_elr_without_strength_is_cross_entropy_training(run: MethodRun) -> None:
    labels = blocks.hard(run.weak)
    config = run.config(epochs=15, lr=1e-2)
    probs = run.predict(blocks.elr(run, labels, config, strength=0.0))
    assert ((probs > 0.5) == (labels == 1)).mean() > 0.9


def test_a_curriculum_goes_from_easy_to_all_at_half_the_rate(run: MethodRun, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[tuple[int, int, float]] = []

    def finetune(model: Any, targets: Any, config: Any, *, indices: Any, weights: Any) -> None:
        parts.append((len(indices), config.epochs, config.lr))

    monkeypatch.setattr(run, "finetune", finetune)
    blocks.curriculum(run, blocks.hard(run.weak), epochs=(2, 3))
    assert parts == [(20, 2, 1e-3), (40, 3, 5e-4)]


# evolution


def test_fitness_is_agreement_less_imbalance_less_inconsistency() -> None:
    own = np.array([[1.0, 0.5], [-1.0, 0.5]])
    sign = np.array([1.0, -1.0])
    assert np.allclose(blocks.fitness(own, sign), [1, -0.5])
    assert np.allclose(blocks.fitness(own, sign, np.array([[-1.0, 0.5], [1.0, 0.5]])), [1, -1.5])


def test_evolution_climbs() -> None:
    goal = np.array([1.0, -2.0, 0.5])
    rng = np.random.default_rng(0)

    def score(candidates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(-((candidates - goal) ** 2).sum(axis=1))

    found = blocks.evolve(np.zeros(3), score, generations=200, population=20, scale=0.1, rng=rng)
    assert np.abs(found - goal).max() < 0.2


def test_an_evolved_lora_changes_the_top_layer_only_and_never_for_the_worse(run: MethodRun) -> None:
    labels = blocks.hard(run.weak)
    reports: dict[str, float] = {}
    run._log = lambda message, **numbers: reports.update(numbers)
    model = blocks.evolve_lora(run, run.strong(), labels, generations=5, population=6)
    assert reports["fitness_after"] >= reports["fitness_before"] or reports["fitness_after"] != 0
    before = dict(run.base.lm.named_parameters())
    changed = {name for name, value in model.lm.named_parameters() if not torch.equal(value, before[name])}
    top = f"layers.{run.base.layers - 1}."
    assert all(top in name for name in changed)


def test_a_lora_evolved_on_adapters_is_the_model_that_was_scored(run: MethodRun) -> None:
    labels = blocks.hard(run.weak)
    tuned = run.fit(labels, run.config(trainable="lora:4", lr=1e-2))
    before = run.predict(tuned)
    model = blocks.evolve_lora(run, tuned, labels, generations=12, population=10, scale=0.5)
    assert np.allclose(run.student(model).predict(run.items)[:, 1], run.predict(model), atol=1e-6)
    assert not np.allclose(run.predict(model), before, atol=1e-3)
    assert np.array_equal(run.predict(tuned), before)


# critics


def test_the_best_critique_gives_the_label_the_most_probability() -> None:
    assert blocks.best_of([[0.2, 0.9], [0.3, 0.1]], [1, 0]).tolist() == [1, 1]


def test_text_loss_is_the_mean_over_the_written_tokens(run: MethodRun) -> None:
    rows = [np.array([1, 5, 6, 7, 8]), np.array([1, 9, 10])]
    value = blocks.text_loss(run.base, rows, [3, 1]).item()
    parts = []
    for row, start in zip(rows, (3, 1), strict=True):
        logits = run.base.lm(input_ids=torch.from_numpy(row)[None]).logits[0]
        for at in range(start, len(row)):
            parts.append(-torch.log_softmax(logits[at - 1], -1)[int(row[at])].item())
    assert len(parts) == 4
    assert value == pytest.approx(np.mean(parts), rel=1e-4)


def test_a_critic_is_trained_by_parts_as_at_once_with_the_logits_of_what_it_writes_alone(
    run: MethodRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [prompt.split()[0] for prompt in run.items.prompts]
    ends, kept, read = [], 0, 0
    forward = type(run.base.lm).forward

    @functools.wraps(forward)
    def watched(lm: Any, *args: Any, **given: Any) -> Any:
        nonlocal kept, read
        out = forward(lm, *args, **given)
        kept, read = kept + out.logits[..., 0].numel(), read + given["input_ids"].numel()
        return out

    monkeypatch.setattr(type(run.base.lm), "forward", watched)
    for budget in (1 << 30, 80):
        run.protocol = run.config(token_budget=budget, lr=1e-3)
        critic = run.strong()
        blocks.train_critic(run, critic, words, blocks.CriticConfig())
        ends.append(torch.cat([p.detach().flatten() for p in critic.lm.parameters()]))
        run.protocol = run.config(token_budget=None)
    assert torch.allclose(ends[0], ends[1], atol=1e-5)
    assert 0 < kept < read / 2


def test_critique_prompts_leave_room_for_the_critique_and_say_how_many_were_cut(run: MethodRun, folder: Path) -> None:
    whole = blocks.critique_prompts(run, 6)
    longest = int(whole.lengths.max())
    base = LabelModel.load(folder, "pair", max_length=longest + 3)
    said: dict[str, float] = {}
    own = MethodRun(run.items, run.weak, base, log=lambda _, **numbers: said.update(numbers))
    cut = blocks.critique_prompts(own, 6)
    assert int(cut.lengths.max()) == longest - 3
    assert (said["cut"], said["of"]) == (cut.truncated, 40)
    assert all(short[-3:].tolist() == long[-3:].tolist() for short, long in zip(cut, whole, strict=True))
    base.over_long = "refuse"
    with pytest.raises(ModelError, match="longer than"):
        blocks.critique_prompts(own, 6)


def test_the_critic_writes_with_the_engine_that_was_chosen(
    run: MethodRun, model: LabelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str] = []

    def generator(critic: LabelModel, engine: str) -> Any:
        chosen.append(engine)
        return contextlib.nullcontext(TransformersGenerator(critic.lm, critic.tokenizer))

    monkeypatch.setattr(critics, "bulk_generator", generator)
    scope: dict[str, Any] = {}
    exec(compile(registry.source_of("critic", engine="vllm", judge_epochs=1), "method.py", "exec"), scope)
    scope["train"](run)
    assert chosen == ["vllm", "vllm"]


def test_a_critique_that_is_longer_when_read_again_does_not_leave_the_context(run: MethodRun, folder: Path) -> None:
    longest = int(run.tokens.lengths.max())
    base = LabelModel.load(folder, "pair", max_length=longest)
    own = MethodRun(run.items, run.weak, base, RunParams(epochs=1, trainable="full"))
    seen: list[int] = []
    base.lm.register_forward_pre_hook(lambda _, args, given: seen.append(given["input_ids"].shape[1]), with_kwargs=True)
    blocks.train_critic(own, base, ["good " * 30] * 40, blocks.CriticConfig())
    assert max(seen) <= longest


def test_a_protocol_that_trains_nothing_that_writes_is_named(run: MethodRun) -> None:
    run.protocol = run.config(trainable="head")
    with pytest.raises(TrainingError, match=r"'head' moves no weight that writes.*lora:r"):
        blocks.critique_labels(run)


def test_a_critic_learns_to_write_what_was_kept(run: MethodRun) -> None:
    config = blocks.CriticConfig(epochs=20)
    critic = run.strong()
    word = run.items.prompts[0].split()[0]
    run.protocol = run.config(lr=5e-3)
    first = blocks.train_critic(run, critic, [word] * 40, blocks.CriticConfig(epochs=1))
    assert blocks.train_critic(run, critic, [word] * 40, config) < first
    assert math.isnan(blocks.train_critic(run, critic, [""] * 40, config))


def test_a_judge_reads_the_critique_behind_the_last_answer(run: MethodRun) -> None:
    read = blocks.with_critiques(run.items.take([0]), ["too long"])
    assert read.seconds[0].startswith(run.items.seconds[0])
    assert read.seconds[0].endswith("too long")
    assert read.firsts == run.items.take([0]).firsts
