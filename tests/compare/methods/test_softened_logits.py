"""KD, DML, DKD and OFA, against loops over samples and classes in float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import nn

from mst_distill.compare.methods.controls import LabelSmoothing
from mst_distill.compare.methods.dkd import DKD, decoupled_losses, labelled_positions
from mst_distill.compare.methods.dml import DML
from mst_distill.compare.methods.kd import KD
from mst_distill.compare.methods.kd_mean import mean_logits
from mst_distill.compare.methods.ofa import OFA, ofa_loss
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.supervision import Supervision
from mst_distill.training.batches import Batch

TAU = 4.0
LABELS = [0, 3, 2, 3, 1, 4]


class FixedModel:
    """A model with the same output for every batch."""

    def __init__(self, output: ModelOutput | None = None) -> None:
        self.net = nn.Identity()
        self.output = output

    def __call__(self, inputs: dict[str, torch.Tensor]) -> ModelOutput:
        return self.output

    def dry(self, samples: object) -> ModelOutput:
        return self.output


def fake_context(output: ModelOutput | None = None, **others: object) -> SimpleNamespace:
    run = SimpleNamespace(place=lambda module: module.double(), samples=None)
    attributes = {"weight": 0.25, "temperature": TAU, "classes": 5, "run": run}
    attributes |= {"supervision": Supervision(), "teacher_modalities": ()}
    return SimpleNamespace(student=FixedModel(output), **{**attributes, **others})


def logits(seed: int = 0, shape: tuple[int, ...] = (6, 5)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=shape), 3 * rng.normal(size=shape)


def kl(teacher: np.ndarray, student: np.ndarray) -> float:
    """Compute KL(teacher || student) of two distributions."""
    return float(rel_entr(teacher, student).sum())


def batch_of(labels: object, **frozen: tuple[torch.Tensor, ...]) -> Batch:
    return Batch({}, torch.as_tensor(labels), frozen)


def as_leaf(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).requires_grad_()


def numerical_gradient(function, at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Compute the gradient by central differences."""
    found = np.empty_like(at)
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        found[index] = (function(up) - function(down)) / (2 * step)
    return found


def test_kd_is_hinton_s_and_its_gradient_is_tau_times_the_difference_of_probabilities():
    student, teacher = logits()
    leaf = as_leaf(student)
    term = KD(fake_context()).distil(
        ModelOutput(leaf), ModelOutput(torch.from_numpy(teacher)), batch_of(LABELS)
    )
    wanted = np.mean(
        [
            TAU**2 * kl(softmax(t / TAU), softmax(s / TAU))
            for s, t in zip(student, teacher, strict=True)
        ]
    )
    assert list(term) == ["kd"]
    assert term["kd"].item() == pytest.approx(wanted, rel=1e-12)
    (found,) = torch.autograd.grad(term["kd"], leaf)
    gradient = (
        TAU * (softmax(student / TAU, axis=1) - softmax(teacher / TAU, axis=1)) / len(student)
    )
    np.testing.assert_allclose(found.numpy(), gradient, rtol=1e-10, atol=1e-14)


def test_a_distilled_student_s_loss_is_weighted_and_the_weight_falls():
    student, teacher = logits(1)
    method = KD(fake_context(ModelOutput(torch.from_numpy(student))))
    batch = batch_of(LABELS, teacher=(torch.from_numpy(teacher),))
    ce = -np.mean(log_softmax(student, axis=1)[range(6), LABELS])
    kd = np.mean(
        [16 * kl(softmax(t / 4), softmax(s / 4)) for s, t in zip(student, teacher, strict=True)]
    )
    assert method.losses(batch)["loss"].item() == pytest.approx(0.75 * ce + 0.25 * kd, rel=1e-12)
    method.epochs = 100
    for epoch in range(90):
        if epoch in (29, 30, 59, 89):
            share = method.losses(batch)
            weight = 0.25 / (1 if epoch == 29 else 2 if epoch in (30, 59) else 4)
            assert share["loss"].item() == pytest.approx((1 - weight) * ce + weight * kd)
        method.end_epoch(epoch)
    assert method.losses(batch)["loss"].item() == pytest.approx((1 - 1 / 32) * ce + kd / 32)


def test_the_mutual_terms_have_gradient_to_one_net_each():
    student, peer = logits(2)
    own, other = as_leaf(student), as_leaf(peer)
    terms = DML(fake_context(new_teacher=FixedModel)).mutual(own, other)
    of_student, of_peer = softmax(student, axis=1), softmax(peer, axis=1)
    wanted = {
        "kd": np.mean([kl(t, s) for s, t in zip(of_student, of_peer, strict=True)]),
        "kd_peer": np.mean([kl(s, t) for s, t in zip(of_student, of_peer, strict=True)]),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-12)
    gradients = torch.autograd.grad(terms["kd"], (own, other), allow_unused=True)
    np.testing.assert_allclose(gradients[0].numpy(), (of_student - of_peer) / 6, atol=1e-14)
    assert gradients[1] is None
    gradients = torch.autograd.grad(terms["kd_peer"], (own, other), allow_unused=True)
    assert gradients[0] is None
    np.testing.assert_allclose(gradients[1].numpy(), (of_peer - of_student) / 6, atol=1e-14)


