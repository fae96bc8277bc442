"""Losses of logits that are far apart, equal, or of one sample: values and gradients are right.

Values are compared with scipy in float64, and gradients with central differences of these values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax
from torch import nn

from mst_distill.compare.methods.c2kd import C2KD
from mst_distill.compare.methods.dist import DIST, pearson_distance
from mst_distill.compare.methods.dkd import DKD, decoupled_losses
from mst_distill.compare.methods.fd_cmkd import signed_log, standardise
from mst_distill.compare.methods.mlld import level_losses
from mst_distill.compare.methods.ofa import ofa_loss
from mst_distill.compare.methods.rkd import RKD, angles, distances
from mst_distill.diagnose.evaluated_models import mixture
from mst_distill.evaluate.accumulate import MetricAccumulator
from mst_distill.mst import losses
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.gating import cross_entropies, routing_weights, teacher_quality
from mst_distill.mst.supervision import Supervision
from mst_distill.training.batches import Batch

TAU = 4.0
Array = np.ndarray


def far(seed: int, shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(seed).uniform(-1e4, 1e4, shape)


def near(seed: int, shape: tuple[int, ...] = (3, 4)) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


CASES = {
    "both far apart": (far(0, (3, 4)), far(1, (3, 4))),
    "the teacher far apart": (near(2), 1500 * near(3)),
    "the student far apart": (1500 * near(4), near(5)),
    "certain of the same classes": (np.eye(4)[:3] * 1e4, np.eye(4)[:3] * 1e4),
    "all equal": (np.zeros((3, 4)), np.zeros((3, 4))),
    "one sample": (far(6, (1, 4)), far(7, (1, 4))),
    "two classes": (far(8, (3, 2)), far(9, (3, 2))),
}
"""Logits of student and teacher.

