"""The nets of AV-MNIST, in the sizes of the paper and in sizes that a CPU trains in minutes."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

CONF = Path(__file__).parents[2] / "conf"
WEIGHTS = {
    # The counts of the method's paper and of its released implementation.
    ("avmnist", "multimodal"): 1_809_752,
    ("avmnist", "image"): 61_706,
    ("avmnist", "audio"): 343_562,
    # 98,240 in the audio branch, 60,856 in the image branch, 212 x 298 + 298, 298 x 10 + 10
    ("avmnist_small", "multimodal"): 225_560,
    ("avmnist_small", "image"): 61_706,
    # 8 x 9 + 8, 16 x 72 + 16, 32 x 144 + 32, 32 x 3 x 3 x 10 + 10
    ("avmnist_small", "audio"): 8_778,
}


@pytest.fixture(params=sorted(WEIGHTS), ids="-".join)
def shipped(request: pytest.FixtureRequest) -> tuple[tuple[str, str], nn.Module, list[str]]:
    """Return environment and member, the net built from the parameters, and its masked layers."""
    environment, name = request.param
    members = yaml.safe_load((CONF / environment / "parameters.yml").read_text())["members"]
    member = {"multimodal": members["multimodal"], **members["modalities"]}[name]
    module, _, class_name = member["type"].rpartition(".")
    torch.manual_seed(0)
    net = getattr(import_module(module), class_name)(10, **member.get("arguments", {}))
    return request.param, net, member["masked_layers"]


def inputs_of(name: str) -> tuple[Tensor, ...]:
    inputs = {"image": torch.rand(2, 1, 28, 28), "audio": torch.rand(2, 1, 112, 112)}
    return tuple(inputs.values()) if name == "multimodal" else (inputs[name],)


def test_the_nets_have_the_expected_number_of_weights(shipped) -> None:
    key, net, _ = shipped
    assert sum(weight.numel() for weight in net.parameters()) == WEIGHTS[key]


def test_logits_have_one_column_for_each_class_and_masked_layers_are_called_once(shipped) -> None:
    (_, name), net, layers = shipped
    called: list[str] = []
    for layer in layers:
        net.get_submodule(layer).register_forward_hook(lambda *_, layer=layer: called.append(layer))
    assert net(*inputs_of(name)).shape == (2, 10)
    assert called == layers


def test_a_pooled_spectrogram_is_averaged_over_squares() -> None:
    from mst_distill.nets.avmnist import ThreeLayerCNN

    torch.manual_seed(0)
    net = ThreeLayerCNN(10, width=4, pooled=4).double()
    audio = torch.rand(1, 1, 112, 112, dtype=torch.float64)
    coarse = audio.reshape(28, 4, 28, 4).mean(dim=(1, 3))
    upsampled = coarse.repeat_interleave(4, 0).repeat_interleave(4, 1)
    torch.testing.assert_close(net(audio), net(upsampled[None, None]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("class_name", "pooled", "largest"), [("FusionCNN", 8, 7), ("ThreeLayerCNN", 0, 14)]
)
def test_pooling_that_leaves_no_spectrogram_is_an_error(
    class_name: str, pooled: int, largest: int
) -> None:
    net = getattr(import_module("mst_distill.nets.avmnist"), class_name)
    with pytest.raises(ValueError, match=rf"pooled is {pooled}; it must be from 1 to {largest}"):
        net(10, pooled=pooled)
    assert net(10, pooled=largest)(
        *inputs_of("multimodal" if class_name == "FusionCNN" else "audio")
    ).shape
