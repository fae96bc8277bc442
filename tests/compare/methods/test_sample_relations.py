"""RKD and CRD: relations between samples, against loops over pairs and triples."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from mst_distill.compare.methods.crd import CRD, Negatives, contrast, update
from mst_distill.compare.methods.rkd import RKD, angles, distances
from mst_distill.data.samples import rows_of
from mst_distill.mst.features import ModelOutput
from mst_distill.training.batches import Batch

pytestmark = pytest.mark.usefixtures("float64")


def points(seed: int = 0, shape: tuple[int, ...] = (5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def distances_by_hand(embedding: np.ndarray) -> np.ndarray:
    """Compute equations 5 and 6 of Park et al."""
    count = len(embedding)
    distance = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            distance[i, j] = math.dist(embedding[i], embedding[j])
    mu = sum(distance[i, j] for i in range(count) for j in range(count) if i != j)
    return distance / (mu / (count * (count - 1)))


def angles_by_hand(embedding: np.ndarray) -> np.ndarray:
    """Compute equation 8 of Park et al.: ``[i, j, k]`` is the angle at i, 0 where j or k is i."""
    count = len(embedding)
    cosine = np.zeros((count, count, count))
    for i in range(count):
        for j in range(count):
            for k in range(count):
                if i not in (j, k):
                    one, other = embedding[j] - embedding[i], embedding[k] - embedding[i]
                    lengths = math.hypot(*one) * math.hypot(*other)
                    cosine[i, j, k] = sum(a * b for a, b in zip(one, other, strict=True)) / lengths
    return cosine


def huber(x: np.ndarray, y: np.ndarray) -> float:
    """Compute equation 7, mean over the entries."""
    distance = np.abs(x - y).ravel()
    return float(np.mean([d * d / 2 if d <= 1 else d - 0.5 for d in distance]))


def test_distances_are_pairwise_distances_over_their_mean():
    found = distances(torch.from_numpy(points()))
    np.testing.assert_allclose(found.numpy(), distances_by_hand(points()), rtol=1e-12)


def test_angles_are_cosines_at_the_first_of_three_samples():
    found = angles(torch.from_numpy(points())).numpy()
    np.testing.assert_allclose(found, angles_by_hand(points()), atol=1e-12)
    square = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
    assert angles(square)[0, 1].tolist() == pytest.approx([0, 1, math.sqrt(0.5), 0])


def test_relations_are_invariant_to_scale_shift_and_rotation():
    embedding = torch.from_numpy(points(1, (6, 4)))
    rotation, _ = torch.linalg.qr(torch.from_numpy(points(2, (4, 4))))
    moved = 7.5 * embedding @ rotation + torch.arange(4.0, dtype=torch.float64)
    for relation in (distances, angles):
        torch.testing.assert_close(relation(moved), relation(embedding), rtol=1e-10, atol=1e-10)


def test_relations_have_the_right_gradient():
    leaf = torch.from_numpy(points(3)).requires_grad_()
    assert torch.autograd.gradcheck(distances, leaf)
    assert torch.autograd.gradcheck(angles, leaf)


@pytest.mark.parametrize("equal", [2, 5])
def test_the_gradients_of_distances_are_finite_for_equal_samples(equal):
    leaf = torch.from_numpy(points(4)).float()
    leaf[:equal] = leaf[0]
    leaf.requires_grad_()
    wanted = torch.from_numpy(distances_by_hand(points(5))).float()
    found = distances(leaf)
    (found - wanted).square().sum().backward()
    assert found.isfinite().all()
    assert found[0, 1] == 0
    assert leaf.grad.isfinite().all()
    assert leaf.grad.abs().max() < 1e3


@pytest.mark.parametrize("equal", [2, 5])
def test_the_gradients_of_angles_are_finite_for_equal_samples(equal):
    leaf = torch.from_numpy(points(4)).float()
    leaf[:equal] = leaf[0]
    leaf.requires_grad_()
    found = angles(leaf)
    (found - torch.from_numpy(angles_by_hand(points(5))).float()).square().sum().backward()
    assert (found[0, 1] == 0).all()
    assert leaf.grad.abs().max() < 1e3


def test_rkd_is_the_huber_loss_of_distances_plus_twice_that_of_angles():
    student, teacher = 1.5 * points(6, (5, 3, 2, 2)), points(7, (5, 8))
    method = RKD(SimpleNamespace(student=SimpleNamespace(net=nn.Identity()), weight=0.5))
    own, other = (
        ModelOutput(torch.empty(0), torch.from_numpy(embedding)) for embedding in (student, teacher)
    )
    terms = method.distil(own, other, Batch({}, torch.zeros(5)))
    pooled = student.mean(axis=(2, 3))
    distance = huber(distances_by_hand(pooled), distances_by_hand(teacher))
    angle = huber(angles_by_hand(pooled), angles_by_hand(teacher))
    assert terms["distance"].item() == pytest.approx(distance, rel=1e-10)
    assert terms["angle"].item() == pytest.approx(2 * angle, rel=1e-10)


def test_rkd_with_the_usual_weights_of_classifiers():
    student, teacher = points(6, (5, 3)), points(7, (5, 8))
    context = SimpleNamespace(student=SimpleNamespace(net=nn.Identity()), weight=0.5)
    own, other = (
        ModelOutput(torch.empty(0), torch.from_numpy(embedding)) for embedding in (student, teacher)
    )
    terms = RKD(context, distance=25, angle=50).distil(own, other, Batch({}, torch.zeros(5)))
    distance = huber(distances_by_hand(student), distances_by_hand(teacher))
    angle = huber(angles_by_hand(student), angles_by_hand(teacher))
    assert terms["distance"].item() == pytest.approx(25 * distance, rel=1e-10)
    assert terms["angle"].item() == pytest.approx(50 * angle, rel=1e-10)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).sum(axis=-1, keepdims=True))


def contrast_by_hand(
    anchor: np.ndarray,
    rows: list[int],
    negatives: np.ndarray,
    memory: np.ndarray,
    fixed: np.ndarray | None = None,
) -> float:
    """Compute equations 17 to 19 of Tian et al.; Z is from the anchors `fixed` if given."""
    fixed = anchor if fixed is None else fixed
    prior = negatives.shape[1] / len(memory)
    total = 0.0
    for b in range(len(anchor)):
        z = sum(math.exp(fixed[b] @ entry / 0.07) for entry in memory)

        def h(entry: np.ndarray, b: int = b, z: float = z) -> float:
            p = math.exp(anchor[b] @ entry / 0.07) / z
            return p / (p + prior)

        total -= math.log(h(memory[rows[b]]))
        total -= sum(math.log(1 - h(memory[n])) for n in negatives[b])
    return total / len(anchor)


def contrast_inputs() -> tuple[np.ndarray, list[int], np.ndarray, np.ndarray]:
    memory, anchor = unit(points(8, (12, 4))), unit(points(9, (3, 4)))
    negatives = np.array([[0, 1, 1, 5, 7], [2, 3, 4, 4, 4], [11, 10, 9, 0, 1]])
    return anchor, [2, 0, 6], negatives, memory


def test_contrast_matches_loops_over_positives_and_negatives():
    anchor, rows, negatives, memory = contrast_inputs()
    found = contrast(
        torch.from_numpy(anchor),
        torch.tensor(rows),
        torch.from_numpy(negatives),
        torch.from_numpy(memory),
    )
    assert found.item() == pytest.approx(contrast_by_hand(*contrast_inputs()), rel=1e-10)


def test_contrast_has_no_gradient_through_z():
    anchor, rows, negatives, memory = contrast_inputs()
    leaf = torch.from_numpy(anchor.copy()).requires_grad_()
    contrast(
        leaf, torch.tensor(rows), torch.from_numpy(negatives), torch.from_numpy(memory)
    ).backward()
    for b, d in np.ndindex(anchor.shape):
        step = np.zeros_like(anchor)
        step[b, d] = 1e-6
        up, down = (
            contrast_by_hand(anchor + way * step, rows, negatives, memory, anchor)
            for way in (1, -1)
        )
        assert leaf.grad[b, d].item() == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-7)


def test_contrast_is_finite_in_float32_if_all_entries_are_equal_or_opposite():
    memory = torch.zeros(50, 4, dtype=torch.float32)
    memory[:25, 0], memory[25:, 0] = 1, -1
    anchor = torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]], dtype=torch.float32).requires_grad_()
    rows, negatives = torch.tensor([40, 41]), torch.arange(50).expand(2, 50)
    found = contrast(anchor, rows, negatives, memory)
    found.backward()
    assert found.isfinite()
    assert anchor.grad.isfinite().all()


def test_an_update_mixes_the_memory_equally_with_the_projection_without_gradient():
    memory = unit(points(10, (6, 4)))
    projection = unit(points(11, (2, 4)))
    before = torch.from_numpy(memory.copy())
    found = update(before, torch.tensor([4, 1]), torch.from_numpy(projection).requires_grad_())
    wanted = memory.copy()
    wanted[4], wanted[1] = (unit(memory[i] + p) for i, p in zip((4, 1), projection, strict=True))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)
    np.testing.assert_array_equal(before.numpy(), memory)
    assert not found.requires_grad


LABELS = torch.tensor([2, 0, 3, 3, 0, 2, 2, 3, 0, 3, 3, 2, 0, 3])
"""Labels of a split without class 1."""


def test_negatives_are_uniform_over_the_samples_of_other_classes():
    torch.manual_seed(0)
    label = torch.tensor([0, 3, 2, 0, 1])
    drawn = Negatives(LABELS, 4).draw(label, 7000)
    assert drawn.shape == (5, 7000)
    assert drawn.dtype == torch.long
    for row, own in zip(drawn, label.tolist(), strict=True):
        others = [i for i, other in enumerate(LABELS.tolist()) if other != own]
        counts = np.bincount(row.numpy(), minlength=len(LABELS))
        assert counts.sum() == counts[others].sum()
        assert chisquare(counts[others]).pvalue > 0.01


def test_negatives_of_two_samples_are_drawn_independently():
    torch.manual_seed(0)
    first, second = Negatives(LABELS, 4).draw(torch.tensor([0, 0]), 50)
    assert not torch.equal(first, second)


def crd(width: int = 3, other: int = 5, **arguments: object) -> CRD:
    def model(embedding: torch.Tensor) -> SimpleNamespace:
        output = ModelOutput(torch.empty(0), embedding)
        return SimpleNamespace(net=nn.Identity(), dry=lambda samples: output)

    labels = np.concatenate([[9], LABELS.numpy(), [9]])
    splits = pd.DataFrame({"split": ["test", *["train"] * len(LABELS), "valid"]})
    run = SimpleNamespace(
        samples=SimpleNamespace(
            labels=labels, dense=False, have=lambda modalities: np.ones(len(labels), dtype=bool)
        ),
        splits=splits,
        rows=lambda split, needed: rows_of(splits, split),
        target="image",
        device="cpu",
        place=lambda module: module,
    )
    return CRD(
        SimpleNamespace(
            student=model(torch.ones(2, width, 2, 2)),
            frozen_teacher=model(torch.ones(2, other)),
            teacher_modalities=("audio",),
            weight=0.5,
            classes=4,
            run=run,
        ),
        **arguments,
    )


def test_crd_contrasts_each_projection_with_the_other_memory_and_then_updates_both():
    torch.manual_seed(0)
    method = crd()
    rows = torch.tensor([3, 0, 8])
    batch = Batch({}, LABELS[rows], place=rows)
    student, teacher = points(12, (3, 3, 2, 2)), points(13, (3, 5))
    own, other = (ModelOutput(torch.empty(0), torch.from_numpy(x)) for x in (student, teacher))
    memories = [m.numpy().copy() for m in (method._student_memory, method._teacher_memory)]
    projected = []
    for name, flat in (("of_student", student.mean(axis=(2, 3))), ("of_teacher", teacher)):
        linear = method.trainable[name]
        weight, bias = (one.detach().numpy() for one in (linear.weight, linear.bias))
        projected.append(unit(flat @ weight.T + bias))
    torch.manual_seed(1)
    terms = method.distil(own, other, batch)
    torch.manual_seed(1)
    negatives = Negatives(LABELS, 4).draw(LABELS[rows], round(0.33 * len(LABELS))).numpy()
    wanted = {
        "student": contrast_by_hand(projected[0], rows.tolist(), negatives, memories[1]),
        "teacher": contrast_by_hand(projected[1], rows.tolist(), negatives, memories[0]),
    }
    found = {name: term.item() for name, term in terms.items()}
    assert found == pytest.approx(wanted, rel=1e-10)
    after = [m.numpy() for m in (method._student_memory, method._teacher_memory)]
    for memory, now, new in zip(memories, after, projected, strict=True):
        memory[rows.numpy()] = unit(memory[rows.numpy()] + new)
        np.testing.assert_allclose(now, memory, rtol=1e-10)
    sum(terms.values()).backward()
    assert method.trainable["of_student"].weight.grad.abs().sum() > 0
    assert method.trainable["of_teacher"].weight.grad.abs().sum() > 0
    assert not method._student_memory.requires_grad
    assert not method._teacher_memory.requires_grad


def test_crd_in_the_setting_of_its_authors_keeps_z_of_the_first_batch():
    """Z = M times the mean of e^(t.s / tau) over positives and negatives of the first batch."""
    torch.manual_seed(0)
    method = crd(negatives=3.8, constant_z=True)
    assert method._number == round(3.8 * len(LABELS))
    memory = method._teacher_memory.double().numpy().copy()
    linear = method.trainable["of_student"]
    weight, bias = (one.detach().numpy() for one in (linear.weight, linear.bias))
    z = None
    for step in range(2):
        rows = torch.tensor([3, 0, 8]) + step
        student, teacher = points(12 + step, (3, 3, 2, 2)), points(14 + step, (3, 5))
        own, other = (ModelOutput(torch.empty(0), torch.from_numpy(x)) for x in (student, teacher))
        if step == 1:  # an interrupted training continues with the same Z
            state = method.state()
            method = crd(negatives=3.8, constant_z=True)
            method.trainable["of_student"].load_state_dict(linear.state_dict())
            method.load_state(state)
            memory = method._teacher_memory.double().numpy().copy()
        torch.manual_seed(step)
        found = method.distil(own, other, Batch({}, LABELS[rows], place=rows))["student"].item()
        torch.manual_seed(step)
        negatives = Negatives(LABELS, 4).draw(LABELS[rows], method._number).numpy()
        anchor = unit(student.mean(axis=(2, 3)) @ weight.T + bias)
        values = np.exp(
            [
                [anchor[b] @ memory[i] / 0.07 for i in (int(rows[b]), *negatives[b])]
                for b in range(3)
            ]
        )
        z = values.mean() * len(LABELS) if z is None else z
        h = values / z / (values / z + negatives.shape[1] / len(LABELS))
        wanted = -(np.log(h[:, 0]).sum() + np.log(1 - h[:, 1:]).sum()) / 3
        assert found == pytest.approx(wanted, rel=1e-9)
