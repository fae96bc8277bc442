"""The nets of RAVDESS: their size, their shapes, and the layers that get masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mst_distill.nets.ravdess import DSCNN, AudioBranchNet, UnitsDSCNN, UnitsNet, VisualBranchNet

SHAPES = {"video": (3, 15, 224, 224), "audio": (15, 156), "units": (35,)}
HEAD = (320 * 160 + 160) + (160 * 8 + 8)
NETS: dict[type[nn.Module], tuple[tuple[str, ...], int]] = {
    AudioBranchNet: (("audio",), 575_848),
    VisualBranchNet: (("video",), 6_084_420),
    DSCNN: (("video", "audio"), 6_607_300),
    UnitsNet: (("units",), 35 * 320 + 320 + HEAD),
    UnitsDSCNN: (("units", "audio"), 575_848 + 35 * 320),
}


@pytest.fixture(params=NETS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[nn.Module]:
    torch.manual_seed(0)
    return request.param


def inputs_of(kind: type[nn.Module], batch: int = 2) -> dict[str, Tensor]:
    return {name: torch.rand(batch, *SHAPES[name]) for name in NETS[kind][0]}


def test_the_nets_have_the_number_of_weights_that_they_say(kind: type[nn.Module]) -> None:
    with torch.device("meta"):
        assert sum(weight.numel() for weight in kind(8).parameters()) == NETS[kind][1]


def test_logits_have_a_column_a_class(kind: type[nn.Module]) -> None:
    assert kind(5)(**inputs_of(kind)).shape == (2, 5)


def test_every_weight_and_every_modality_reaches_the_logits(kind: type[nn.Module]) -> None:
    net, inputs = kind(8), inputs_of(kind)
    for tensor in inputs.values():
        tensor.requires_grad_(True)
    net(**inputs).square().sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name
    for name, tensor in inputs.items():
        assert (tensor.grad.flatten(1).abs().sum(dim=1) > 0).all(), name


@torch.no_grad()
def test_masked_layers_are_called_once_and_give_what_is_not_yet_rectified(
    kind: type[nn.Module],
) -> None:
    net, calls = kind(8), []
    for layer in ("head.fc1", "head.fc2"):
        net.get_submodule(layer).register_forward_hook(lambda _, given, out: calls.append(out))
    net(**inputs_of(kind))
    assert [call.shape for call in calls] == [(2, 320), (2, 160)]
    assert all((call < 0).any() for call in calls)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "other"), [(DSCNN, "video"), (UnitsDSCNN, "units")])
def test_the_teacher_puts_the_audio_first(kind: type[nn.Module], other: str) -> None:
    net, inputs = kind(8).eval(), inputs_of(kind)
    given: list[Tensor] = []
    net.head.fc1.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    net(**inputs)
    net(**inputs | {other: torch.zeros_like(inputs[other])})
    same = (given[0] == given[1]).all(dim=0)
    assert same[:1280].all()
    assert not same[1280:].all()
