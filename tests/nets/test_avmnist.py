"""The nets of AV-MNIST, in the paper's sizes and in those that a CPU trains in minutes."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

CONF = Path(__file__).parents[2] / "conf"
WEIGHTS = {
    # As the method's paper and its released implementation have them.
    ("avmnist", "multimodal"): 1_809_752,
    ("avmnist", "image"): 61_706,
    ("avmnist", "audio"): 343_562,
    # 98,240 of the audio branch, 60,856 of the image branch, 212 x 298 + 298, 298 x 10 + 10
    ("avmnist_small", "multimodal"): 225_560,
    ("avmnist_small", "image"): 61_706,
    # 8 x 9 + 8, 16 x 72 + 16, 32 x 144 + 32, 32 x 3 x 3 x 10 + 10
    ("avmnist_small", "audio"): 8_778,
}


@pytest.fixture(params=sorted(WEIGHTS), ids="-".join)
def shipped(request: pytest.FixtureRequest) -> tuple[tuple[str, str], nn.Module, list[str]]:
    """Environment and member, its net as the environment's parameters build it, masked layers."""
    environment, name = request.param
    members = yaml.safe_load((CONF / environment / "parameters.yml").read_text())["members"]
    member = {"multimodal": members["multimodal"], **members["modalities"]}[name]
    module, _, kind = member["type"].rpartition(".")
    torch.manual_seed(0)
    net = getattr(import_module(module), kind)(10, **member.get("arguments", {}))
    return request.param, net, member["masked_layers"]


def inputs_of(name: str) -> tuple[Tensor, ...]:
    inputs = {"image": torch.rand(2, 1, 28, 28), "audio": torch.rand(2, 1, 112, 112)}
    return tuple(inputs.values()) if name == "multimodal" else (inputs[name],)


def test_sizes(shipped) -> None:
    key, net, _ = shipped
    assert sum(weight.numel() for weight in net.parameters()) == WEIGHTS[key]


def test_logits_have_a_column_a_class_and_masked_layers_are_called_once(shipped) -> None:
    (_, name), net, layers = shipped
    called: list[str] = []
    for layer in layers:
        net.get_submodule(layer).register_forward_hook(lambda *_, layer=layer: called.append(layer))
    assert net(*inputs_of(name)).shape == (2, 10)
    assert called == layers


def test_a_pooled_spectrogram_is_its_average_over_squares() -> None:
    from mst_distill.nets.avmnist import ThreeLayerCNN

    torch.manual_seed(0)
    net = ThreeLayerCNN(10, width=4, pooled=4).double()
    audio = torch.rand(1, 1, 112, 112, dtype=torch.float64)
    coarse = audio.reshape(28, 4, 28, 4).mean(dim=(1, 3))
    spread = coarse.repeat_interleave(4, 0).repeat_interleave(4, 1)
    torch.testing.assert_close(net(audio), net(spread[None, None]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "pooled", "most"), [("FusionCNN", 8, 7), ("ThreeLayerCNN", 0, 14)]
)
def test_a_spectrogram_that_would_be_nothing_is_refused(kind: str, pooled: int, most: int) -> None:
    net = getattr(import_module("mst_distill.nets.avmnist"), kind)
    with pytest.raises(ValueError, match=rf"pooled is {pooled}; it must be from 1 to {most}"):
        net(10, pooled=pooled)
    assert net(10, pooled=most)(*inputs_of("multimodal" if kind == "FusionCNN" else "audio")).shape
