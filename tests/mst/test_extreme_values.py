"""Every loss where logits are far apart, equal, or of one sample: values and slopes stay right.

Values are held against scipy in float64, slopes against central differences of the same.
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
from mst_distill.compare.methods.dist import DIST, uncorrelated
from mst_distill.compare.methods.dkd import DKD, decoupled
from mst_distill.compare.methods.fd_cmkd import one_scale, signed_log
from mst_distill.compare.methods.mlld import levels_at
from mst_distill.compare.methods.ofa import enhanced
from mst_distill.compare.methods.rkd import RKD, angles, distances
from mst_distill.diagnose.evaluated_models import mixture
from mst_distill.evaluate.accumulate import Tally
from mst_distill.mst import losses
from mst_distill.mst.features import Observed
from mst_distill.mst.gating import cross_entropies, merit, weigh
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
    "sure of the same": (np.eye(4)[:3] * 1e4, np.eye(4)[:3] * 1e4),
    "all equal": (np.zeros((3, 4)), np.zeros((3, 4))),
    "one sample": (far(6, (1, 4)), far(7, (1, 4))),
    "two classes": (far(8, (3, 2)), far(9, (3, 2))),
}
"""Logits of student and teacher; beyond 2,980 apart at tau 4 float64 has no probability either,
and float32 none beyond 416."""


def label_of(logits: Array) -> Array:
    return np.array([1, 0, 1])[: len(logits)]


def kd_by_hand(student: Array, teacher: Array, tau: float = TAU) -> Array:
    own, other = log_softmax(student / tau, axis=1), log_softmax(teacher / tau, axis=1)
    return tau**2 * (np.exp(other) * (other - own)).sum(axis=1)


def ce_by_hand(student: Array, teacher: Array) -> float:
    return float(-log_softmax(student, axis=1)[range(len(student)), label_of(student)].mean())


def apart(logits: Array) -> tuple[Array, Array]:
    """log(target, all others) and the others' logits, a row a sample."""
    log_p, label = log_softmax(logits / TAU, axis=1), label_of(logits)
    others = np.array([np.delete(row, y) for row, y in zip(logits / TAU, label, strict=True)])
    rest = [logsumexp(np.delete(row, y)) for row, y in zip(log_p, label, strict=True)]
    return np.column_stack([log_p[range(len(label)), label], rest]), others


def target_by_hand(student: Array, teacher: Array) -> Array:
    own, other = apart(student)[0], apart(teacher)[0]
    return TAU**2 * (np.exp(other) * (other - own)).sum(axis=1)


def others_by_hand(student: Array, teacher: Array) -> Array:
    return TAU**2 * kd_by_hand(apart(student)[1], apart(teacher)[1], 1.0)


def levels_by_hand(student: Array, teacher: Array) -> Array:
    p, q = softmax(student / TAU, axis=1), softmax(teacher / TAU, axis=1)
    samples = ((q @ q.T - p @ p.T) ** 2).sum() / len(p)
    classes = ((q.T @ q - p.T @ p) ** 2).sum() / p.shape[1]
    return np.array([kd_by_hand(student, teacher).mean(), samples, classes])


def uncorrelated_by_hand(own: Array, other: Array) -> float:
    """1 - r, and 1 for a row in which nothing varies; r's denominator is at least 1e-8."""
    found = []
    for one, two in zip(own, other, strict=True):
        if np.ptp(one) == 0 or np.ptp(two) == 0:
            found.append(1.0)
            continue
        one, two = one - one.mean(), two - two.mean()
        found.append(1 - one @ two / max(np.sqrt(one @ one) * np.sqrt(two @ two), 1e-8))
    return float(np.mean(found))


def dist_by_hand(student: Array, teacher: Array) -> Array:
    p, q = softmax(student / TAU, axis=1), softmax(teacher / TAU, axis=1)
    return np.array([uncorrelated_by_hand(p, q), uncorrelated_by_hand(p.T, q.T)])


