"""The student nets of all benchmarks, exported with the arguments of their configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from exports import make_export, randomise_norms
from mst_distill.deploy.export import export_student
from mst_distill.import_path import resolve

CONF = Path(__file__).parents[2] / "conf"
SHAPES = {
    ("base", "image"): (1, 8, 8),
    ("base", "audio"): (13, 32),
    ("avmnist", "image"): (1, 28, 28),
    ("avmnist", "audio"): (1, 112, 112),
    ("avmnist_small", "image"): (1, 28, 28),
    ("avmnist_small", "audio"): (1, 112, 112),
    ("ravdess", "video"): (3, 15, 32, 32),
    ("ravdess", "audio"): (15, 156),
    ("ravdess_units", "units"): (35,),
    ("ravdess_units", "audio"): (15, 156),
    ("vggsound50k", "video"): (512, 10, 7, 7),
    ("vggsound50k", "audio"): (10, 128),
    ("crisismmd", "image"): (2048,),
    ("crisismmd", "text"): (768,),
    ("nyudepthv2", "image"): (3, 64, 96),
    ("nyudepthv2", "depth"): (1, 64, 96),
}
"""Shape of the tensor of each modality; videos and images of rooms are smaller than theirs."""

SMALLER = {("ravdess", "video"): {"size": [15, 32, 32]}}
CLASSES = {"ravdess": 8, "ravdess_units": 8, "vggsound50k": 50, "crisismmd": 8, "nyudepthv2": 41}
LONG = {("nyudepthv2", "image"), ("nyudepthv2", "depth")}


def students() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Environment, modality and net of every possible student."""
    for file in sorted(CONF.glob("*/parameters.yml")):
        for modality, net in yaml.safe_load(file.read_text())["members"]["modalities"].items():
            yield file.parent.name, modality, net


def test_every_modality_of_every_benchmark_is_exported():
    assert {(environment, modality) for environment, modality, _ in students()} == set(SHAPES)


@pytest.mark.parametrize(
    ("environment", "modality", "net"),
    [
        pytest.param(*each, marks=[pytest.mark.long] if each[:2] in LONG else [])
        for each in students()
        if each[:2] not in {("avmnist_small", "image"), ("ravdess_units", "audio")}  # as another's
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_onnx_and_pt2_compute_what_the_net_computes(environment, modality, net, tmp_path):
    torch.manual_seed(0)
    arguments = {**net.get("arguments", {}), **SMALLER.get((environment, modality), {})}
    arguments |= {"classes": CLASSES.get(environment, 10)}
    student = resolve(net["type"], torch.nn.Module)(**arguments)
    randomise_norms(student)
    dense = environment == "nyudepthv2"
    export = make_export(student, arguments, modality, SHAPES[environment, modality], dense)
    check = export_student(export, tmp_path / "exported")
    assert {size[0] for size in check["inputs"]} == {1, 2, 5}
    assert check["student.pt2"] == {"difference": 0, "share_of_other_classes": 0}
    if not dense:  # see `unpools`
        assert check["student.onnx"]["difference"] < 1e-5
        assert check["student.onnx"]["share_of_other_classes"] == 0


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("VectorNet", (20,)), ("SequenceNet", (5, 7)), ("MapNet", (3, 24, 13))],
)
def test_the_default_nets_of_own_data_are_exported(kind, shape, tmp_path):
    """Their lazy layers and their pooling of odd sides have to be exported as well."""
    torch.manual_seed(0)
    student = resolve(f"mst_distill.nets.simple.{kind}", torch.nn.Module)(classes=3)
    student(torch.randn(2, *shape))  # creates the weights
    randomise_norms(student)
    check = export_student(
        make_export(student, {"classes": 3}, "image", shape), tmp_path / "exported"
    )
    assert check["student.pt2"] == {"difference": 0, "share_of_other_classes": 0}
    assert check["student.onnx"]["difference"] < 1e-5
    assert check["student.onnx"]["share_of_other_classes"] == 0
