"""Students to export: a net with random weights, and the description of its input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import toy_nets
import toy_readers
from mst_distill.artifacts.bundle import ModelBundle, save_bundle
from mst_distill.artifacts.provenance import sha256_of
from mst_distill.artifacts.student_input import ReaderRecord, StudentInput
from mst_distill.deploy.export import Export, export_student
from mst_distill.media.readers import Reader


class Vector(nn.Module):
    """Vectors to class logits."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.last = nn.Linear(width, classes)

    def forward(self, vector: Tensor) -> Tensor:
        return self.last(vector)


def export_of(kind: str, folder: Path) -> tuple[nn.Module, Path]:
    """Export a student with a reader of a kind of values; for "tensors" it has none.

    Returns:
        The net, and the folder.
    """
    torch.manual_seed(0)
    if kind == "dense":
        net: nn.Module = toy_nets.Dense(3).eval()
        reader: Reader | None = toy_readers.Picture()
        export = make_export(net, {"classes": 3}, "picture", (1, 4, 6), dense=True, reader=reader)
    else:
        modality, width, reader = {
            "numbers": ("counts", 2, toy_readers.Counts()),
            "text": ("text", 4, toy_readers.Letters()),
            "path": ("sound", 4, toy_readers.Bytes()),
            "tensors": ("vector", 4, None),
        }[kind]
        if kind == "numbers":
            reader.fitted = {"largest": np.array([10.0, 20.0])}
        net = Vector(3, width)
        export = make_export(net, {"classes": 3, "width": width}, modality, (width,), reader=reader)
    export_student(export, folder)
    return net, folder


def make_export(
    net: nn.Module,
    arguments: dict[str, Any],
    modality: str = "image",
    shape: tuple[int, ...] = (1, 8, 8),
    dense: bool = False,
    reader: Reader | None = None,
    card: str = "",
) -> Export:
    """An export of a net, with classes named ``class 0`` and so on, and the temperature 0.5."""
    bundle = ModelBundle.of(net, arguments, metrics={"epoch": 1, "accuracy": 0.75, "ce": 0.5})
    with TemporaryDirectory() as folder:
        save_bundle(bundle, Path(folder, "student.json"))
        weights = sha256_of(Path(folder, "student.safetensors"))
    classes = tuple(f"class {number}" for number in range(arguments["classes"]))
    record = ReaderRecord.of(reader) if reader else None
    return Export(
        bundle,
        StudentInput(modality, shape, dense, classes, 0 if dense else None, 0.5, weights, record),
        card,
    )


def randomise_norms(net: nn.Module) -> None:
    """Give batch norms running statistics as if they had been trained; without, they are idle."""
    generator = torch.Generator().manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)


ONLY = """
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names | {"numpy", "onnxruntime"}:
            raise ImportError(f"{top} is imported")
sys.meta_path.insert(0, Only())
import runpy
file, *sys.argv[1:] = sys.argv[1:]
sys.path[0], sys.argv[0] = "", file
runpy.run_path(file, run_name="__main__")
"""
"""Runs a file in a process in which nothing can be imported but NumPy and ONNX Runtime."""


def predict(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the ``predict.py`` of an exported folder in such a process."""
    command = [sys.executable, "-c", ONLY, folder / "predict.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