def test_all_four_terms_of_mutual_learning_have_the_weight_1():
    student, peer = logits(3)
    peer_model = FixedModel(ModelOutput(torch.from_numpy(peer)))
    method = DML(
        fake_context(ModelOutput(torch.from_numpy(student)), new_teacher=lambda: peer_model)
    )
    wanted = 0.0
    for s, t, label in zip(student, peer, LABELS, strict=True):
        p, q = softmax(s), softmax(t)
        wanted += (-np.log(p[label]) - np.log(q[label]) + kl(q, p) + kl(p, q)) / 6
    assert method.losses(batch_of(LABELS))["loss"].item() == pytest.approx(wanted, rel=1e-12)


def tckd_and_nckd(student: np.ndarray, teacher: np.ndarray, label: int) -> tuple[float, float]:
    """Compute both for a sample, as in Zhao et al., equations 2 to 6, without tau squared."""
    p, q = softmax(student), softmax(teacher)
    others = [k for k in range(len(p)) if k != label]
    target = kl(
        np.array([q[label], sum(q[k] for k in others)]),
        np.array([p[label], sum(p[k] for k in others)]),
    )
    rest = kl(
        np.array([q[k] / (1 - q[label]) for k in others]),
        np.array([p[k] / (1 - p[label]) for k in others]),
    )
    return target, rest


@pytest.mark.parametrize("tau", [1.0, TAU])
def test_dkd_in_the_settings_of_its_authors(tau):
    """CIFAR-100 has beta 8, tau 4 and a warm-up over 20 of 240 epochs; ImageNet beta 0.5, tau 1."""
    student, teacher = logits(21)
    beta, warmup = (8.0, 20 / 240) if tau == TAU else (0.5, 0.0)
    method = DKD(fake_context(), beta=beta, temperature=tau, warmup=warmup)
    method.epochs = 240
    own, other = (ModelOutput(torch.from_numpy(of)) for of in (student, teacher))
    losses = [
        tckd_and_nckd(s / tau, t / tau, label)
        for s, t, label in zip(student, teacher, LABELS, strict=True)
    ]
    target, others = tau**2 * np.mean(losses, axis=0)
    for epoch, rising in ((0, 1 / 20), (9, 0.5), (19, 1), (200, 1)):
        method.start_epoch(epoch)
        terms = method.distil(own, other, batch_of(LABELS))
        factor = rising if warmup else 1
        assert terms["target"].item() == pytest.approx(factor * target, rel=1e-10)
        assert terms["others"].item() == pytest.approx(factor * beta * others, rel=1e-10)


def test_a_warm_up_of_one_epoch_as_on_imagenet_is_none():
    own, other = (ModelOutput(torch.from_numpy(of)) for of in logits(21))
    method = DKD(fake_context(), beta=0.5, temperature=1.0, warmup=1 / 100)
    wanted = method.distil(own, other, batch_of(LABELS))
    method.epochs = 100
    for epoch in (0, 1, 99):
        method.start_epoch(epoch)
        assert method.distil(own, other, batch_of(LABELS)) == wanted


@pytest.mark.parametrize(("weight", "temperature"), [(1.5, None), (-0.1, None), (None, 0.0)])
def test_arguments_out_of_their_range_are_errors(weight, temperature):
    with pytest.raises(ValueError, match="it must be"):
        KD(fake_context(), weight, temperature)


def test_constants_below_0_are_errors():
    for arguments in ({"beta": -1.0}, {"warmup": -0.1}, {"warmup": 1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))} is .*it must be"):
            DKD(fake_context(), **arguments)
    with pytest.raises(ValueError, match="kd_weight is -1; it must be at least 0"):
        DML(fake_context(new_teacher=FixedModel), kd_weight=-1)


def test_kd_has_the_weight_and_the_temperature_of_its_setting():
    student, teacher = logits(22)
    method = KD(fake_context(ModelOutput(torch.from_numpy(student))), 0.9, 2.0)
    batch = batch_of(LABELS, teacher=(torch.from_numpy(teacher),))
    ce = -np.mean(log_softmax(student, axis=1)[range(6), LABELS])
    kd = np.mean(
        [4 * kl(softmax(t / 2), softmax(s / 2)) for s, t in zip(student, teacher, strict=True)]
    )
    assert method.losses(batch)["loss"].item() == pytest.approx(0.1 * ce + 0.9 * kd, rel=1e-12)


