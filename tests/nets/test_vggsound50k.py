"""The nets of VGGSound-50k: their size, their shapes, and the layers that get masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mst_distill.nets.vggsound50k import DSCNN, AudioBranchNet, VisualBranchNet

SHAPES = {"video": (512, 10, 7, 7), "audio": (10, 128)}
NETS: dict[type[nn.Module], tuple[tuple[str, ...], int]] = {
    AudioBranchNet: (("audio",), 164_797),
    VisualBranchNet: (("video",), 4_761_549),
    DSCNN: (("video", "audio"), 4_851_965),
}


@pytest.fixture(params=NETS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[nn.Module]:
    torch.manual_seed(0)
    return request.param


def inputs_of(kind: type[nn.Module], batch: int = 2) -> dict[str, Tensor]:
    return {name: torch.rand(batch, *SHAPES[name]) for name in NETS[kind][0]}


def test_the_nets_have_the_number_of_weights_that_they_say(kind: type[nn.Module]) -> None:
    with torch.device("meta"):
        assert sum(weight.numel() for weight in kind(141).parameters()) == NETS[kind][1]


def test_logits_have_a_column_a_class(kind: type[nn.Module]) -> None:
    assert kind(7)(**inputs_of(kind)).shape == (2, 7)


@torch.no_grad()
def test_masked_layers_are_called_once_and_give_what_is_not_yet_rectified(
    kind: type[nn.Module],
) -> None:
    net, calls = kind(141), []
    for layer in ("head.fc1", "head.fc2"):
        net.get_submodule(layer).register_forward_hook(lambda _, given, out: calls.append(out))
    net(**inputs_of(kind))
    assert [call.shape for call in calls] == [(2, 320), (2, 160)]
    assert all((call < 0).any() for call in calls)


@torch.no_grad()
def test_the_teacher_puts_the_audio_first() -> None:
    net, inputs = DSCNN(141).eval(), inputs_of(DSCNN)
    given: list[Tensor] = []
    net.head.fc1.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    net(**inputs)
    net(**inputs | {"video": torch.zeros_like(inputs["video"])})
    same = (given[0] == given[1]).all(dim=0)
    assert same[:256].all()
    assert not same[256:].all()
