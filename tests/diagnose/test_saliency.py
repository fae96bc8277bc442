"""Gradient x input: of linear nets by hand, of others by finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mst_distill.diagnose.saliency import GRID, attribute, saliency

pytestmark = pytest.mark.usefixtures("float64")

torch.manual_seed(0)


def test_for_a_linear_net_it_is_weight_times_input_of_the_largest_logit():
    net = nn.Linear(5, 3)
    x = torch.randn(4, 5)
    found = attribute(lambda inputs: net(inputs["text"]), {"text": x})["text"]
    weight, bias = net.weight.detach().numpy(), net.bias.detach().numpy()
    largest = (x.numpy() @ weight.T + bias).argmax(axis=1)
    np.testing.assert_allclose(found, abs(weight[largest] * x.numpy()), rtol=1e-12)


def test_channels_of_maps_and_videos_are_summed_but_not_those_of_matrices():
    shapes = {"image": (2, 3, 4, 5), "video": (2, 3, 6, 4, 5), "audio": (2, 13, 7)}
    inputs = {name: torch.randn(shape) for name, shape in shapes.items()}
    weights = {name: torch.randn(of.shape[1:]) for name, of in inputs.items()}

    def logits_of(inputs):
        total = sum((inputs[name] * weights[name]).flatten(1).sum(1) for name in inputs)
        return torch.stack([total, total - 1], dim=1)

    found = attribute(logits_of, inputs)
    products = {name: (inputs[name] * weights[name]).abs() for name in inputs}
    torch.testing.assert_close(found["image"], products["image"].sum(1))
    torch.testing.assert_close(found["video"], products["video"].sum(1))
    torch.testing.assert_close(found["audio"], products["audio"])


def test_the_gradient_equals_finite_differences():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    x = torch.randn(1, 1, 3, 4)
    found = attribute(lambda inputs: net(inputs["image"]), {"image": x})["image"]
    step, gradient = 1e-5, torch.zeros(3, 4)
    largest = net(x).argmax()
    for pixel in np.ndindex(3, 4):
        change = torch.zeros(1, 1, 3, 4)
        change[(0, 0, *pixel)] = step
        both = [net(x + sign * change)[0, largest] for sign in (1, -1)]
        gradient[pixel] = (both[0] - both[1]).item() / (2 * step)
    torch.testing.assert_close(found[0], (gradient * x[0, 0]).abs(), rtol=1e-6, atol=1e-9)


def test_with_dense_logits_only_labelled_pixels_count():
    """A pixelwise net has saliency only at the labelled pixels."""
    net = nn.Conv2d(2, 3, 1)
    labelled = torch.zeros(2, 4, 4, dtype=torch.bool)
    labelled[0, 1, 2] = labelled[1, :2] = True
    found = attribute(lambda inputs: net(inputs["rgb"]), {"rgb": torch.randn(2, 2, 4, 4)}, labelled)
    assert torch.equal(found["rgb"] > 0, labelled)


def test_frozen_nets_under_no_grad_and_nets_with_in_place_operations():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)).requires_grad_(False)
    x = torch.randn(3, 4)
    before = x.clone()
    with torch.no_grad():
        found = attribute(lambda inputs: net(inputs["text"]), {"text": x})["text"]
    assert torch.equal(x, before)
    assert torch.equal(found > 0, x > 0)


def test_an_unused_input_has_no_attribution():
    x = {"text": torch.randn(2, 3), "idle": torch.randn(2, 3)}
    found = attribute(lambda inputs: inputs["text"] * 2, x)
    assert not found["idle"].any()
    assert found["text"].any(dim=1).all()


@pytest.mark.parametrize("shape", [(5,), (13, 32), (8, 8), (3, 40, 70), (224, 224)])
def test_saliency_sums_to_1_on_at_most_the_grid(shape):
    maps = torch.rand(2, *shape)
    maps[1] = 0
    found = saliency(maps)
    np.testing.assert_allclose(found.reshape(2, -1).sum(axis=1), 1)
    assert max(found.shape[-2:]) <= GRID
    assert np.ptp(found[1]) == 0  # equal shares without any attribution
    if max(shape) <= GRID:
        np.testing.assert_allclose(found[0], maps[0] / maps[0].sum(), rtol=1e-12)


def test_cells_of_a_fine_map_are_sums_of_its_pixels():
    maps = torch.rand(1, 64, 96)
    cells = maps.double().view(32, 2, 32, 3).sum(dim=(1, 3)) / maps.double().sum()
    np.testing.assert_allclose(saliency(maps)[0], cells)


def test_vectors_are_not_averaged_over_a_grid():
    assert saliency(torch.rand(2, 500)).shape == (2, 500)
