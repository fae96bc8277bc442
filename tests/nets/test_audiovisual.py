"""The nets for sound, video and action units, as the parameters of their environments make them."""

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
"""Those of video and audio are the paper's."""


@pytest.fixture(params=WEIGHTS, ids="-".join)
def which(request: pytest.FixtureRequest) -> tuple[str, str]:
    torch.manual_seed(0)
    return request.param


def make(which: tuple[str, str], classes: int | None = None) -> nn.Module:
    environment, name = which
    members = yaml.safe_load((CONF / environment / "parameters.yml").read_text())["members"]
    member = {"multimodal": members["multimodal"], **members["modalities"]}[name]
    assert member["masked_layers"] == ["head.fc1", "head.fc2"]
    net = resolve(member["type"], nn.Module)
    return net(classes or CLASSES[environment], **member.get("arguments", {}))


def inputs_of(which: tuple[str, str], batch: int = 2) -> dict[str, Tensor]:
    environment, name = which
    made = {of: torch.rand(batch, *shape) for of, shape in SHAPES[environment].items()}
    return made if name == "multimodal" else {name: made[name]}


def test_the_nets_have_the_paper_s_number_of_weights(which: tuple[str, str]) -> None:
    with torch.device("meta"):
        assert sum(weight.numel() for weight in make(which).parameters()) == WEIGHTS[which]


def test_logits_have_a_column_a_class(which: tuple[str, str]) -> None:
    assert make(which, 5)(**inputs_of(which)).shape == (2, 5)


def test_every_weight_and_every_modality_reaches_the_logits(which: tuple[str, str]) -> None:
    net, inputs = make(which), inputs_of(which)
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
    which: tuple[str, str],
) -> None:
    net, calls = make(which), []
    for layer in ("head.fc1", "head.fc2"):
        net.get_submodule(layer).register_forward_hook(lambda _, given, out: calls.append(out))
    net(**inputs_of(which))
    assert [call.shape for call in calls] == [(2, 320), (2, 160)]
    assert all((call < 0).any() for call in calls)


@torch.no_grad()
@pytest.mark.parametrize("environment", SHAPES)
def test_the_teacher_puts_the_audio_first(environment: str) -> None:
    which = (environment, "multimodal")
    net, inputs = make(which).eval(), inputs_of(which)
    (other,) = set(inputs) - {"audio"}
    given: list[Tensor] = []
    net.head.fc1.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    net(**inputs)
    net(**inputs | {other: torch.zeros_like(inputs[other])})
    same = (given[0] == given[1]).all(dim=0)
    assert same[: AUDIO_WIDTH[environment]].all()
    assert not same[AUDIO_WIDTH[environment] :].all()
