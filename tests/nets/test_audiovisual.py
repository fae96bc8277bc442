"""The nets for sound, video and action units, built from the parameters of their environments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from mst_distill.import_path import resolve

CONF = Path(__file__).parents[2] / "conf"
CLASSES = {"ravdess": 8, "ravdess_units": 8, "vggsound50k": 141}
SHAPES = {
    "ravdess": {"video": (3, 15, 224, 224), "audio": (15, 156)},
    "ravdess_units": {"units": (35,), "audio": (15, 156)},
    "vggsound50k": {"video": (512, 10, 7, 7), "audio": (10, 128)},
}
AUDIO_WIDTH = {"ravdess": 1280, "ravdess_units": 1280, "vggsound50k": 256}
HEAD = (320 * 160 + 160) + (160 * 8 + 8)
WEIGHTS = {
    ("ravdess", "audio"): 575_848,
    ("ravdess", "video"): 6_084_420,
    ("ravdess", "multimodal"): 6_607_300,
    ("ravdess_units", "audio"): 575_848,
    ("ravdess_units", "units"): 35 * 320 + 320 + HEAD,
    ("ravdess_units", "multimodal"): 575_848 + 35 * 320,
    ("vggsound50k", "audio"): 164_797,
    ("vggsound50k", "video"): 4_761_549,
    ("vggsound50k", "multimodal"): 4_851_965,
}
"""The counts of the nets for video and audio are those of the paper."""


@pytest.fixture(params=WEIGHTS, ids="-".join)
def member(request: pytest.FixtureRequest) -> tuple[str, str]:
    torch.manual_seed(0)
    return request.param


def make(member: tuple[str, str], classes: int | None = None) -> nn.Module:
    environment, name = member
    members = yaml.safe_load((CONF / environment / "parameters.yml").read_text())["members"]
    settings = {"multimodal": members["multimodal"], **members["modalities"]}[name]
    assert settings["masked_layers"] == ["head.fc1", "head.fc2"]
    net = resolve(settings["type"], nn.Module)
    return net(classes or CLASSES[environment], **settings.get("arguments", {}))


def inputs_of(member: tuple[str, str], batch: int = 2) -> dict[str, Tensor]:
    environment, name = member
    inputs = {key: torch.rand(batch, *shape) for key, shape in SHAPES[environment].items()}
    return inputs if name == "multimodal" else {name: inputs[name]}


def test_the_nets_have_the_number_of_weights_of_the_paper(member: tuple[str, str]) -> None:
    with torch.device("meta"):
        assert sum(weight.numel() for weight in make(member).parameters()) == WEIGHTS[member]


def test_logits_have_one_column_for_each_class(member: tuple[str, str]) -> None:
    assert make(member, 5)(**inputs_of(member)).shape == (2, 5)


def test_every_weight_and_every_modality_affects_the_logits(member: tuple[str, str]) -> None:
    net, inputs = make(member), inputs_of(member)
    for tensor in inputs.values():
        tensor.requires_grad_(True)
    net(**inputs).square().sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name
    for name, tensor in inputs.items():
        assert (tensor.grad.flatten(1).abs().sum(dim=1) > 0).all(), name


@torch.no_grad()
def test_masked_layers_are_called_once_and_return_values_before_the_relu(
    member: tuple[str, str],
) -> None:
    net, calls = make(member), []
    for layer in ("head.fc1", "head.fc2"):
        net.get_submodule(layer).register_forward_hook(lambda _, inputs, out: calls.append(out))
    net(**inputs_of(member))
    assert [call.shape for call in calls] == [(2, 320), (2, 160)]
    assert all((call < 0).any() for call in calls)


@torch.no_grad()
@pytest.mark.parametrize("environment", SHAPES)
def test_the_teacher_concatenates_the_audio_features_first(environment: str) -> None:
    member = (environment, "multimodal")
    net, inputs = make(member).eval(), inputs_of(member)
    (other,) = set(inputs) - {"audio"}
    features: list[Tensor] = []
    net.head.fc1.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    net(**inputs)
    net(**inputs | {other: torch.zeros_like(inputs[other])})
    same = (features[0] == features[1]).all(dim=0)
    assert same[: AUDIO_WIDTH[environment]].all()
    assert not same[AUDIO_WIDTH[environment] :].all()