At tau = 4 a probability underflows to 0 if logits differ by more than 2,980 in float64, or by more
than 416 in float32.
"""


def label_of(logits: Array) -> Array:
    return np.array([1, 0, 1])[: len(logits)]


def kd_definition(student: Array, teacher: Array, tau: float = TAU) -> Array:
    own, other = log_softmax(student / tau, axis=1), log_softmax(teacher / tau, axis=1)
    return tau**2 * (np.exp(other) * (other - own)).sum(axis=1)


def ce_definition(student: Array, teacher: Array) -> float:
    return float(-log_softmax(student, axis=1)[range(len(student)), label_of(student)].mean())


def target_and_others(logits: Array) -> tuple[Array, Array]:
    """The log-probabilities (target, all others) and the logits of the others, by sample."""
    log_p, label = log_softmax(logits / TAU, axis=1), label_of(logits)
    others = np.array([np.delete(row, y) for row, y in zip(logits / TAU, label, strict=True)])
    rest = [logsumexp(np.delete(row, y)) for row, y in zip(log_p, label, strict=True)]
    return np.column_stack([log_p[range(len(label)), label], rest]), others


def target_definition(student: Array, teacher: Array) -> Array:
    own, other = target_and_others(student)[0], target_and_others(teacher)[0]
    return TAU**2 * (np.exp(other) * (other - own)).sum(axis=1)


def others_definition(student: Array, teacher: Array) -> Array:
    return TAU**2 * kd_definition(target_and_others(student)[1], target_and_others(teacher)[1], 1.0)


def levels_definition(student: Array, teacher: Array) -> Array:
    p, q = softmax(student / TAU, axis=1), softmax(teacher / TAU, axis=1)
    samples = ((q @ q.T - p @ p.T) ** 2).sum() / len(p)
    classes = ((q.T @ q - p.T @ p) ** 2).sum() / p.shape[1]
    return np.array([kd_definition(student, teacher).mean(), samples, classes])


def uncorrelated_definition(own: Array, other: Array) -> float:
    """1 - r, or 1 for a constant row; the denominator of r is at least 1e-8."""
    found = []
    for one, two in zip(own, other, strict=True):
        if np.ptp(one) == 0 or np.ptp(two) == 0:
            found.append(1.0)
            continue
        one, two = one - one.mean(), two - two.mean()
        found.append(1 - one @ two / max(np.sqrt(one @ one) * np.sqrt(two @ two), 1e-8))
    return float(np.mean(found))


def dist_definition(student: Array, teacher: Array) -> Array:
    p, q = softmax(student / TAU, axis=1), softmax(teacher / TAU, axis=1)
    return np.array([uncorrelated_definition(p, q), uncorrelated_definition(p.T, q.T)])


def dist_of(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    p, q = (student / TAU).softmax(dim=1), (teacher / TAU).softmax(dim=1)
    return torch.stack([pearson_distance(p, q), pearson_distance(p.T, q.T)])


def ofa_definition(student: Array, teacher: Array) -> float:
    y = np.eye(student.shape[1])[label_of(student)]
    weight = (softmax(teacher, axis=1) + y) ** 1.1 - y
    return float(-(weight * log_softmax(student, axis=1)).sum(axis=1).mean())


def labels(logits: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(label_of(logits.numpy(force=True)))


@dataclass(frozen=True)
class Loss:
    """A loss, its definition in numpy, and whether the teacher receives a gradient as well."""

    of: Callable[..., torch.Tensor]
    definition: Callable[..., Array | float]
    both: bool = True


LOSSES = {
    "kd": Loss(lambda s, t: losses.distillation(s, t, TAU), kd_definition),
    "ce": Loss(lambda s, t: losses.cross_entropy(s, labels(s), None), ce_definition, False),
    "dkd, target": Loss(lambda s, t: decoupled_losses(s, t, labels(s), TAU)[0], target_definition),
    "dkd, others": Loss(lambda s, t: decoupled_losses(s, t, labels(s), TAU)[1], others_definition),
    "mlld": Loss(lambda s, t: level_losses(s, t, TAU), levels_definition),
    "dist": Loss(dist_of, dist_definition),
    "ofa": Loss(lambda s, t: ofa_loss(s, t, labels(s), 1.1), ofa_definition, False),
}  # fmt: skip


def central_differences(
    function: Callable[..., float], *at: Array, step: float = 1e-3
) -> list[Array]:
    """The gradient with respect to each of the arrays, by central differences."""
    found = []
    for position, array in enumerate(at):
        gradient = np.empty_like(array)
        for index in np.ndindex(array.shape):
            values = []
            for offset in (step, -step):
                shifted = array.copy()
                shifted[index] += offset
                values.append(function(*at[:position], shifted, *at[position + 1 :]))
            gradient[index] = (values[0] - values[1]) / (2 * step)
        found.append(gradient)
    return found


def computed(loss: Loss, case: str, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
    leaves = [torch.from_numpy(of).to(dtype).requires_grad_() for of in CASES[case]]
    value = loss.of(*leaves)
    differentiated = leaves if loss.both else leaves[:1]
    return value.detach(), list(
        torch.autograd.grad(value.sum(), differentiated, materialize_grads=True)
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_at_extreme_logits_equals_its_definition_in_float64(name, case):
    value, _ = computed(LOSSES[name], case, torch.float64)
    expected = np.asarray(LOSSES[name].definition(*CASES[case]))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_a_loss_at_extreme_logits_equals_central_differences(name, case):
    _, found = computed(LOSSES[name], case, torch.float64)
    if name == "dist" and case == "all equal":  # the correlation is not differentiable there
        assert all(not gradient.any() for gradient in found)
        return
    definition = LOSSES[name].definition
    expected_gradients = central_differences(
        lambda s, t: float(np.sum(definition(s, t))), *CASES[case]
    )
    for gradient, other in zip(found, expected_gradients, strict=False):
        np.testing.assert_allclose(gradient.numpy(), other, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_at_extreme_logits_are_equal_in_float32(name, case):
    value, found = computed(LOSSES[name], case, torch.float32)
    expected, expected_gradients = computed(LOSSES[name], case, torch.float64)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4)
    for gradient, other in zip(found, expected_gradients, strict=True):
        atol = 1e-4 * max(1.0, float(other.abs().max()))
        torch.testing.assert_close(gradient.double(), other, rtol=1e-3, atol=atol)


def test_the_gradients_of_kd_are_finite_if_a_float32_probability_is_0():
    """At tau = 4, logits that differ by 416 give exp(-104), which underflows."""
    student = torch.tensor([[2.0, -1.0, 0.5]], requires_grad=True)
    teacher = torch.tensor([[500.0, 0.0, 1.0]], requires_grad=True)
    assert (teacher / TAU).softmax(dim=1)[0, 1] == 0
    losses.distillation(student, teacher, TAU).sum().backward()
    p = softmax(np.array([2.0, -1.0, 0.5]) / TAU)
    # With probabilities t of the teacher and s of the student, the teacher's gradient is
    # tau t_i (log t_i - log s_i - KL). It is 0 because t is one-hot.
    np.testing.assert_allclose(student.grad[0], TAU * (p - np.array([1, 0, 0])), rtol=1e-5)
    assert (teacher.grad == 0).all()


def test_distillation_between_different_shapes_is_an_error():
    """Neither pixels nor samples are broadcast silently."""
    for shape in ((1, 3), (2, 1), (2, 3, 1, 1)):
        with pytest.raises(ValueError, match=r"\(2, 3.*\) .*" + str(shape)[1:-1]):
            losses.distillation(
                torch.zeros(2, 3) if len(shape) == 2 else torch.zeros(2, 3, 4, 4),
                torch.zeros(shape),
                TAU,
            )


ROUTED = {
    "far apart": far(10, (6, 4)),
    "one specialist is never selected": near(11, (6, 4)) + np.array([0, 0, 0, -900.0]),
    "all equal": np.zeros((6, 4)),
    "one sample": far(12, (1, 4)),
    "one specialist": far(13, (6, 1)),
}
"""The logits of a router."""


def balance_kl_definition(raw: Array) -> float:
    """-log E minus the mean over the specialists of the log of c's mean over the samples."""
    log_mean = logsumexp(log_softmax(raw, axis=1), axis=0) - np.log(len(raw))
    return float(-np.log(raw.shape[1]) - log_mean.mean())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", ROUTED)
