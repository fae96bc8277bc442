"""Model bundles: a net that is built from its JSON is equal to the net that was saved."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mst_distill.artifacts.bundle import ModelBundle, load_bundle, save_bundle
from mst_distill.nets.digits import DigitFusionNet, DigitImageNet


class Tied(nn.Module):
    """An auto-encoder whose two layers share one weight."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(classes, classes)
        self.norm = nn.BatchNorm1d(classes)
        self.second = nn.Linear(classes, classes)
        self.second.weight = self.first.weight

    def forward(self, values: Tensor) -> Tensor:
        return self.second(self.norm(self.first(values)))


def saved(tmp_path: Path, **details: Any) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "members" / "image.json"
    save_bundle(ModelBundle.of(DigitImageNet(5), {"classes": 5}, **details), path)
    return path


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_loaded_bundle_equals_the_saved_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = DigitFusionNet(5)
    path = tmp_path / "deep" / "folder" / "multimodal.json"
    details = {"metrics": {"accuracy": 0.1 + 0.2}, "provenance": {"seed": 3, "git": "abc"}}
    save_bundle(ModelBundle.of(net, {"classes": 5}, **details), path)
    torch.manual_seed(1)
    loaded = load_bundle(path)
    assert isinstance(loaded.net, DigitFusionNet)
    assert not loaded.net.training
    assert loaded.type == "mst_distill.nets.digits.DigitFusionNet"
    assert loaded.arguments == {"classes": 5}
    assert loaded.metrics == details["metrics"]
    assert loaded.provenance == details["provenance"]
    for name, tensor in net.state_dict().items():
        assert torch.equal(loaded.net.state_dict()[name], tensor), name
    inputs = {"image": torch.randn(4, 1, 8, 8), "audio": torch.randn(4, 13, 32)}
    with torch.no_grad():
        assert torch.equal(loaded.net(**inputs), net.eval()(**inputs))


def test_the_json_describes_the_weights(tmp_path: Path) -> None:
    path = saved(tmp_path)
    card = json.loads(path.read_text())
    weights = path.with_name(card["weights"]["file"])
    assert weights.name == "image.safetensors"
    assert card["weights"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    # Two 3 x 3 convolutions, 1 to 16 and 16 to 32, then 512 to 48 and 48 to 5.
    expected = 16 * 9 + 16 + 32 * 16 * 9 + 32 + 512 * 48 + 48 + 48 * 5 + 5
    assert card["parameters"] == expected
    assert card["layers"] == [
        "features",
        *(f"features.{layer}" for layer in range(6)),
        "hidden",
        "logits",
    ]


def test_saving_changes_neither_the_net_nor_its_mode(tmp_path: Path) -> None:
    net = Tied(4).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    save_bundle(ModelBundle.of(net, {"classes": 4}), tmp_path / "net.json")
    assert net.training
    assert net.second.weight is net.first.weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_tied_weights_are_tied_after_loading(tmp_path: Path) -> None:
    torch.manual_seed(2)
    net = Tied(4)
    net(torch.randn(8, 4))
    save_bundle(ModelBundle.of(net, {"classes": 4}), tmp_path / "net.json")
    loaded = load_bundle(tmp_path / "net.json").net
    assert isinstance(loaded, Tied)
    assert loaded.second.weight is loaded.first.weight
    assert torch.equal(loaded.first.weight, net.first.weight)
    assert torch.equal(loaded.norm.running_mean, net.norm.running_mean)
    assert loaded.norm.num_batches_tracked == 1
    # One 4 x 4 weight, two biases of 4, scale and shift of 4.
    assert json.loads((tmp_path / "net.json").read_text())["parameters"] == 16 + 8 + 8


def test_saving_replaces_a_bundle_as_a_whole(tmp_path: Path) -> None:
    path = saved(tmp_path, metrics={"accuracy": 0.5})
    net = DigitImageNet(7)
    save_bundle(ModelBundle.of(net, {"classes": 7}), path)
    loaded = load_bundle(path)
    assert loaded.metrics == {}
    assert torch.equal(loaded.net.state_dict()["logits.bias"], net.logits.bias)


def test_tampered_weights_are_rejected(tmp_path: Path) -> None:
    path = saved(tmp_path)
    weights = path.with_suffix(".safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(
        ValueError, match=f"SHA-256 {found} differs from the one in image.json"
    ) as error:
        load_bundle(path)
    assert str(weights) in str(error.value)


def test_weights_of_another_bundle_are_rejected(tmp_path: Path) -> None:
    path = saved(tmp_path)
    other = tmp_path / "other.json"
    save_bundle(ModelBundle.of(DigitImageNet(5), {"classes": 5}), other)
    other.with_suffix(".safetensors").rename(path.with_suffix(".safetensors"))
    with pytest.raises(ValueError, match=r"differs from the one in image\.json"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("values", "kind", "layer"),
    [
        ({"arguments": {"classes": 6}}, "DigitImageNet", "logits.weight"),
        ({"type": "mst_distill.nets.digits.DigitAudioNet"}, "DigitAudioNet", "dense.weight"),
    ],
)
def test_weights_that_do_not_fit_the_class_are_rejected(
    tmp_path: Path, values: dict[str, Any], kind: str, layer: str
) -> None:
    path = saved(tmp_path)
    edit(path, **values)
    with pytest.raises(ValueError, match=f"does not fit mst_distill.nets.digits.{kind}") as error:
        load_bundle(path)
    assert "image.safetensors" in str(error.value)
    assert layer in str(error.value)


def test_a_class_that_is_not_a_net_is_rejected(tmp_path: Path) -> None:
    path = saved(tmp_path)
    edit(path, type="mst_distill.nets.digits.DigitImageNets")
    with pytest.raises(ValueError, match="did you mean 'DigitImageNet'"):
        load_bundle(path)
    edit(path, type="pathlib.Path")
    with pytest.raises(TypeError, match=r"'pathlib.Path' must be derived from torch.*Module"):
        load_bundle(path)