def dist_of(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    p, q = (student / TAU).softmax(dim=1), (teacher / TAU).softmax(dim=1)
    return torch.stack([uncorrelated(p, q), uncorrelated(p.T, q.T)])


def ofa_by_hand(student: Array, teacher: Array) -> float:
    y = np.eye(student.shape[1])[label_of(student)]
    weight = (softmax(teacher, axis=1) + y) ** 1.1 - y
    return float(-(weight * log_softmax(student, axis=1)).sum(axis=1).mean())


def labels(logits: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(label_of(logits.numpy(force=True)))


@dataclass(frozen=True)
class Loss:
    """A loss, the same by hand, and whether the teacher's side is given a gradient as well."""

    of: Callable[..., torch.Tensor]
    by_hand: Callable[..., Array | float]
    both: bool = True


LOSSES = {
    "kd": Loss(lambda s, t: losses.distillation(s, t, TAU), kd_by_hand),
    "ce": Loss(lambda s, t: losses.cross_entropy(s, labels(s), None), ce_by_hand, False),
    "dkd, target": Loss(lambda s, t: decoupled(s, t, labels(s), TAU)[0], target_by_hand),
    "dkd, others": Loss(lambda s, t: decoupled(s, t, labels(s), TAU)[1], others_by_hand),
    "mlld": Loss(lambda s, t: levels_at(s, t, TAU), levels_by_hand),
    "dist": Loss(dist_of, dist_by_hand),
    "ofa": Loss(lambda s, t: enhanced(s, t, labels(s)), ofa_by_hand, False),
}  # fmt: skip


def slopes(function: Callable[..., float], *at: Array, step: float = 1e-3) -> list[Array]:
    """Central differences with respect to every one of the arrays."""
    found = []
    for which, array in enumerate(at):
        slope = np.empty_like(array)
        for place in np.ndindex(array.shape):
            ends = []
            for way in (step, -step):
                moved = array.copy()
                moved[place] += way
                ends.append(function(*at[:which], moved, *at[which + 1 :]))
            slope[place] = (ends[0] - ends[1]) / (2 * step)
        found.append(slope)
    return found


def computed(loss: Loss, case: str, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor]]:
    leaves = [torch.from_numpy(of).to(dtype).requires_grad_() for of in CASES[case]]
    value = loss.of(*leaves)
    wanted = leaves if loss.both else leaves[:1]
    return value.detach(), list(torch.autograd.grad(value.sum(), wanted, materialize_grads=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_at_extreme_logits_is_that_of_float64_by_hand(name, case):
    value, _ = computed(LOSSES[name], case, torch.float64)
    expected = np.asarray(LOSSES[name].by_hand(*CASES[case]))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOSSES)
def test_the_slope_of_a_loss_at_extreme_logits_is_that_of_central_differences(name, case):
    _, found = computed(LOSSES[name], case, torch.float64)
    if name == "dist" and case == "all equal":  # the correlation has no slope there
        assert all(not slope.any() for slope in found)
        return
    by_hand = LOSSES[name].by_hand
    wanted = slopes(lambda s, t: float(np.sum(by_hand(s, t))), *CASES[case])
    for slope, other in zip(found, wanted, strict=False):
        np.testing.assert_allclose(slope.numpy(), other, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOSSES)
def test_float32_gives_the_same_loss_and_slope_at_extreme_logits(name, case):
    value, found = computed(LOSSES[name], case, torch.float32)
    expected, wanted = computed(LOSSES[name], case, torch.float64)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4)
    for slope, other in zip(found, wanted, strict=True):
        atol = 1e-4 * max(1.0, float(other.abs().max()))
        torch.testing.assert_close(slope.double(), other, rtol=1e-3, atol=atol)


def test_kd_is_a_number_to_both_sides_where_a_float32_probability_is_0():
    """416 apart at tau 4 is where exp(-104) underflows."""
    student = torch.tensor([[2.0, -1.0, 0.5]], requires_grad=True)
    teacher = torch.tensor([[500.0, 0.0, 1.0]], requires_grad=True)
    assert (teacher / TAU).softmax(dim=1)[0, 1] == 0
    losses.distillation(student, teacher, TAU).sum().backward()
    p = softmax(np.array([2.0, -1.0, 0.5]) / TAU)
    # The teacher is sure of the first class: its own slope is p_i ((log p_i - log q_i) - KL) tau.
    np.testing.assert_allclose(student.grad[0], TAU * (p - np.array([1, 0, 0])), rtol=1e-5)
    assert (teacher.grad == 0).all()


def test_logits_of_two_shapes_are_not_distilled():
    """Nothing is stretched over places or samples without a word."""
    for shape in ((1, 3), (2, 1), (2, 3, 1, 1)):
        with pytest.raises(ValueError, match=r"\(2, 3.*\) .*" + str(shape)[1:-1]):
            losses.distillation(
                torch.zeros(2, 3) if len(shape) == 2 else torch.zeros(2, 3, 4, 4),
                torch.zeros(shape),
                TAU,
            )


ROUTED = {
    "far apart": far(10, (6, 4)),
    "one specialist is never preferred": near(11, (6, 4)) + np.array([0, 0, 0, -900.0]),
    "all equal": np.zeros((6, 4)),
    "one sample": far(12, (1, 4)),
    "one specialist": far(13, (6, 1)),
}
"""A router's logits."""


def balance_by_hand(raw: Array) -> float:
    """-log E minus the mean over the specialists of the log of c's mean over the samples."""
    log_mean = logsumexp(log_softmax(raw, axis=1), axis=0) - np.log(len(raw))
    return float(-np.log(raw.shape[1]) - log_mean.mean())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", ROUTED)
def test_balance_stays_a_number_where_a_specialist_is_never_preferred(case, dtype):
    leaf = torch.from_numpy(ROUTED[case]).to(dtype).requires_grad_()
    value = losses.balance_kl(leaf.log_softmax(dim=1), scaled=False)
    value.backward()
    exact = dtype == torch.float64
    expected, (slope,) = balance_by_hand(ROUTED[case]), slopes(balance_by_hand, ROUTED[case])
    assert value.item() == pytest.approx(expected, rel=1e-10 if exact else 1e-4, abs=1e-6)
    atol = 1e-6 if exact else 1e-4
    np.testing.assert_allclose(leaf.grad.double(), slope, rtol=1e-5 if exact else 1e-3, atol=atol)


def variation_by_hand(raw: Array) -> float:
    load = softmax(raw, axis=1).sum(axis=0)
    return float(load.std(ddof=1) / load.mean()) if len(load) > 1 else 0.0


@pytest.mark.parametrize("case", ROUTED)
def test_balance_by_variation_stays_a_number(case):
    leaf = torch.from_numpy(ROUTED[case]).requires_grad_()
    value = losses.balance_cv(leaf.softmax(dim=1))
    value.backward()
    assert value.item() == pytest.approx(variation_by_hand(ROUTED[case]), rel=1e-10, abs=1e-12)
    if case == "all equal":  # the smallest there is, without a slope
        assert not leaf.grad.any()
        return
    (slope,) = slopes(variation_by_hand, ROUTED[case])
    np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_merit_and_cross_entropies_of_specialists_at_extreme_logits(dtype):
    logits, label = far(14, (3, 4, 5)), np.array([4, 0, 2])
    given = torch.from_numpy(logits).to(dtype), torch.from_numpy(label), None
    each = np.array(
        [[-log_softmax(of)[y] for of in one] for one, y in zip(logits, label, strict=True)]
    )
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(cross_entropies(*given).double(), each, rtol=rtol)
    np.testing.assert_allclose(merit(*given).double(), softmax(-each, axis=1), atol=1e-6)


@pytest.mark.parametrize("picked", [None, 1])
def test_a_gate_that_leaves_next_to_nothing_has_a_slope_that_is_a_number(picked):
    raw = torch.tensor([[900.0, 0.0, 1.0], [20.0, 0.0, 1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    well = torch.tensor([[False, True, True], [False, True, True], [False, False, False]])
    heard = weigh(raw.softmax(dim=1), picked).gated(well)
    total = heard.weights.sum(dim=1).tolist()
    # exp(-900) is 0, so nobody is left; exp(-20) is, if all are heard, and has all of the weight.
    assert total == pytest.approx([0.0, 0.0 if picked else 1.0, 0.0], abs=1e-6)
    if picked is None:
        (heard.weights * torch.tensor([1.0, 2.0, 5.0])).sum().backward()
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
    """Distances over their mean (0 where none is above 0), and cosines at the first of three."""
    count = len(points)
    apart = np.array([[np.linalg.norm(a - b) for b in points] for a in points])
    mean = apart.sum() / max(count * (count - 1), 1)
    cosine = np.zeros((count, count, count))
    for i, j, k in np.ndindex(cosine.shape):
        one, two = points[j] - points[i], points[k] - points[i]
        if one.any() and two.any():
            cosine[i, j, k] = one @ two / (np.linalg.norm(one) * np.linalg.norm(two))
    return apart / mean if mean > 0 else apart, cosine


@pytest.mark.parametrize("case", EMBEDDINGS)
def test_relations_of_samples_are_right_where_there_are_none_or_samples_are_equal(case):
    own, other = EMBEDDINGS[case], near(19, (len(EMBEDDINGS[case]), 4))
    leaf = torch.from_numpy(own).requires_grad_()
    empty = torch.empty(0)
    batch = Batch({}, torch.zeros(len(own)))
    terms = rkd().distil(Observed(empty, leaf), Observed(empty, torch.from_numpy(other)), batch)
    (near_to, turned), (wanted_near, wanted_turned) = relations(own), relations(other)
    assert terms["distance"].item() == pytest.approx(huber(near_to, wanted_near), rel=1e-10)
    assert terms["angle"].item() == pytest.approx(2 * huber(turned, wanted_turned), rel=1e-10)
    (terms["distance"] + terms["angle"]).backward()
    assert leaf.grad.isfinite().all()
    if case in ("far apart", "two samples"):  # elsewhere a distance of 0 has no slope

        def by_hand(points: Array) -> float:
            apart, cosine = relations(points)
            return huber(apart, wanted_near) + 2 * huber(cosine, wanted_turned)

        scale = np.abs(own).max()
        (slope,) = slopes(by_hand, own, step=1e-5 * scale)
        np.testing.assert_allclose(scale * leaf.grad.numpy(), scale * slope, rtol=1e-4, atol=1e-6)


def test_what_varies_in_no_row_is_correlated_with_nothing_and_pulls_nowhere():
    rows = near(20, (3, 6))
    for constant in (0.1, 0.3, 1 / 3):
        leaf = torch.full((3, 6), constant).requires_grad_()
        value = uncorrelated(leaf, torch.from_numpy(rows).float())
        value.backward()
        assert value.item() == 1
        assert not leaf.grad.any()


def dense(ignored: int) -> tuple[Observed, Observed, Batch]:
    logits, other = (torch.from_numpy(near(seed, (2, 3, 4, 4))).requires_grad_() for seed in (1, 2))
    label = torch.full((2, 4, 4), ignored)
    return Observed(logits, logits), Observed(other, other), Batch({}, label)


@pytest.mark.parametrize("method", [DKD, DIST])
def test_a_batch_in_which_nothing_is_a_target_gives_a_method_nothing_to_learn(method):
    student = SimpleNamespace(net=nn.Identity())
    setup = SimpleNamespace(student=student, weight=0.5, temperature=TAU, ignored=255)
    own, other, batch = dense(255)
    terms = method(setup).distil(own, other, batch)
    assert [term.item() for term in terms.values()] == [0.0, 0.0]
    sum(terms.values()).backward()
    assert not own.logits.grad.any()


def test_the_proxies_have_nothing_to_say_where_nothing_is_a_target():
    method = C2KD.__new__(C2KD)
    method.setup = SimpleNamespace(ignored=255, temperature=TAU)
    own, _, batch = dense(255)
    term = method._between_proxies(own.logits, own.logits.detach().clone(), batch)
    assert term.item() == 0
    term.backward()
    assert not own.logits.grad.any()


def test_features_without_variance_and_differences_of_0_have_a_slope():
    values = torch.tensor([-1e4, -2.0, 0.0, 3.0, 1e4], dtype=torch.float64, requires_grad=True)
    signed_log(values).sum().backward()
    np.testing.assert_allclose(values.grad, 1 / (1 + np.abs(values.detach().numpy())), rtol=1e-12)
    still = torch.full((2, 6), 3.0, dtype=torch.float64, requires_grad=True)
    scaled = one_scale(still)
    assert not scaled.any()
    (scaled * torch.arange(6.0)).sum().backward()
    assert still.grad.isfinite().all()


def test_a_mixture_with_weights_of_0_is_that_of_the_others():
    logits = [torch.from_numpy(far(seed, (2, 5))).float() for seed in (21, 22, 23)]
    weights = torch.tensor([[0.0, 1.0, 0.0], [0.25, 0.0, 0.75]])
    found = mixture(logits, weights)
    parts = [log_softmax(of.double().numpy(), axis=1) for of in logits]
    wanted = [
        parts[1][0],
        np.logaddexp(np.log(0.25) + parts[0][1], np.log(0.75) + parts[2][1]),
    ]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-3)


def test_held_out_figures_at_extreme_logits_are_numbers():
    logits, label = far(24, (6, 5)), np.array([0, 1, 2, 3, 4, 0])
    tally = Tally(5, 15, None, torch.device("cpu"))
    fared = tally.update(torch.from_numpy(logits).float(), torch.from_numpy(label))
    rounded = logits.astype(np.float32).astype(float)
    expected = -log_softmax(rounded, axis=1)[range(6), label]
    np.testing.assert_allclose(fared["nll"], expected, rtol=1e-10)
    assert tally.summary()["nll"] == pytest.approx(expected.mean(), rel=1e-10)
    assert distances(torch.zeros(1, 3)).isfinite().all()
    assert angles(torch.zeros(1, 3)).isfinite().all()
