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
    inputs = {"image": torch.randn(batch, 1, 8, 8), "audio": torch.randn(batch, 13, 32)}
    return inputs if name == "multimodal" else {name: inputs[name]}


@pytest.fixture(params=sorted(NETS))
def name(request: pytest.FixtureRequest) -> str:
    torch.manual_seed(0)
    return str(request.param)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("batch", [1, 5])
def test_logits_have_one_column_for_each_class(name: str, classes: int, batch: int) -> None:
    assert NETS[name](classes)(**inputs_of(name, batch)).shape == (batch, classes)


def test_the_nets_have_the_number_of_weights_of_their_layers() -> None:
    image = (16 * 9 + 16) + (32 * 16 * 9 + 32) + (512 * 48 + 48)
    audio = (32 * 13 * 3 + 32) + (48 * 32 * 3 + 48) + (192 * 64 + 64) + (64 * 48 + 48)
    head = 48 * 10 + 10
    features = 2 * (48 * 48 + 48)
    expected = {
        "image": image + head,
        "audio": audio + head,
        "multimodal": image + audio + features + (96 * 48 + 48) + head,
    }
    found = {
        name: sum(weight.numel() for weight in net(10).parameters()) for name, net in NETS.items()
    }
    assert found == expected


def test_the_logits_of_a_sample_do_not_depend_on_the_batch(name: str) -> None:
    net, inputs = NETS[name](10), inputs_of(name)
    together = net(**inputs)
    alone = torch.cat([net(**{k: v[i : i + 1] for k, v in inputs.items()}) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


def test_every_weight_and_every_modality_affects_the_logits(name: str) -> None:
    net, inputs = NETS[name](10), inputs_of(name)
    for tensor in inputs.values():
        tensor.requires_grad_(True)
    net(**inputs).square().sum().backward()
    for key, weight in net.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.abs().sum() > 0, key
    for modality, tensor in inputs.items():
        assert (tensor.grad.flatten(1).abs().sum(dim=1) > 0).all(), modality


def test_the_nets_are_deterministic_in_training_mode(name: str) -> None:
    net, inputs = NETS[name](10).train(), inputs_of(name)
    assert torch.equal(net(**inputs), net(**inputs))


def test_masks_can_be_applied_to_the_masked_layers_of_the_shipped_parameters(name: str) -> None:
    members = yaml.safe_load(PARAMETERS.read_text())["members"]
    member = {"multimodal": members["multimodal"], **members["modalities"]}[name]
    net = NETS[name](10)
    assert member["type"] == f"{type(net).__module__}.{type(net).__qualname__}"
    calls: list[tuple[int, ...]] = []

    def record(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        calls.append(tuple(output.shape))

    for layer in member["masked_layers"]:
        net.get_submodule(layer).register_forward_hook(record)
    net(**inputs_of(name))
    expected = {
        "multimodal": [(5, 96), (5, 48)],
        "image": [(5, 32, 8, 8), (5, 48)],
        "audio": [(5, 64), (5, 48)],
    }
    assert calls == expected[name]
