"""The small nets of the benchmark `digits`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from mst_distill.nets.digits import DigitAudioNet, DigitFusionNet, DigitImageNet

pytestmark = pytest.mark.usefixtures("float64")

PARAMETERS = Path(__file__).parents[2] / "conf" / "base" / "parameters.yml"
NETS = {"multimodal": DigitFusionNet, "image": DigitImageNet, "audio": DigitAudioNet}


def inputs_of(name: str, batch: int = 5) -> dict[str, Tensor]:
    made = {"image": torch.randn(batch, 1, 8, 8), "audio": torch.randn(batch, 13, 32)}
    return made if name == "multimodal" else {name: made[name]}


@pytest.fixture(params=sorted(NETS))
def name(request: pytest.FixtureRequest) -> str:
    torch.manual_seed(0)
    return str(request.param)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("batch", [1, 5])
def test_logits_have_a_column_a_class(name: str, classes: int, batch: int) -> None:
    assert NETS[name](classes)(**inputs_of(name, batch)).shape == (batch, classes)


def test_the_nets_have_as_many_weights_as_their_layers_say() -> None:
    image = (16 * 9 + 16) + (32 * 16 * 9 + 32) + (512 * 48 + 48)
    audio = (32 * 13 * 3 + 32) + (48 * 32 * 3 + 48) + (192 * 64 + 64) + (64 * 48 + 48)
    head = 48 * 10 + 10
    inner = 2 * (48 * 48 + 48)
    expected = {
        "image": image + head,
        "audio": audio + head,
        "multimodal": image + audio + inner + (96 * 48 + 48) + head,
    }
    found = {
        name: sum(weight.numel() for weight in net(10).parameters()) for name, net in NETS.items()
    }
    assert found == expected


def test_a_sample_s_logits_do_not_hang_on_the_batch(name: str) -> None:
    net, inputs = NETS[name](10), inputs_of(name)
    whole = net(**inputs)
    alone = torch.cat([net(**{k: v[i : i + 1] for k, v in inputs.items()}) for i in range(5)])
    torch.testing.assert_close(whole, alone, rtol=1e-10, atol=1e-12)


def test_every_weight_and_every_modality_reaches_the_logits(name: str) -> None:
    net, inputs = NETS[name](10), inputs_of(name)
    for tensor in inputs.values():
        tensor.requires_grad_(True)
    net(**inputs).square().sum().backward()
    for which, weight in net.named_parameters():
        assert weight.grad is not None, which
        assert weight.grad.abs().sum() > 0, which
    for modality, tensor in inputs.items():
        assert (tensor.grad.flatten(1).abs().sum(dim=1) > 0).all(), modality


def test_nothing_in_the_nets_is_random(name: str) -> None:
    net, inputs = NETS[name](10).train(), inputs_of(name)
    assert torch.equal(net(**inputs), net(**inputs))


def test_the_masked_layers_of_the_shipped_parameters_can_carry_masks(name: str) -> None:
    members = yaml.safe_load(PARAMETERS.read_text())["members"]
    member = {"multimodal": members["multimodal"], **members["modalities"]}[name]
    net = NETS[name](10)
    assert member["type"] == f"{type(net).__module__}.{type(net).__qualname__}"
    calls: list[tuple[int, ...]] = []

    def note(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        calls.append(tuple(output.shape))

    for layer in member["masked_layers"]:
        net.get_submodule(layer).register_forward_hook(note)
    net(**inputs_of(name))
    expected = {
        "multimodal": [(5, 96), (5, 48)],
        "image": [(5, 32, 8, 8), (5, 48)],
        "audio": [(5, 64), (5, 48)],
    }
    assert calls == expected[name]