def test_the_mean_of_teachers_has_the_mean_of_their_probabilities():
    teachers = [logits(seed)[0] for seed in (23, 24, 25)]
    found = mean_logits([torch.from_numpy(of) for of in teachers], TAU).numpy()
    wanted = np.mean([softmax(of / TAU, axis=1) for of in teachers], axis=0)
    np.testing.assert_allclose(softmax(found / TAU, axis=1), wanted, rtol=1e-12)
    dense = [torch.from_numpy(logits(seed, (2, 5, 3, 4))[0]) for seed in (26, 27)]
    both = torch.stack([(of / 2).softmax(dim=1) for of in dense]).mean(dim=0)
    torch.testing.assert_close((mean_logits(dense, 2.0) / 2).softmax(dim=1), both)


def test_smoothed_labels_are_those_of_szegedy():
    student, _ = logits(28)
    context = fake_context(ModelOutput(torch.from_numpy(student)))
    found = LabelSmoothing(context, 0.2).losses(batch_of(LABELS))["loss"].item()
    target = 0.8 * np.eye(5)[LABELS] + 0.2 / 5
    assert found == pytest.approx(-np.mean((target * log_softmax(student, axis=1)).sum(axis=1)))
    with pytest.raises(ValueError, match=r"smoothing is 1\.0; it must be in"):
        LabelSmoothing(context, 1.0)


