"""Model bundles: a net that is built from its JSON is equal to the net that was saved."""

from __future__ import annotations

import hashlib
import json
import os
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
    loaded = load_bundle(tmp_path / "net.json", {f"{__name__}.Tied": None}).net
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
        load_bundle(path, {"pathlib.Path": None})


@pytest.mark.parametrize(
    "kind",
    [
        "torch.nn.Linear",
        "sentence_transformers.SentenceTransformer",
        # A class of another package under the path of a module that imports it.
        "mst_distill.mst.masks.nn.Linear",
        "mst_distill.settings.ArtifactCatalog",
        "mst_distill.nets.digits.Tensor",
        "mst_distill_elsewhere.Net",
    ],
)
def test_a_bundle_of_others_builds_no_class_of_another_package(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path)
    edit(path, type=kind, arguments={"in_features": 2, "out_features": 2})
    with pytest.raises((PermissionError, ValueError, TypeError)) as error:
        load_bundle(path)
    assert not isinstance(error.value, PermissionError) or "nor in the parameters" in str(
        error.value
    )


def test_a_class_is_not_imported_before_it_is_allowed(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    path = saved(tmp_path)
    edit(path, type="trap.Net")
    with pytest.raises(PermissionError, match=r"image\.json.*"):
        load_bundle(path)
    assert not (tmp_path / "sprung").exists()


def test_a_class_of_the_parameters_is_built_with_their_arguments_only(tmp_path: Path) -> None:
    kind = f"{__name__}.Tied"
    path = tmp_path / "net.json"
    save_bundle(ModelBundle.of(Tied(4), {"classes": 4}), path)
    assert isinstance(load_bundle(path, {kind: [{}]}).net, Tied)
    assert isinstance(load_bundle(path, {kind: [{"width": 3}, {}]}).net, Tied)
    edit(path, arguments={"classes": 4, "trust_remote_code": True})
    with pytest.raises(PermissionError, match="are not those in the parameters"):
        load_bundle(path, {kind: [{}]})


def test_a_class_of_the_parameters_may_be_named_by_a_module_that_imports_it(
    tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "reexporting.py").write_text(f"from {__name__} import Tied")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "net.json"
    save_bundle(ModelBundle.of(Tied(4), {"classes": 4, "names": {"0": "a"}}), path)
    with pytest.raises(TypeError, match="names"):  # allowed, and called with these arguments
        load_bundle(path, {"reexporting.Tied": [{"names": {0: "a"}}]})


@pytest.mark.parametrize(
    "values", [{"type": 3}, {"type": ["a"]}, {"arguments": []}, {"metrics": None}]
)
def test_a_json_with_values_of_another_type_is_named(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    path = saved(tmp_path)
    edit(path, **values)
    with pytest.raises(ValueError, match=r"image\.json is not the complete JSON of a bundle"):
        load_bundle(path)


def test_a_reader_whose_weights_are_replaced_reads_again(tmp_path: Path, monkeypatch: Any) -> None:
    """A whole save takes place after the reader has read the weights."""
    path = saved(tmp_path, metrics={"value": 1.0})
    torch.manual_seed(9)
    second = ModelBundle.of(DigitImageNet(5), {"classes": 5}, metrics={"value": 2.0})
    read = Path.read_bytes

    def read_and_save(self: Path) -> bytes:
        content = read(self)
        monkeypatch.setattr(Path, "read_bytes", read)
        save_bundle(second, path)
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_save)
    assert load_bundle(path).metrics == {"value": 2.0}


def test_a_reader_during_a_save_leaves_the_files_to_the_writer(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """The reader comes after the weights were replaced, and before the JSON is."""
    path = saved(tmp_path, metrics={"value": 1.0})
    replace, read = Path.replace, []

    def replace_and_read(self: Path, target: Path) -> Path:
        result = replace(self, target)
        if target.suffix == ".safetensors":
            monkeypatch.setattr(Path, "replace", replace)
            read.append(load_bundle(path).metrics)
        return result

    monkeypatch.setattr(Path, "replace", replace_and_read)
    torch.manual_seed(9)
    save_bundle(ModelBundle.of(DigitImageNet(5), {"classes": 5}, metrics={"value": 2.0}), path)
    assert read == [{"value": 2.0}]
    assert load_bundle(path).metrics == {"value": 2.0}
    assert {file.name for file in path.parent.iterdir()} == {"image.json", "image.safetensors"}


def test_a_bundle_stays_readable_if_the_save_after_a_killed_one_fails(
    tmp_path: Path, monkeypatch: Any
) -> None:
    path = saved(tmp_path, metrics={"value": 1.0})
    replace = Path.replace

    def dying(self: Path, target: Path) -> Path:
        if target == path:
            raise KeyboardInterrupt
        return replace(self, target)

    torch.manual_seed(9)
    second = ModelBundle.of(DigitImageNet(5), {"classes": 5}, metrics={"value": 2.0})
    card = path.with_name(".image.json.pending")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dying)
        patched.setattr(Path, "unlink", lambda *_, **__: None)  # as after a kill
        with pytest.raises(KeyboardInterrupt):
            save_bundle(second, path)
    assert card.is_file()
    assert load_bundle(path).metrics == {"value": 2.0}

    def fail(state: Any, file: Path) -> None:
        raise RuntimeError("the net is on fire")

    with monkeypatch.context() as patched:
        patched.setattr("safetensors.torch.save_file", fail)
        with pytest.raises(RuntimeError, match="on fire"):
            save_bundle(second, path)
    assert load_bundle(path).metrics == {"value": 2.0}


@pytest.mark.skipif(os.name != "posix", reason="Windows makes no links without a privilege")
@pytest.mark.parametrize("name", [".image.json.pending", ".image.safetensors.pending"])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.with_name(name).symlink_to(victim)
    save_bundle(ModelBundle.of(DigitImageNet(5), {"classes": 5}), path)
    assert victim.read_text() == "precious"
    assert load_bundle(path).metrics == {}
