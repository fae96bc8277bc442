"""A teacher that is cut has the same output as the whole net with hooks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mst_distill.mst.masks import FixedMask, mask_class
from mst_distill.mst.networks import feature_shapes, forward
from mst_distill.mst.split_teacher import specialise
from toy_nets import (
    Audio,
    BatchSizeInTrunk,
    Dense,
    Fusion,
    Image,
    InPlace,
    InPlaceMethod,
    OnePixel,
    OnePixelAside,
    OptionalInput,
    Skip,
    Untraceable,
)
from toys import make_samples

pytestmark = pytest.mark.usefixtures("float64")

WIDTHS = {"image": 64, "audio": 13 * 32}
CASES = {
    "vector": ("image", lambda: Skip(3), ["first", "second"]),
    "map, then vector": ("image", lambda: Image(3), ["conv", "second"]),
    "two modalities": ("multimodal", lambda: Fusion(3, WIDTHS), ["fusion", "hidden"]),
    "pooling indices": ("image", lambda: Dense(3), ["encode", "middle"]),
    "batch size read before the cut": (
        "image",
        lambda: BatchSizeInTrunk(3),
        ["first", "second"],
    ),
    "untraceable": ("image", lambda: Untraceable(3), ["first", "second"]),
    "optional input": ("image", lambda: OptionalInput(3), ["first", "second"]),
    "in-place method": ("image", lambda: InPlaceMethod(3), ["first", "second"]),
    "a map of one pixel": ("image", lambda: OnePixel(3), ["conv", "mix"]),
    "a map of one pixel added to another map": ("image", lambda: OnePixelAside(3), ["conv", "mix"]),
    "in-place function": ("image", lambda: InPlace(3), ["first", "second"]),
    "the first layer of the net": ("audio", lambda: Audio(3), ["first"]),
}


def build(case: str) -> tuple[str, nn.Module, dict[str, nn.Module], dict[str, Tensor]]:
    torch.manual_seed(1)
    name, make, layers = CASES[case]
    samples, _ = make_samples()
    net = make().eval()
    shapes = feature_shapes(name, net, layers, samples)
    masks = {
        layer: mask_class(shapes[layer])(shapes[layer][1], factor=1, heads=2).eval()
        for layer in layers
    }
    inputs = {key: torch.from_numpy(array[:5]) for key, array in samples.modalities.items()}
    return name, net, masks, inputs


def hooked(
    name: str, net: nn.Module, masks: dict[str, nn.Module], inputs: dict[str, Tensor]
) -> Tensor:
    """The method of the released implementation: the whole net, with replaced layer outputs."""
    hooks = [
        net.get_submodule(layer).register_forward_hook(lambda m, i, out, mask=mask: mask(out))
        for layer, mask in masks.items()
    ]
    try:
        return forward(net, name, inputs)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_trunk_and_tail_equal_the_whole_forward_pass(case, stacked):
    name, net, masks, inputs = build(case)
    layers = list(masks)
    expected = {
        layer: hooked(
            name,
            net,
            {masked: masks[masked] for masked in (layers[: index + 1] if stacked else [layer])},
            inputs,
        )
        for index, layer in enumerate(layers)
    }
    cut = specialise(name, net, masks, make_samples()[0], stacked)
    values = cut.trunk.compute(inputs)
    for layer, tail in cut.tails.items():
        torch.testing.assert_close(tail(*values), expected[layer])
    assert list(cut.tails) == layers


def test_the_specialists_of_a_teacher_share_one_trunk_pass():
    name, net, masks, inputs = build("map, then vector")
    calls = {"conv": 0, "second": 0, "last": 0}
    for layer in calls:
        net.get_submodule(layer).register_forward_pre_hook(
            lambda m, i, layer=layer: calls.update({layer: calls[layer] + 1})
        )
    cut = specialise(name, net, masks, make_samples()[0])
    calls.update(dict.fromkeys(calls, 0))
    values = cut.trunk.compute(inputs)
    assert calls == {"conv": 1, "second": 1, "last": 0}
    for tail in cut.tails.values():
        tail(*values)
    # After the mask of the map come `second` and `last`, after the mask of the vector only `last`.
    assert calls == {"conv": 1, "second": 2, "last": 2}


def test_values_that_cross_have_one_row_for_each_sample():
    for case, crosses in (("vector", 2), ("batch size read before the cut", 1)):
        name, net, masks, inputs = build(case)
        values = specialise(name, net, masks, make_samples()[0]).trunk.compute(inputs)
        assert len(values) == crosses
        assert all(value.shape[0] == 5 for value in values)
    torch.testing.assert_close(values[0], inputs["image"])


def test_only_masks_receive_gradients():
    name, net, masks, inputs = build("two modalities")
    cut = specialise(name, net, masks, make_samples()[0])
    with torch.no_grad():
        values = cut.trunk.compute(inputs)
    sum(tail(*values).square().sum() for tail in cut.tails.values()).backward()
    assert all(weight.grad is None for weight in net.parameters())
    for mask in masks.values():
        assert all(weight.grad is not None for weight in mask.parameters())


@pytest.mark.parametrize("kind", [OnePixel, OnePixelAside])
@pytest.mark.parametrize("layer", ["conv", "mix"])
def test_a_mask_of_one_pixel_scales_its_channels_and_nothing_else(kind, layer):
    """A fixed mask equals multiplying the weights of the convolution before it."""
    torch.manual_seed(2)
    net, mask = kind(3), FixedMask(8)
    nn.init.normal_(mask.preference)
    image = torch.randn(5, 1, 8, 8)
    scaled = copy.deepcopy(net)
    with torch.no_grad():
        weights = mask.preference.sigmoid()
        scaled.get_submodule(layer).weight.mul_(weights[:, None, None, None])
        scaled.get_submodule(layer).bias.mul_(weights)
    expected = scaled(image)
    cut = specialise("image", net, {layer: mask}, make_samples()[0])
    found = cut.tails[layer](*cut.trunk.compute({"image": image}))
    torch.testing.assert_close(found, expected)
    for row in range(5):  # the samples do not influence one another
        (alone,) = cut.tails[layer](*cut.trunk.compute({"image": image[row : row + 1]}))
        torch.testing.assert_close(found[row], alone)


NOT_CUT = {
    "batch size read before the cut",
    "untraceable",
    "optional input",
    "in-place method",
}


@pytest.mark.parametrize("case", CASES)
def test_the_log_states_which_nets_cannot_be_cut(case, caplog):
    name, net, masks, _ = build(case)
    with caplog.at_level("INFO"):
        specialise(name, net, masks, make_samples()[0])
    assert ("the whole net runs for every mask" in caplog.text) == (case in NOT_CUT)
