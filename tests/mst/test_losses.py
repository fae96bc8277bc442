"""Losses compared with values that numpy computes from their definitions in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mst_distill.mst import losses


def softmax(logits: list[float], tau: float) -> np.ndarray:
    powers = np.exp(np.array(logits, dtype=np.float64) / tau)
    return powers / powers.sum()


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)))


STUDENT = [[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]]
TEACHER = [[1.0, 1.0, -1.0], [-0.5, 2.0, 2.5]]


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_distillation_is_tau_squared_times_kl_from_student_to_teacher(tau):
    found = losses.distillation(
        torch.tensor(STUDENT, dtype=torch.float64), torch.tensor(TEACHER, dtype=torch.float64), tau
    )
    expected = [
        tau**2 * kl(softmax(t, tau), softmax(s, tau)) for s, t in zip(STUDENT, TEACHER, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_distillation_of_dense_logits_is_the_mean_over_pixels():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 2, 3, 4, 5))
    found = losses.distillation(torch.from_numpy(student), torch.from_numpy(teacher), 4.0)
    expected = [
        np.mean(
            [
                16 * kl(softmax(teacher[b, :, y, x], 4), softmax(student[b, :, y, x], 4))
                for y in range(4)
                for x in range(5)
            ]
        )
        for b in range(2)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_distillation_of_equal_logits_is_0_and_both_sides_receive_a_gradient():
    student = torch.tensor(STUDENT, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(TEACHER, dtype=torch.float64, requires_grad=True)
    assert losses.distillation(student, student.detach(), 4.0).abs().max() < 1e-14
    losses.distillation(student, teacher, 4.0).sum().backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad.abs().sum() > 0


def test_the_gradient_of_distillation_is_that_of_finite_differences():
    torch.manual_seed(0)
    pair = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda s, t: losses.distillation(s, t, 4.0), pair)


def test_cross_entropy_ignores_the_label_that_is_no_target():
    logits = torch.tensor([[[[1.0, 2.0]], [[0.0, -1.0]]]], dtype=torch.float64)
    label = torch.tensor([[[1, 0]]])
    first = -math.log(softmax([1.0, 0.0], 1)[1])
    second = -math.log(softmax([2.0, -1.0], 1)[0])
    assert losses.cross_entropy(logits, label, None).item() == pytest.approx((first + second) / 2)
    assert losses.cross_entropy(logits, label, 0).item() == pytest.approx(first)


def test_accuracy_skips_ignored_labels_and_counts_predicted_ones_as_wrong():
    logits = torch.tensor([[5.0, 0, 0], [0, 5, 0], [0, 5, 0], [0, 0, 5]])
    label = torch.tensor([1, 1, 0, 2])
    assert losses.accuracy(logits, label, None).item() == pytest.approx(2 / 4)
    assert losses.accuracy(logits, label, 0).item() == pytest.approx(2 / 3)


WEIGHTS = [[0.7, 0.1, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1]]


def test_balance_kl_is_kl_from_uniform_to_the_mean_weights():
    mean = np.mean(WEIGHTS, axis=0)
    expected = kl(np.full(4, 0.25), mean)
    log_weights = torch.tensor(WEIGHTS, dtype=torch.float64).log()
    assert losses.balance_kl(log_weights, scaled=False).item() == pytest.approx(expected, rel=1e-12)
    assert losses.balance_kl(log_weights, scaled=True).item() == pytest.approx(
        expected / 4, rel=1e-12
    )
    even = torch.full((3, 4), 0.25, dtype=torch.float64).log()
    assert losses.balance_kl(even, scaled=False).item() == pytest.approx(0, abs=1e-12)


def test_balance_cv_is_the_standard_deviation_over_the_mean_of_the_load():
    load = np.sum(WEIGHTS, axis=0)
    expected = np.std(load, ddof=1) / np.mean(load)
    found = losses.balance_cv(torch.tensor(WEIGHTS, dtype=torch.float64)).item()
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["distillation", "cross_entropy"])
def test_losses_of_bfloat16_logits_are_computed_in_float32(name):
    torch.manual_seed(0)
    logits, teacher = (torch.randn(8, 5) for _ in range(2))
    teacher = logits + 0.5 * teacher
    rounded = logits.bfloat16(), teacher.bfloat16()
    if name == "distillation":
        found = losses.distillation(*rounded, 4.0)
        expected = losses.distillation(*(one.double() for one in rounded), 4.0)  # type: ignore[call-arg]
    else:
        label = torch.arange(8) % 5
        found = losses.cross_entropy(rounded[0], label, None)
        expected = losses.cross_entropy(rounded[0].double(), label, None)
    # The rounding error of logarithms below 4, times tau squared. In bfloat16 it would be 0.1.
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=2e-5)


def test_the_loss_of_a_batch_with_ignored_labels_only_is_0():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    label = torch.full((2, 4, 4), 255)
    loss = losses.cross_entropy(logits, label, 255)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0
    assert losses.accuracy(logits, label, 255).item() == 0
