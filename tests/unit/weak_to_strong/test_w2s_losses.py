from __future__ import annotations

import math

import pytest
import torch

from gpu_pool.weak_to_strong import losses

LOGITS = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)], [math.log(9.0), 0.0], [0.0, 0.5]])
TARGET = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.0, 1.0], [1.0, 0.0]])


def test_cross_entropy_is_minus_the_expected_log_probability() -> None:
    value = losses.cross_entropy(LOGITS, TARGET, 0.0)
    assert value[0].item() == pytest.approx(math.log(2))
    assert value[1].item() == pytest.approx(-0.5 * (math.log(0.25) + math.log(0.75)), rel=1e-5)
    assert value[2].item() == pytest.approx(math.log(10), rel=1e-5)


def test_logconf_starts_as_cross_entropy_and_mixes_in_its_own_labels() -> None:
    loss = losses.logconf(0.5, warmup=0.2)
    assert torch.allclose(loss(LOGITS, TARGET, 0.0), losses.cross_entropy(LOGITS, TARGET, 0.0))
    # P(1) = .5, .75, .1, .62; the weak share of label 1 is .625, so the cut is the .375 quantile, between .5 and .62.
    own = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    mixed = losses.cross_entropy(LOGITS, 0.5 * TARGET + 0.5 * own, 0.0)
    assert torch.allclose(loss(LOGITS, TARGET, 1.0), mixed)
    quarter = losses.cross_entropy(LOGITS, 0.75 * TARGET + 0.25 * own, 0.0)
    assert torch.allclose(loss(LOGITS, TARGET, 0.1), quarter)


def test_gce_is_one_minus_p_to_the_q_and_tends_to_cross_entropy() -> None:
    value = losses.gce(0.7)(LOGITS, TARGET, 0.0)
    assert value[2].item() == pytest.approx((1 - 0.1**0.7) / 0.7, rel=1e-5)
    near = losses.gce(1e-4)(LOGITS, TARGET, 0.0)
    assert near[0].item() == pytest.approx(math.log(2), rel=1e-3)


def test_product_sharpens_the_target_by_the_students_own_belief() -> None:
    loss = losses.product(1.0, warmup=0.2)
    assert torch.allclose(loss(LOGITS, TARGET, 0.0), losses.cross_entropy(LOGITS, TARGET, 0.0), atol=1e-4)
    value = loss(LOGITS, TARGET, 1.0)[1].item()  # target (.25 x .5, .75 x .5) normalised
    assert value == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), rel=1e-4)


def test_reverse_kl_is_zero_where_student_and_target_agree() -> None:
    loss = losses.reverse_kl(0.02)
    same = torch.softmax(LOGITS, -1)
    assert loss(LOGITS, same, 0.0).abs().max().item() < 1e-6
    value = loss(LOGITS, TARGET, 0.0)[0].item()
    assert value == pytest.approx(0.5 * (math.log(0.5 / 0.02) + math.log(0.5 / 0.98)), rel=1e-5)


@pytest.mark.parametrize("loss", [losses.logconf(0.75), losses.product()])
def test_self_made_targets_carry_no_gradient(loss: losses.Loss) -> None:
    logits = LOGITS.clone().requires_grad_(True)
    loss(logits, TARGET, 1.0).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    # A cross entropy to a constant target has a gradient that sums to zero over the two labels.
    assert torch.allclose(logits.grad.sum(-1), torch.zeros(4), atol=1e-6)
