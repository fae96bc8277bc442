"""The default nets of own data."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from mst_distill.mst.networks import build_mask, build_member, check_members, feature_shapes
from mst_distill.mst.split_teacher import specialise
from mst_distill.nets.simple import LateFusionNet, MapNet, SequenceNet, VectorNet
from mst_distill.parameters import Masks, Member
from toys import make_samples

pytestmark = pytest.mark.usefixtures("float64")

SHAPES = {"photo": (20,), "track": (5, 7), "image": (3, 8, 6)}
BRANCHES = {"photo": "vector", "track": "sequence", "image": "map"}


def inputs(batch: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(batch, *shape) for name, shape in SHAPES.items()}


def count(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


@pytest.mark.parametrize(
    ("kind", "shape", "weights"),
    [
        # Branch, `hidden` and the logits of four classes.
        (VectorNet, (20,), 20 * 64 + 64),
        (SequenceNet, (5, 7), 3 * (5 * 32 + 32 * 64 + 64 * 64) + 2 * (32 + 64 + 64)),
        (
            MapNet,
            (3, 8, 6),
            9 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 64) + 2 * (16 + 32 + 64 + 64),
        ),
    ],
)
def test_a_net_learns_the_width_of_its_input_from_the_first_batch(
    kind: type[nn.Module], shape: tuple[int, ...], weights: int
) -> None:
    net = kind(classes=4).eval()
    assert net(torch.randn(2, *shape)).shape == (2, 4)
    assert count(net) == weights + 64 * 64 + 64 + 64 * 4 + 4
    values = torch.randn(3, *shape)
    torch.testing.assert_close(net(values)[:1], net(values[:1]))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 28, 28), (3, 64, 65)])
def test_maps_of_any_size_are_possible(shape: tuple[int, ...]) -> None:
    assert MapNet(classes=2)(torch.randn(2, *shape)).shape == (2, 2)


def test_the_multimodal_net_concatenates_the_features_of_all_branches() -> None:
    net = LateFusionNet(classes=3, branches=BRANCHES).eval()
    values = inputs()
    logits = net(**dict(reversed(values.items())))
    features = [net.branches[f"of_{name}"](values[name]) for name in BRANCHES]
    assert [tuple(of.shape) for of in features] == [(4, 64)] * 3
    expected = net.logits(net.hidden(torch.cat(features, 1)).relu())
    torch.testing.assert_close(logits, expected)


def test_the_multimodal_net_can_be_cut_after_its_masked_layers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    samples, _ = make_samples(6, SHAPES)
    member = Member(
        type="mst_distill.nets.simple.LateFusionNet",
        arguments={"branches": BRANCHES},
        masked_layers=("fusion", "hidden"),
    )
    settings = Masks(epochs=1, batch_size=2, learning_rate=0.1)
    net = build_member("multimodal", member, 3, 0)
    check_members({"multimodal": net}, {"multimodal": member}, settings, samples)
    shapes = feature_shapes("multimodal", net, member.masked_layers, samples)
    assert shapes == {"fusion": (2, 192), "hidden": (2, 64)}
    masks = {of: build_mask("multimodal", of, shape, settings) for of, shape in shapes.items()}
    with caplog.at_level(logging.INFO):
        teacher = specialise("multimodal", net, masks, samples)
    assert "cannot be cut" not in caplog.text
    values = {name: torch.from_numpy(array) for name, array in samples.modalities.items()}
    logits = teacher.tails["hidden"](*teacher.trunk.compute(values))
    handle = net.hidden.register_forward_hook(lambda _module, _args, out: masks["hidden"](out))
    torch.testing.assert_close(logits, net(**values))
    handle.remove()


def test_an_unknown_branch_is_an_error() -> None:
    with pytest.raises(ValueError, match="branch of 'a' is 'grid'; it must be one of vector"):
        LateFusionNet(classes=2, branches={"a": "grid"})
