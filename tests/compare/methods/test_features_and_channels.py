"""FitNets, MGDFR and FD-CMKD, against loops over channels, positions and frequencies."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from mst_distill.compare.methods.fd_cmkd import FDCMKD, split_frequencies, standardise
from mst_distill.compare.methods.fitnets import Hints, hint_loss
from mst_distill.compare.methods.mgdfr import Pair, salience, suppress, suppressed_channels
from mst_distill.mst.features import ModelOutput, pooled
from mst_distill.mst.supervision import Supervision
from mst_distill.training.batches import Batch

NOTHING = torch.empty(0)


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


class FixedModel:
    """A model with the same output for every batch."""

    def __init__(self, output: ModelOutput | None = None) -> None:
        self.net = nn.Identity()
        self.output = output

    def __call__(self, inputs: dict[str, torch.Tensor]) -> ModelOutput:
        return self.output

    def dry(self, samples: object) -> ModelOutput:
        return self.output


def fake_context(student: ModelOutput, teacher: ModelOutput) -> SimpleNamespace:
    run = SimpleNamespace(place=lambda module: module.double(), samples=None, target="student")
    return SimpleNamespace(
        student=FixedModel(student),
        frozen_teacher=FixedModel(teacher),
        teacher_name="teacher",
        teacher_modalities=(),
        new_teacher=FixedModel,
        run=run,
        weight=0.5,
        supervision=Supervision(),
        classes=4,
    )


def test_the_hint_loss_of_vectors_is_the_mean_squared_difference():
    student, teacher = values(0, 3, 4), values(1, 3, 4)
    wanted = sum((student[i] - teacher[i]) ** 2 for i in np.ndindex(3, 4)) / 12
    assert hint_loss(tensor(student), tensor(teacher)).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("own", "grid"), [((8,), (2,)), ((4, 6), (2, 3)), ((2, 4, 6), (1, 2, 2))])
def test_the_hint_loss_of_maps_averages_to_the_teacher_s_grid(own, grid):
    student, teacher = values(2, 2, 3, *own), values(3, 2, 3, *grid)
    steps = [a // b for a, b in zip(own, grid, strict=True)]
    wanted = 0.0
    for sample, channel, *place in np.ndindex(teacher.shape):
        window = tuple(slice(p * s, (p + 1) * s) for p, s in zip(place, steps, strict=True))
        mean = student[(sample, channel, *window)].mean()
        wanted += (mean - teacher[(sample, channel, *place)]) ** 2 / teacher.size
    found = hint_loss(tensor(student), tensor(teacher))
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_pooled_is_the_mean_over_positions():
    feature = values(4, 2, 3, 4, 5)
    wanted = [[np.mean(feature[b, f]) for f in range(3)] for b in range(2)]
    np.testing.assert_allclose(pooled(tensor(feature)).numpy(), wanted, rtol=1e-12)
    assert torch.equal(pooled(tensor(feature[:, :, 0, 0])), tensor(feature[:, :, 0, 0]))


def test_the_hint_stage_regresses_the_teacher_s_last_stages_from_the_student_s():
    student = [values(5, 2, 9), values(6, 2, 3, 4, 4), values(7, 2, 5, 2, 2), values(8, 2, 4)]
    teacher = [values(9, 2, 6, 2, 2), values(10, 2, 7), values(11, 2, 3)]
    output = ModelOutput(NOTHING, NOTHING, tuple(map(tensor, student)))
    teacher_output = ModelOutput(NOTHING, NOTHING, tuple(map(tensor, teacher)))
    method = Hints(fake_context(output, teacher_output))
    loss = method.losses(Batch({}, NOTHING, {"teacher": teacher_output.tensors}))["loss"]
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


def test_nets_without_stages_are_an_error():
    with pytest.raises(ValueError, match="no masked_layers"):
        Hints(
            fake_context(ModelOutput(NOTHING), ModelOutput(NOTHING, NOTHING, (torch.ones(2, 3),)))
        )


def test_the_loss_of_a_pair_has_gradient_to_both_nets():
    student, peer = values(12, 3, 4), values(13, 3, 4)
    own, other = (tensor(x).requires_grad_() for x in (student, peer))
    loss = Pair(fake_context(ModelOutput(NOTHING), ModelOutput(NOTHING))).mutual(own, other)[
        "apart"
    ]
    assert loss.item() == pytest.approx(np.mean((student - peer) ** 2), rel=1e-12)
    gradients = torch.autograd.grad(loss, (own, other))
    np.testing.assert_allclose(gradients[0].numpy(), 2 * (student - peer) / 12, rtol=1e-12)
    np.testing.assert_allclose(gradients[1].numpy(), 2 * (peer - student) / 12, rtol=1e-12)


class Linear(FixedModel):
    """A teacher whose last layer, after the mean over positions, is a matrix."""

    def __init__(self, head: np.ndarray) -> None:
        super().__init__()
        self._head = tensor(head)

    def __call__(self, inputs: dict[str, torch.Tensor]) -> ModelOutput:
        return ModelOutput(self.finish(inputs, inputs["x"]), inputs["x"])

    def finish(self, inputs: dict[str, torch.Tensor], embedding: torch.Tensor) -> torch.Tensor:
        flat = embedding.flatten(2).mean(dim=2) if embedding.dim() > 2 else embedding
        return flat @ self._head.T


@pytest.mark.parametrize("spatial", [(), (2, 2)])
def test_salience_is_the_distance_to_the_student_after_shuffling_a_channel(spatial):
    head, output, embedding = values(14, 3, 5), values(15, 4, 3), values(16, 4, 5, *spatial)
    embedding[:, 1] = 0.7
    head[:, 4] = 0
    flat = embedding.mean(axis=(2, 3)) if spatial else embedding
    exact = np.array(
        [
            [
                np.mean((np.where(np.arange(5) == c, flat[list(o)], flat) @ head.T - output) ** 2)
                for c in range(5)
            ]
            for o in permutations(range(4))
        ]
    )
    torch.manual_seed(0)
    inputs = {"x": tensor(embedding)}
    estimates = [
        salience(tensor(output), Linear(head), inputs, tensor(embedding)).numpy()
        for _ in range(150)
    ]
    unmoved = np.mean((flat @ head.T - output) ** 2)
    np.testing.assert_allclose(np.mean(estimates, axis=0)[[1, 4]], unmoved, rtol=1e-12)
    spread = exact.std(axis=0) / np.sqrt(1500)
    changed = [0, 2, 3]
    assert (
        np.abs(np.mean(estimates, axis=0) - exact.mean(axis=0))[changed] < 3 * spread[changed]
    ).all()
    assert (np.abs(exact.mean(axis=0) - unmoved)[changed] > 10 * spread[changed]).all()


@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_the_three_quarters_of_channels_with_least_salience_are_suppressed(spatial):
    size = np.array([64.0, 0.5, 2.0, 128.0, 0.0, 1.0, 4.0, 8.0])
    teacher = Linear(np.diag(size))
    batches = [
        values(seed, 16, 8, *spatial) + np.arange(8.0).reshape(8, *(1 for _ in spatial))
        for seed in (17, 18)
    ]
    torch.manual_seed(0)
    means = suppressed_channels(teacher, teacher, ({"x": tensor(batch)} for batch in batches))
    axes = (0, *range(2, 2 + len(spatial)))
    mean = np.concatenate(batches).mean(axis=axes)
    assert list(means) == [4, 1, 5, 2, 6, 7]
    assert means == pytest.approx({channel: mean[channel] for channel in means}, rel=1e-12)


@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_suppressed_channels_are_replaced_by_their_means_and_others_are_unchanged(spatial):
    embedding = values(19, 4, 5, *spatial)
    before = tensor(embedding.copy())
    found = suppress(ModelOutput(NOTHING, before), {1: 0.25, 4: -3.0})
    wanted = embedding.copy()
    wanted[:, 1], wanted[:, 4] = 0.25, -3
    np.testing.assert_array_equal(found.numpy(), wanted)
    np.testing.assert_array_equal(before.numpy(), embedding)


def standardise_by_hand(rows: np.ndarray) -> np.ndarray:
    return np.array([(row - np.mean(row)) / np.sqrt(np.var(row) + 1e-5) for row in rows])


def low_part(rows: np.ndarray) -> np.ndarray:
    """Compute the lower half of the frequencies by an explicit discrete Fourier transform."""
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


def test_standardise_gives_mean_0_and_variance_1_within_a_sample():
    embedding = 5 * values(20, 4, 9) + 3
    found = standardise(tensor(embedding))
    np.testing.assert_allclose(found.numpy(), standardise_by_hand(embedding), rtol=1e-10)
    # Equal but for the 1e-5 that is added to the variance, which is about 25 here.
    torch.testing.assert_close(standardise(7 * tensor(embedding) - 2), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3, 8, 9, 14, 15])
def test_low_and_high_parts_match_the_fourier_transform(width):
    embedding = values(21, 3, width)
    low, high = split_frequencies(tensor(embedding))
    np.testing.assert_allclose(low.numpy(), low_part(embedding), atol=1e-12)
    np.testing.assert_allclose((low + high).numpy(), embedding, atol=1e-12)
    np.testing.assert_allclose((low * high).sum(dim=1).numpy(), 0, atol=1e-12)


def test_a_wave_is_in_one_part_only_and_gradients_are_right():
    at = np.arange(16)
    for number in range(9):
        wave = np.cos(2 * np.pi * number * at / 16)[None]
        low, high = split_frequencies(tensor(wave))
        whole, rest = (low, high) if number < 4 else (high, low)
        np.testing.assert_allclose(whole.numpy(), wave, atol=1e-12)
        np.testing.assert_allclose(rest.numpy(), 0, atol=1e-12)
    leaf = tensor(values(22, 2, 7)).requires_grad_()
    assert torch.autograd.gradcheck(split_frequencies, leaf)


def test_fd_cmkd_compares_frequencies_of_aligned_features_and_shares_a_classifier():
    student, teacher = values(23, 6, 5, 2, 2), 4 * values(24, 6, 8)
    output, teacher_output = (ModelOutput(NOTHING, tensor(x)) for x in (student, teacher))
    method = FDCMKD(fake_context(output, teacher_output))
    method.trainable.double()
    align, classify = (
        [w.detach().double().numpy() for w in method.trainable[name].parameters()]
        for name in ("align", "classify")
    )
    label = [0, 3, 1, 2, 0, 1]
    terms = method.distil(output, teacher_output, Batch({}, torch.tensor(label)))
    both = (student.mean(axis=(2, 3)) @ align[0].T + align[1], teacher)
    low = [standardise_by_hand(low_part(x)) for x in both]
    high = [standardise_by_hand(x - low_part(x)) for x in both]
    high = [np.sign(x) * np.log(1 + np.abs(x)) for x in high]
    log_probabilities = [
        log_softmax(standardise_by_hand(x) @ classify[0].T + classify[1], axis=1) for x in both
    ]
    wanted = {
        "low": np.mean((low[0] - low[1]) ** 2),
        "high": np.mean((high[0] - high[1]) ** 2),
        "shared": -np.mean([x[range(6), label] for x in log_probabilities]),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(wanted, rel=1e-10)