@pytest.mark.parametrize(("weight", "tau"), [(0.3, 2.0), (0.3, 1.0), (3.0, 1.0), (1.0, TAU)])
def test_mutual_learning_has_its_weight_and_temperature(weight, tau):
    student, peer = logits(29)
    method = DML(fake_context(new_teacher=FixedModel), kd_weight=weight, temperature=tau)
    terms = method.mutual(torch.from_numpy(student), torch.from_numpy(peer))
    p, q = (softmax(of / tau, axis=1) for of in (student, peer))
    wanted = {
        "kd": weight * tau**2 * np.mean([kl(t, s) for s, t in zip(p, q, strict=True)]),
        "kd_peer": weight * tau**2 * np.mean([kl(s, t) for s, t in zip(p, q, strict=True)]),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("epsilon", [1.0, 1.5])
def test_ofa_s_exponent_is_an_argument(epsilon):
    student, teacher = logits(30)
    method = OFA(
        fake_context(ModelOutput(torch.from_numpy(student), torch.empty(0), ())), None, epsilon
    )
    own, other = (
        ModelOutput(torch.from_numpy(of), torch.empty(0), ()) for of in (student, teacher)
    )
    p = softmax(teacher, axis=1)
    weight = (p + np.eye(5)[LABELS]) ** epsilon - np.eye(5)[LABELS]
    wanted = -np.mean((weight * log_softmax(student, axis=1)).sum(axis=1))
    assert method.distil(own, other, batch_of(LABELS))["logits"].item() == pytest.approx(wanted)


@pytest.mark.parametrize("tau", [1.0, TAU])
def test_decoupled_losses_match_the_equations(tau):
    student, teacher = logits(4)
    found = decoupled_losses(
        torch.from_numpy(student), torch.from_numpy(teacher), torch.tensor(LABELS), tau
    )
    wanted = [
        tckd_and_nckd(s / tau, t / tau, label)
        for s, t, label in zip(student, teacher, LABELS, strict=True)
    ]
    found_of_both = torch.stack(found, 1).numpy()
    np.testing.assert_allclose(found_of_both, tau**2 * np.array(wanted), rtol=1e-10)


def test_decoupled_losses_add_up_to_kd():
    student, teacher = logits(5)
    target, others = decoupled_losses(
        torch.from_numpy(student), torch.from_numpy(teacher), torch.tensor(LABELS), TAU
    )
    for row, label in enumerate(LABELS):
        q = softmax(teacher[row] / TAU)
        together = target[row].item() + (1 - q[label]) * others[row].item()
        assert together == pytest.approx(16 * kl(q, softmax(student[row] / TAU)), rel=1e-10)


def test_decoupled_losses_have_the_right_gradients_and_finite_ones_at_extremes():
    student, teacher = logits(6)
    for which in (0, 1):
        leaf = as_leaf(student)
        found = decoupled_losses(leaf, torch.from_numpy(teacher), torch.tensor(LABELS), 2.0)[which]
        (gradient,) = torch.autograd.grad(found.sum(), leaf)

        def by_hand(values: np.ndarray, which: int = which) -> float:
            rows = zip(values, teacher, LABELS, strict=True)
            return sum(4 * tckd_and_nckd(s / 2, t / 2, label)[which] for s, t, label in rows)

        np.testing.assert_allclose(
            gradient.numpy(), numerical_gradient(by_hand, student), rtol=1e-6, atol=1e-9
        )
    extreme = torch.tensor([[90.0, -90, 0], [-90, 90, 0]], requires_grad=True)
    target, others = decoupled_losses(
        extreme, 2 * extreme.detach().flip(0), torch.tensor([0, 0]), 1.0
    )
    (gradient,) = torch.autograd.grad((target + others).sum(), extreme)
    assert gradient.isfinite().all()
    assert (target + others).isfinite().all()


def test_dkd_weights_the_other_classes_by_8_and_averages_over_labelled_pixels():
    student, teacher = logits(7, (2, 5, 3, 2))
    label = np.random.default_rng(0).integers(0, 5, (2, 3, 2))
    label[0, 1] = label[1, 2, 0] = 255
    terms = DKD(fake_context(supervision=Supervision(255))).distil(
        ModelOutput(torch.from_numpy(student)),
        ModelOutput(torch.from_numpy(teacher)),
        batch_of(label),
    )
    losses = [
        tckd_and_nckd(student[b, :, y, x] / TAU, teacher[b, :, y, x] / TAU, label[b, y, x])
        for b, y, x in np.ndindex(label.shape)
        if label[b, y, x] != 255
    ]
    assert len(losses) == 9
    target, others = 16 * np.mean(losses, axis=0)
    assert terms["target"].item() == pytest.approx(target, rel=1e-10)
    assert terms["others"].item() == pytest.approx(8 * others, rel=1e-10)


def test_labelled_positions_keep_the_order_of_the_labels():
    student, teacher = logits(8, (2, 5, 3, 2))
    label = np.arange(12).reshape(2, 3, 2) % 5
    for ignored, count in ((None, 12), (3, 10)):
        own, other, at = labelled_positions(
            torch.from_numpy(student), torch.from_numpy(teacher), torch.from_numpy(label), ignored
        )
        labelled = [i for i in np.ndindex(label.shape) if label[i] != ignored]
        assert len(labelled) == count
        np.testing.assert_array_equal(own, [student[b, :, y, x] for b, y, x in labelled])
        np.testing.assert_array_equal(other, [teacher[b, :, y, x] for b, y, x in labelled])
        assert at.tolist() == [label[i] for i in labelled]


def weights(teacher: np.ndarray, label: int) -> np.ndarray:
    """Compute (1 + p)^1.1 - 1 of the target, p^1.1 of other classes, as OFA's released code."""
    p = softmax(teacher)
    return np.array([(1 + p[k]) ** 1.1 - 1 if k == label else p[k] ** 1.1 for k in range(len(p))])


def ofa_loss_by_hand(student: np.ndarray, teacher: np.ndarray) -> float:
    return float(
        np.mean(
            [
                -sum(weights(t, label) * log_softmax(s))
                for s, t, label in zip(student, teacher, LABELS, strict=True)
            ]
        )
    )


def test_ofa_s_loss_increases_the_weight_of_the_target_class():
    student, teacher = logits(9)
    leaf = as_leaf(student)
    found = ofa_loss(leaf, torch.from_numpy(teacher), torch.tensor(LABELS), 1.1)
    assert found.item() == pytest.approx(ofa_loss_by_hand(student, teacher), rel=1e-12)
    (gradient,) = torch.autograd.grad(found, leaf)
    weight = np.array([weights(t, label) for t, label in zip(teacher, LABELS, strict=True)])
    wanted = (softmax(student, axis=1) * weight.sum(axis=1, keepdims=True) - weight) / 6
    np.testing.assert_allclose(gradient.numpy(), wanted, rtol=1e-10, atol=1e-14)


def test_ofa_projects_the_mean_of_every_stage_to_logits():
    student, teacher = logits(10)
    rng = np.random.default_rng(1)
    stages = [rng.normal(size=(6, 3, 4, 2)), rng.normal(size=(6, 7))]
    output = ModelOutput(
        torch.from_numpy(student), torch.empty(0), tuple(torch.from_numpy(s) for s in stages)
    )
    method = OFA(fake_context(output))
    terms = method.distil(output, ModelOutput(torch.from_numpy(teacher)), batch_of(LABELS))
    wanted = {"logits": ofa_loss_by_hand(student, teacher)}
    flat = [stages[0].mean(axis=(2, 3)), stages[1]]
    for number, (projector, stage) in enumerate(
        zip(method.trainable["projectors"], flat, strict=True)
    ):
        weight, bias = (one.detach().numpy() for one in (projector.weight, projector.bias))
        wanted[f"stage_{number}"] = ofa_loss_by_hand(stage @ weight.T + bias, teacher)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-10)
