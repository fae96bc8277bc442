"""The nets of CrisisMMD: exact numbers of weights, and layers to which masks can be applied."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from mst_distill.nets.crisismmd import FeatureMLP, FusionMLP

PARAMETERS = Path(__file__).parents[2] / "conf" / "crisismmd" / "parameters.yml"
WEIGHTS = {"image": 2_627_080, "text": 1_316_360, "multimodal": 4_593_416}
"""The counts of the method's paper and its released implementation, for eight classes."""


@pytest.fixture(params=sorted(WEIGHTS))
def name(request: pytest.FixtureRequest) -> str:
    torch.manual_seed(0)
    return str(request.param)


def member(name: str) -> dict[str, object]:
    members = yaml.safe_load(PARAMETERS.read_text())["members"]
    return {"multimodal": members["multimodal"], **members["modalities"]}[name]


def net_of(name: str) -> nn.Module:
    net_class = FusionMLP if name == "multimodal" else FeatureMLP
    assert member(name)["type"] == f"{net_class.__module__}.{net_class.__qualname__}"
    return net_class(8, **member(name)["arguments"])


def inputs_of(name: str, batch: int = 3) -> tuple[Tensor, ...]:
    inputs = {"image": torch.randn(batch, 2048), "text": torch.randn(batch, 768)}
    return tuple(inputs.values()) if name == "multimodal" else (inputs[name],)


def test_the_nets_of_the_shipped_parameters_have_the_number_of_weights_of_the_paper(
    name: str,
) -> None:
    assert sum(weight.numel() for weight in net_of(name).parameters()) == WEIGHTS[name]


@pytest.mark.parametrize("batch", [1, 3])
def test_logits_have_one_column_for_each_class(name: str, batch: int) -> None:
    assert net_of(name)(*inputs_of(name, batch)).shape == (batch, 8)


def test_masked_layers_are_called_once_and_return_values_before_the_relu(name: str) -> None:
    net = net_of(name)
    calls: list[Tensor] = []

    def record(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        calls.append(output)

    for layer in member(name)["masked_layers"]:  # type: ignore[attr-defined]
        net.get_submodule(layer).register_forward_hook(record)
    net(*inputs_of(name))
    widths = (512, 256) if name == "multimodal" else (1024, 512)
    assert [tuple(output.shape) for output in calls] == [(3, width) for width in widths]
    assert all((output < 0).any() for output in calls)  # before their ReLU


def test_every_weight_and_every_modality_affects_the_logits(name: str) -> None:
    net, inputs = net_of(name), inputs_of(name)
    for values in inputs:
        values.requires_grad_(True)
    net(*inputs).square().sum().backward()
    for key, weight in net.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.abs().sum() > 0, key
    for values in inputs:
        assert (values.grad.abs().sum(dim=1) > 0).all()


def test_the_image_features_are_first_in_the_concatenation() -> None:
    net = FusionMLP(8, image=4, text=3)
    features: list[Tensor] = []
    net.fc1.register_forward_hook(lambda _layer, inputs, _output: features.append(inputs[0]))
    image, text = torch.randn(2, 4), torch.randn(2, 3)
    net(image, text)
    torch.testing.assert_close(features[0][:, :512], net.image.features(image))
    torch.testing.assert_close(features[0][:, 512:], net.text.features(text))


def test_the_widths_of_narrower_nets_are_halved_from_the_first_layer() -> None:
    # 1280 x 128 + 128, 128 x 64 + 64, 64 x 3 + 3
    image = FeatureMLP(3, 1280, hidden=128)
    assert sum(weight.numel() for weight in image.parameters()) == 163_968 + 8_256 + 195
    both = FusionMLP(3, 1280, 384, hidden=128)
    # The image's and the text's first two layers, 128 x 64 + 64, 64 x 32 + 32, 32 x 3 + 3
    sizes = 163_968 + 8_256 + 49_280 + 8_256 + 8_256 + 2_080 + 99
    assert sum(weight.numel() for weight in both.parameters()) == sizes
    assert both(torch.rand(2, 1280), torch.rand(2, 384)).shape == (2, 3)
