"""MLLD and DIST: relations between samples and between classes, against loops and scipy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from scipy.stats import pearsonr
from torch import nn

from mst_distill.compare.methods.dist import DIST, pearson_distance
from mst_distill.compare.methods.mlld import MLLD, TEMPERATURES, level_losses
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.supervision import Supervision
from mst_distill.training.batches import Batch

TAU = 4.0
CLASSES = 5
LABELS = [0, 3, 2, 3, 1, 4]


def fake_context(ignored: int | None = None) -> SimpleNamespace:
    student = SimpleNamespace(net=nn.Identity())
    return SimpleNamespace(
        student=student, weight=0.5, temperature=TAU, supervision=Supervision(ignored)
    )


def kl(teacher: np.ndarray, student: np.ndarray) -> float:
    """Compute KL(teacher || student) of two distributions."""
    return float(rel_entr(teacher, student).sum())


def logit_pair(seed: int, shape: tuple[int, ...] = (6, CLASSES)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=shape), 2 * rng.normal(size=shape)


def make_output(*arrays: np.ndarray) -> ModelOutput:
    return ModelOutput(*(torch.from_numpy(array) for array in arrays))


def levels_by_hand(student: np.ndarray, teacher: np.ndarray, tau: float) -> list[float]:
    """Compute the levels of instance, batch and class of Jin et al., with loops."""
    p, q = softmax(student / tau, axis=1), softmax(teacher / tau, axis=1)
    count, classes = p.shape
    between_samples = sum(
        (sum(q[a, j] * q[b, j] - p[a, j] * p[b, j] for j in range(classes))) ** 2
        for a in range(count)
        for b in range(count)
    )
    between_classes = sum(
        (sum(q[a, i] * q[a, j] - p[a, i] * p[a, j] for a in range(count))) ** 2
        for i in range(classes)
        for j in range(classes)
    )
    instance = np.mean([tau**2 * kl(t, s) for s, t in zip(p, q, strict=True)])
    return [instance, between_samples / count, between_classes / classes]


def test_the_levels_of_mlld_match_loops_over_samples_and_classes():
    student, teacher = logit_pair(0)
    found = level_losses(torch.from_numpy(student), torch.from_numpy(teacher), 3.0)
    np.testing.assert_allclose(found.numpy(), levels_by_hand(student, teacher, 3), rtol=1e-10)
    leaf = torch.from_numpy(student).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: level_losses(s, torch.from_numpy(teacher), 3.0), leaf)


def test_mlld_averages_each_level_over_its_temperatures():
    student, teacher = logit_pair(1)
    terms = MLLD(fake_context()).distil(make_output(student), make_output(teacher), Batch({}, None))
    assert TEMPERATURES == (2, 3, 4, 5, 6)
    wanted = np.mean([levels_by_hand(student, teacher, tau) for tau in (2, 3, 4, 5, 6)], axis=0)
    assert list(terms) == ["instance", "batch", "class"]
    np.testing.assert_allclose([term.item() for term in terms.values()], wanted, rtol=1e-10)


def test_mlld_adds_its_levels_up_in_the_setting_of_its_authors():
    student, teacher = logit_pair(1)
    method = MLLD(fake_context(), weight=0.9, summed=True)
    terms = method.distil(make_output(student), make_output(teacher), Batch({}, None))
    wanted = np.sum([levels_by_hand(student, teacher, tau) for tau in (2, 3, 4, 5, 6)], axis=0)
    np.testing.assert_allclose([term.item() for term in terms.values()], wanted, rtol=1e-10)


def one_minus_r(own: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean([1 - pearsonr(s, t)[0] for s, t in zip(own, other, strict=True)]))


def test_pearson_distance_is_1_minus_scipy_s_r():
    student, teacher = logit_pair(2)
    found = pearson_distance(torch.from_numpy(student), torch.from_numpy(teacher))
    assert found.item() == pytest.approx(one_minus_r(student, teacher), rel=1e-12)
    leaves = [torch.from_numpy(one).requires_grad_() for one in (student, teacher)]
    assert torch.autograd.gradcheck(pearson_distance, leaves)


def test_pearson_distance_ignores_scale_and_shift_and_is_between_0_and_2():
    student, teacher = (torch.from_numpy(softmax(one, axis=1)) for one in logit_pair(3))
    scale, shift = torch.rand(6, 1, dtype=torch.float64) + 0.5, torch.randn(6, 1)
    torch.testing.assert_close(
        pearson_distance(scale * student + shift, teacher), pearson_distance(student, teacher)
    )
    assert pearson_distance(scale * student + shift, student).item() == pytest.approx(0, abs=1e-12)
    assert pearson_distance(shift - scale * student, student).item() == pytest.approx(2)


def test_a_constant_row_has_the_distance_1_and_a_finite_gradient():
    student = torch.full((2, CLASSES), 1 / CLASSES, requires_grad=True)
    found = pearson_distance(student, torch.rand(2, CLASSES))
    found.backward()
    assert found.item() == pytest.approx(1, abs=1e-5)
    assert student.grad.isfinite().all()


def test_dist_correlates_probabilities_within_samples_and_within_classes():
    student, teacher = logit_pair(4)
    batch = Batch({}, torch.tensor(LABELS))
    terms = DIST(fake_context()).distil(make_output(student), make_output(teacher), batch)
    p, q = softmax(student / TAU, axis=1), softmax(teacher / TAU, axis=1)
    assert terms["inter"].item() == pytest.approx(2 * 16 * one_minus_r(p, q), rel=1e-10)
    assert terms["intra"].item() == pytest.approx(2 * 16 * one_minus_r(p.T, q.T), rel=1e-10)


def test_dist_at_the_temperature_of_imagenet():
    student, teacher = logit_pair(4)
    method = DIST(fake_context(), temperature=1.0)
    own, other = make_output(student), make_output(teacher)
    terms = method.distil(own, other, Batch({}, torch.tensor(LABELS)))
    p, q = softmax(student, axis=1), softmax(teacher, axis=1)
    assert terms["inter"].item() == pytest.approx(2 * one_minus_r(p, q), rel=1e-10)
    assert terms["intra"].item() == pytest.approx(2 * one_minus_r(p.T, q.T), rel=1e-10)


def test_dist_treats_labelled_pixels_as_samples():
    student, teacher = logit_pair(5, (2, CLASSES, 3, 2))
    label = np.zeros((2, 3, 2), int)
    label[0, 0] = 255
    terms = DIST(fake_context(255)).distil(
        make_output(student), make_output(teacher), Batch({}, torch.from_numpy(label))
    )
    p, q = (
        softmax(
            np.stack([one[b, :, y, x] for b, y, x in zip(*np.nonzero(label == 0), strict=True)])
            / TAU,
            axis=1,
        )
        for one in (student, teacher)
    )
    assert p.shape == (10, CLASSES)
    assert terms["inter"].item() == pytest.approx(32 * one_minus_r(p, q), rel=1e-10)
    assert terms["intra"].item() == pytest.approx(32 * one_minus_r(p.T, q.T), rel=1e-10)
