"""FitNets, MGDFR and FD-CMKD against loops over channels, places and frequencies."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from mst_distill.compare.methods.fd_cmkd import FDCMKD, one_scale, split_frequencies
from mst_distill.compare.methods.fitnets import Hints, hint_loss
from mst_distill.compare.methods.mgdfr import Pair, hold, salience, silenced
from mst_distill.mst.features import Observed, pooled
from mst_distill.training.batches import Batch

NOTHING = torch.empty(0)


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


class Speaker:
    """Says the same of every batch."""

    def __init__(self, said: Observed | None = None) -> None:
        self.net = nn.Identity()
        self.said = said

    def __call__(self, inputs: dict[str, torch.Tensor]) -> Observed:
        return self.said

    def dry(self, samples: object) -> Observed:
        return self.said


def fake_setup(student: Observed, teacher: Observed) -> SimpleNamespace:
    run = SimpleNamespace(place=lambda module: module.double(), samples=None, target="student")
    return SimpleNamespace(
        student=Speaker(student),
        frozen_teacher=Speaker(teacher),
        teacher_name="teacher",
        new_teacher=Speaker,
        run=run,
        weight=0.5,
        ignored=None,
        classes=4,
    )


def test_hints_of_vectors_are_compared_as_they_are():
    student, teacher = values(0, 3, 4), values(1, 3, 4)
    wanted = sum((student[i] - teacher[i]) ** 2 for i in np.ndindex(3, 4)) / 12
    assert hint_loss(tensor(student), tensor(teacher)).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("own", "grid"), [((8,), (2,)), ((4, 6), (2, 3)), ((2, 4, 6), (1, 2, 2))])
def test_hints_of_maps_are_compared_on_the_teacher_s_grid(own, grid):
    student, teacher = values(2, 2, 3, *own), values(3, 2, 3, *grid)
    steps = [a // b for a, b in zip(own, grid, strict=True)]
    wanted = 0.0
    for sample, channel, *place in np.ndindex(teacher.shape):
        window = tuple(slice(p * s, (p + 1) * s) for p, s in zip(place, steps, strict=True))
        mean = student[(sample, channel, *window)].mean()
        wanted += (mean - teacher[(sample, channel, *place)]) ** 2 / teacher.size
    found = hint_loss(tensor(student), tensor(teacher))
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_pooled_is_the_mean_over_places():
    feature = values(4, 2, 3, 4, 5)
    wanted = [[np.mean(feature[b, f]) for f in range(3)] for b in range(2)]
    np.testing.assert_allclose(pooled(tensor(feature)).numpy(), wanted, rtol=1e-12)
    assert torch.equal(pooled(tensor(feature[:, :, 0, 0])), tensor(feature[:, :, 0, 0]))


def test_the_hint_stage_regresses_the_teacher_s_last_stages_from_the_student_s():
    student = [values(5, 2, 9), values(6, 2, 3, 4, 4), values(7, 2, 5, 2, 2), values(8, 2, 4)]
    teacher = [values(9, 2, 6, 2, 2), values(10, 2, 7), values(11, 2, 3)]
    said = Observed(NOTHING, NOTHING, tuple(map(tensor, student)))
    heard = Observed(NOTHING, NOTHING, tuple(map(tensor, teacher)))
    method = Hints(fake_setup(said, heard))
    loss = method.losses(Batch({}, NOTHING, {"teacher": heard.tensors}))["loss"]
    weights = [
        (r.weight.detach().numpy().reshape(r.weight.shape[:2]), r.bias.detach().numpy())
        for r in method.trainable["regressors"]
    ]
    assert [weight.shape for weight, _ in weights] == [(6, 3), (7, 5), (3, 4)]
    maps = np.einsum("bchw,dc->bdhw", student[1], weights[0][0]) + weights[0][1][:, None, None]
    corners = maps.reshape(2, 6, 2, 2, 2, 2).mean(axis=(3, 5))
    flat = student[2].mean(axis=(2, 3)) @ weights[1][0].T + weights[1][1]
    plain = student[3] @ weights[2][0].T + weights[2][1]
    wanted = sum(
        np.mean((own - other) ** 2)
        for own, other in zip((corners, flat, plain), teacher, strict=True)
    )
    assert loss.item() == pytest.approx(wanted, rel=1e-10)


def test_without_stages_there_is_no_hint():
    with pytest.raises(ValueError, match="no masked_layers"):
        Hints(fake_setup(Observed(NOTHING), Observed(NOTHING, NOTHING, (torch.ones(2, 3),))))


def test_a_pair_is_drawn_together_from_both_sides():
    student, peer = values(12, 3, 4), values(13, 3, 4)
    own, other = (tensor(x).requires_grad_() for x in (student, peer))
    apart = Pair(fake_setup(Observed(NOTHING), Observed(NOTHING))).mutual(own, other)["apart"]
    assert apart.item() == pytest.approx(np.mean((student - peer) ** 2), rel=1e-12)
    pulls = torch.autograd.grad(apart, (own, other))
    np.testing.assert_allclose(pulls[0].numpy(), 2 * (student - peer) / 12, rtol=1e-12)
    np.testing.assert_allclose(pulls[1].numpy(), 2 * (peer - student) / 12, rtol=1e-12)


class Linear(Speaker):
    """A teacher whose last layer, after the mean over places, is a matrix."""

    def __init__(self, head: np.ndarray) -> None:
        super().__init__()
        self._head = tensor(head)

    def __call__(self, inputs: dict[str, torch.Tensor]) -> Observed:
        return Observed(self.finish(inputs, inputs["x"]), inputs["x"])

    def finish(self, inputs: dict[str, torch.Tensor], embedding: torch.Tensor) -> torch.Tensor:
        flat = embedding.flatten(2).mean(dim=2) if embedding.dim() > 2 else embedding
        return flat @ self._head.T


@pytest.mark.parametrize("places", [(), (2, 2)])
def test_salience_is_how_far_shuffling_a_channel_moves_the_teacher_from_the_student(places):
    head, said, embedding = values(14, 3, 5), values(15, 4, 3), values(16, 4, 5, *places)
    embedding[:, 1] = 0.7
    head[:, 4] = 0
    flat = embedding.mean(axis=(2, 3)) if places else embedding
    every = np.array(
        [
            [
                np.mean((np.where(np.arange(5) == c, flat[list(o)], flat) @ head.T - said) ** 2)
                for c in range(5)
            ]
            for o in permutations(range(4))
        ]
    )
    torch.manual_seed(0)
    inputs = {"x": tensor(embedding)}
    drawn = [
        salience(tensor(said), Linear(head), inputs, tensor(embedding)).numpy() for _ in range(150)
    ]
    still = np.mean((flat @ head.T - said) ** 2)
    np.testing.assert_allclose(np.mean(drawn, axis=0)[[1, 4]], still, rtol=1e-12)
    spread = every.std(axis=0) / np.sqrt(1500)
    moved = [0, 2, 3]
    assert (np.abs(np.mean(drawn, axis=0) - every.mean(axis=0))[moved] < 3 * spread[moved]).all()
    assert (np.abs(every.mean(axis=0) - still)[moved] > 10 * spread[moved]).all()


@pytest.mark.parametrize("places", [(), (2, 3)])
def test_three_quarters_of_the_channels_are_held_those_of_least_salience_at_their_means(places):
    size = np.array([64.0, 0.5, 2.0, 128.0, 0.0, 1.0, 4.0, 8.0])
    teacher = Linear(np.diag(size))
    batches = [
        values(seed, 16, 8, *places) + np.arange(8.0).reshape(8, *(1 for _ in places))
        for seed in (17, 18)
    ]
    torch.manual_seed(0)
    held = hold(teacher, teacher, ({"x": tensor(batch)} for batch in batches))
    axes = (0, *range(2, 2 + len(places)))
    mean = np.concatenate(batches).mean(axis=axes)
    assert list(held) == [4, 1, 5, 2, 6, 7]
    assert held == pytest.approx({channel: mean[channel] for channel in held}, rel=1e-12)


@pytest.mark.parametrize("places", [(), (2, 3)])
def test_held_channels_are_at_their_means_and_the_others_as_they_were(places):
    embedding = values(19, 4, 5, *places)
    before = tensor(embedding.copy())
    found = silenced(Observed(NOTHING, before), {1: 0.25, 4: -3.0})
    wanted = embedding.copy()
    wanted[:, 1], wanted[:, 4] = 0.25, -3
    np.testing.assert_array_equal(found.numpy(), wanted)
    np.testing.assert_array_equal(before.numpy(), embedding)


def standard(rows: np.ndarray) -> np.ndarray:
    return np.array([(row - np.mean(row)) / np.sqrt(np.var(row) + 1e-5) for row in rows])


def slow_part(rows: np.ndarray) -> np.ndarray:
    """What a discrete Fourier transform, written out, has at the slower half of its frequencies."""
    width = rows.shape[1]
    cut = max(1, round((width // 2 + 1) / 2))
    at = np.arange(width)
    found = np.zeros(rows.shape, complex)
    for number in range(-((width - 1) // 2), width // 2 + 1):
        if abs(number) < cut:
            wave = np.exp(2j * np.pi * number * at / width)
            found += (rows @ wave.conj())[:, None] * wave / width
    assert np.abs(found.imag).max() < 1e-12
    return found.real


def test_one_scale_has_mean_0_and_variance_1_within_a_sample():
    embedding = 5 * values(20, 4, 9) + 3
    found = one_scale(tensor(embedding))
    np.testing.assert_allclose(found.numpy(), standard(embedding), rtol=1e-10)
    # But for the 1e-5 that is added to the variance, which is about 25 here.
    torch.testing.assert_close(one_scale(7 * tensor(embedding) - 2), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3, 8, 9, 14, 15])
def test_slow_and_fast_parts_are_those_of_the_fourier_transform(width):
    embedding = values(21, 3, width)
    slow, fast = split_frequencies(tensor(embedding))
    np.testing.assert_allclose(slow.numpy(), slow_part(embedding), atol=1e-12)
    np.testing.assert_allclose((slow + fast).numpy(), embedding, atol=1e-12)
    np.testing.assert_allclose((slow * fast).sum(dim=1).numpy(), 0, atol=1e-12)


def test_a_wave_lies_wholly_in_one_part_and_slopes_are_right():
    at = np.arange(16)
    for number in range(9):
        wave = np.cos(2 * np.pi * number * at / 16)[None]
        slow, fast = split_frequencies(tensor(wave))
        kept, gone = (slow, fast) if number < 4 else (fast, slow)
        np.testing.assert_allclose(kept.numpy(), wave, atol=1e-12)
        np.testing.assert_allclose(gone.numpy(), 0, atol=1e-12)
    leaf = tensor(values(22, 2, 7)).requires_grad_()
    assert torch.autograd.gradcheck(split_frequencies, leaf)


def test_fd_cmkd_compares_parts_of_aligned_features_and_shares_a_classifier():
    student, teacher = values(23, 6, 5, 2, 2), 4 * values(24, 6, 8)
    said, heard = (Observed(NOTHING, tensor(x)) for x in (student, teacher))
    method = FDCMKD(fake_setup(said, heard))
    method.trainable.double()
    align, classify = (
        [w.detach().double().numpy() for w in method.trainable[name].parameters()]
        for name in ("align", "classify")
    )
    label = [0, 3, 1, 2, 0, 1]
    terms = method.distil(said, heard, Batch({}, torch.tensor(label)))
    both = (student.mean(axis=(2, 3)) @ align[0].T + align[1], teacher)
    slow = [standard(slow_part(x)) for x in both]
    fast = [standard(x - slow_part(x)) for x in both]
    fast = [np.sign(x) * np.log(1 + np.abs(x)) for x in fast]
    said_of = [log_softmax(standard(x) @ classify[0].T + classify[1], axis=1) for x in both]
    wanted = {
        "low": np.mean((slow[0] - slow[1]) ** 2),
        "high": np.mean((fast[0] - fast[1]) ** 2),
        "shared": -np.mean([x[range(6), label] for x in said_of]),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-10)