def test_balance_kl_is_finite_if_a_specialist_is_never_selected(case, dtype):
    leaf = torch.from_numpy(ROUTED[case]).to(dtype).requires_grad_()
    value = losses.balance_kl(leaf.log_softmax(dim=1), scaled=False)
    value.backward()
    exact = dtype == torch.float64
    expected, (gradient,) = (
        balance_kl_definition(ROUTED[case]),
        central_differences(balance_kl_definition, ROUTED[case]),
    )
    assert value.item() == pytest.approx(expected, rel=1e-10 if exact else 1e-4, abs=1e-6)
    atol = 1e-6 if exact else 1e-4
    np.testing.assert_allclose(
        leaf.grad.double(), gradient, rtol=1e-5 if exact else 1e-3, atol=atol
    )


def balance_cv_definition(raw: Array) -> float:
    load = softmax(raw, axis=1).sum(axis=0)
    return float(load.std(ddof=1) / load.mean()) if len(load) > 1 else 0.0


@pytest.mark.parametrize("case", ROUTED)
def test_balance_cv_is_finite(case):
    leaf = torch.from_numpy(ROUTED[case]).requires_grad_()
    value = losses.balance_cv(leaf.softmax(dim=1))
    value.backward()
    assert value.item() == pytest.approx(balance_cv_definition(ROUTED[case]), rel=1e-10, abs=1e-12)
    if case == "all equal":  # the minimum, where it is not differentiable
        assert not leaf.grad.any()
        return
    (gradient,) = central_differences(balance_cv_definition, ROUTED[case])
    np.testing.assert_allclose(leaf.grad.numpy(), gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_quality_and_cross_entropies_of_specialists_at_extreme_logits(dtype):
    logits, label = far(14, (3, 4, 5)), np.array([4, 0, 2])
    arguments = torch.from_numpy(logits).to(dtype), torch.from_numpy(label), None
    each = np.array(
        [[-log_softmax(of)[y] for of in one] for one, y in zip(logits, label, strict=True)]
    )
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(cross_entropies(*arguments).double(), each, rtol=rtol)
    np.testing.assert_allclose(
        teacher_quality(*arguments).double(), softmax(-each, axis=1), atol=1e-6
    )


@pytest.mark.parametrize("top_k", [None, 1])
def test_a_gate_that_leaves_almost_no_weight_has_a_finite_gradient(top_k):
    raw = torch.tensor([[900.0, 0.0, 1.0], [20.0, 0.0, 1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    correct = torch.tensor([[False, True, True], [False, True, True], [False, False, False]])
    routing = routing_weights(raw.softmax(dim=1), top_k).only(correct)
    total = routing.weights.sum(dim=1).tolist()
    # exp(-900) is 0, so that no specialist is left. exp(-20) is not: if all specialists are
    # selected, the correct ones are rescaled to the whole weight.
    assert total == pytest.approx([0.0, 0.0 if top_k else 1.0, 0.0], abs=1e-6)
    if top_k is None:
        (routing.weights * torch.tensor([1.0, 2.0, 5.0])).sum().backward()
        assert raw.grad.isfinite().all()
        assert raw.grad.abs().max() < 10


EMBEDDINGS = {
    "far apart": 1e4 * near(15, (5, 3)),
    "two samples equal": np.concatenate([near(16, (4, 3)), near(16, (4, 3))[:1]]),
    "all equal": np.ones((5, 3)),
    "one sample": near(17, (1, 3)),
    "two samples": near(18, (2, 3)),
}


def rkd() -> RKD:
    return RKD(SimpleNamespace(student=SimpleNamespace(net=nn.Identity()), weight=0.5))


def huber(one: Array, other: Array) -> float:
    difference = np.abs(one - other)
    return float(np.where(difference <= 1, difference**2 / 2, difference - 0.5).mean())


def relations(points: Array) -> tuple[Array, Array]:
    """Distances over their mean (0 if all are 0), and cosines at the first of three samples."""
    count = len(points)
    distance = np.array([[np.linalg.norm(a - b) for b in points] for a in points])
    mean = distance.sum() / max(count * (count - 1), 1)
    cosine = np.zeros((count, count, count))
    for i, j, k in np.ndindex(cosine.shape):
        one, two = points[j] - points[i], points[k] - points[i]
        if one.any() and two.any():
            cosine[i, j, k] = one @ two / (np.linalg.norm(one) * np.linalg.norm(two))
    return distance / mean if mean > 0 else distance, cosine


@pytest.mark.parametrize("case", EMBEDDINGS)
def test_relations_are_right_for_single_and_for_equal_samples(case):
    own, other = EMBEDDINGS[case], near(19, (len(EMBEDDINGS[case]), 4))
    leaf = torch.from_numpy(own).requires_grad_()
    empty = torch.empty(0)
    batch = Batch({}, torch.zeros(len(own)))
    terms = rkd().distil(
        ModelOutput(empty, leaf), ModelOutput(empty, torch.from_numpy(other)), batch
    )
    (own_distance, own_cosine), (other_distance, other_cosine) = relations(own), relations(other)
    assert terms["distance"].item() == pytest.approx(huber(own_distance, other_distance), rel=1e-10)
    assert terms["angle"].item() == pytest.approx(2 * huber(own_cosine, other_cosine), rel=1e-10)
    (terms["distance"] + terms["angle"]).backward()
    assert leaf.grad.isfinite().all()
    if case in ("far apart", "two samples"):  # elsewhere, distances of 0

        def definition(points: Array) -> float:
            distance, cosine = relations(points)
            return huber(distance, other_distance) + 2 * huber(cosine, other_cosine)

        scale = np.abs(own).max()
        (gradient,) = central_differences(definition, own, step=1e-5 * scale)
        np.testing.assert_allclose(
            scale * leaf.grad.numpy(), scale * gradient, rtol=1e-4, atol=1e-6
        )


def test_rows_without_variance_have_correlation_0_and_no_gradient():
    rows = near(20, (3, 6))
    for constant in (0.1, 0.3, 1 / 3):
        leaf = torch.full((3, 6), constant).requires_grad_()
        value = pearson_distance(leaf, torch.from_numpy(rows).float())
        value.backward()
        assert value.item() == 1
        assert not leaf.grad.any()


def dense(ignored: int) -> tuple[ModelOutput, ModelOutput, Batch]:
    logits, other = (torch.from_numpy(near(seed, (2, 3, 4, 4))).requires_grad_() for seed in (1, 2))
    label = torch.full((2, 4, 4), ignored)
    return ModelOutput(logits, logits), ModelOutput(other, other), Batch({}, label)


@pytest.mark.parametrize("method", [DKD, DIST])
def test_methods_have_no_gradient_for_a_batch_with_ignored_labels_only(method):
    student = SimpleNamespace(net=nn.Identity())
    context = SimpleNamespace(
        student=student, weight=0.5, temperature=TAU, supervision=Supervision(255)
    )
    own, other, batch = dense(255)
    terms = method(context).distil(own, other, batch)
    assert [term.item() for term in terms.values()] == [0.0, 0.0]
    sum(terms.values()).backward()
    assert not own.logits.grad.any()


def test_the_loss_between_proxies_is_0_for_a_batch_with_ignored_labels_only():
    method = C2KD.__new__(C2KD)
    method.context = SimpleNamespace(supervision=Supervision(255))
    method._temperature = TAU
    own, _, batch = dense(255)
    term = method._between_proxies(own.logits, own.logits.detach().clone(), batch)
    assert term.item() == 0
    term.backward()
    assert not own.logits.grad.any()


def test_features_without_variance_and_differences_of_0_have_a_finite_gradient():
    values = torch.tensor([-1e4, -2.0, 0.0, 3.0, 1e4], dtype=torch.float64, requires_grad=True)
    signed_log(values).sum().backward()
    np.testing.assert_allclose(values.grad, 1 / (1 + np.abs(values.detach().numpy())), rtol=1e-12)
    still = torch.full((2, 6), 3.0, dtype=torch.float64, requires_grad=True)
    scaled = standardise(still)
    assert not scaled.any()
    (scaled * torch.arange(6.0)).sum().backward()
    assert still.grad.isfinite().all()


def test_specialists_with_weight_0_do_not_change_a_mixture():
    logits = [torch.from_numpy(far(seed, (2, 5))).float() for seed in (21, 22, 23)]
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.25, 0.0, 0.75]])
    found = mixture(logits, weights)
    log_p = [log_softmax(of.double().numpy(), axis=1) for of in logits]
    expected = [
        log_p[1][0],
        np.logaddexp(np.log(0.25) + log_p[0][1], np.log(0.75) + log_p[2][1]),
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-3)


def test_metrics_on_the_held_out_split_are_finite_at_extreme_logits():
    logits, label = far(24, (6, 5)), np.array([0, 1, 2, 3, 4, 0])
    accumulator = MetricAccumulator(5, 15, None, torch.device("cpu"))
    of_samples = accumulator.update(torch.from_numpy(logits).float(), torch.from_numpy(label))
    rounded = logits.astype(np.float32).astype(float)
    expected = -log_softmax(rounded, axis=1)[range(6), label]
    np.testing.assert_allclose(of_samples["nll"], expected, rtol=1e-10)
    assert accumulator.summary()["nll"] == pytest.approx(expected.mean(), rel=1e-10)
    assert distances(torch.zeros(1, 3)).isfinite().all()
    assert angles(torch.zeros(1, 3)).isfinite().all()
