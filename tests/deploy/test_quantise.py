"""Quantised ONNX: how near it comes, what it keeps, what it depends on, and when it is an error."""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import toy_nets
from exports import make_export
from mst_distill.deploy.export import save_onnx
from mst_distill.deploy.predict import Student
from mst_distill.deploy.quantise import quantise


class Addition(nn.Module):
    """Has no product with weights."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.arange(classes) / 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1)[:, :3].exp() + self.shift


class Made:
    """A net, its ONNX in a folder, samples, and the quantised ONNX."""

    def __init__(self, folder: Path, net: nn.Module, arguments: dict[str, Any], **more: Any):
        self.export = make_export(net, arguments, **more)
        self.folder, self.original = folder, folder / "student.onnx"
        self.target = folder / "student_int8.onnx"
        save_onnx(self.export, self.original)
        shape = self.export.student_input.shape
        self.samples = np.random.default_rng(1).standard_normal((100, *shape)).astype(np.float32)
        quantise(self.original, self.samples, self.target)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.manual_seed(0)
    return Made(tmp_path_factory.mktemp("image"), toy_nets.Image(3), {"classes": 3})


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.manual_seed(0)
    net, more = toy_nets.Dense(3), {"modality": "depth", "shape": (1, 6, 8), "dense": True}
    return Made(tmp_path_factory.mktemp("dense"), net, {"classes": 3}, **more)


def logits_of(file: Path, tensors: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: tensors})[0]


@pytest.mark.parametrize("name", ["image", "dense"])
def test_the_logits_are_near_those_of_the_net_for_any_number_of_samples(name, request):
    made = request.getfixturevalue(name)
    for count in (1, 7, 40):
        tensors = np.random.default_rng(2).standard_normal((count, *made.samples.shape[1:]))
        tensors = tensors.astype(np.float32)
        with torch.no_grad():
            expected = made.export.student.net.eval()(torch.from_numpy(tensors)).numpy()
        found = logits_of(made.target, tensors)
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        # A value of max unpooling may move to a neighbour, which changes it wholly.
        error = np.sqrt(np.median((found - expected) ** 2))
        assert 0 < error < 0.02 * expected.std()
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95


def test_weights_have_eight_bits_of_which_seven_are_used_for_each_channel(image):
    model = onnx.load(image.target)
    onnx.checker.check_model(model, full_check=True)
    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer
    }
    quantised = {name: array for name, array in weights.items() if array.dtype == np.int8}
    net = {name: tuple(value.shape) for name, value in image.export.student.net.named_parameters()}
    for layer in ("second", "last"):
        values, scale = weights[f"{layer}.weight_quantized"], weights[f"{layer}.weight_scale"]
        assert values.shape == net[f"{layer}.weight"]
        assert scale.shape == (len(values),)
        assert np.abs(values).max() == 64
        own = image.export.student.net.get_submodule(layer).weight.detach().numpy()
        assert np.abs(values * scale[:, None] - own).max() <= scale.max() / 2 + 1e-6
    assert all(np.abs(array.astype(int)).max() <= 64 for array in quantised.values())
    assert image.target.stat().st_size < image.original.stat().st_size / 1.5


def test_it_has_the_metadata_and_the_input_of_the_original(image):
    before, after = onnx.load(image.original), onnx.load(image.target)
    assert list(after.metadata_props) == list(before.metadata_props)
    assert {entry.key for entry in after.metadata_props} >= {"classes", "temperature", "sha256"}
    for one, other in (
        (before.graph.input, after.graph.input),
        (before.graph.output, after.graph.output),
    ):
        assert [entry.name for entry in one] == [entry.name for entry in other]
        assert [entry.type for entry in one] == [entry.type for entry in other]
    assert {entry.domain for entry in after.opset_import} == {""}


def test_the_same_samples_give_the_same_bytes_and_others_do_not(image, tmp_path):
    files = [tmp_path / f"{number}.onnx" for number in range(3)]
    for file, samples in zip(files, (image.samples, image.samples, 2 * image.samples), strict=True):
        quantise(image.original, samples, file)
    again, once_more, other = (file.read_bytes() for file in files)
    assert again == once_more == image.target.read_bytes()
    assert again != other


def test_it_holds_no_path_and_no_sample(image):
    content = image.target.read_bytes()
    roots = {Path.cwd(), Path(__file__).parents[2], Path(sys.prefix), Path.home(), image.folder}
    for root in (roots | {Path(tempfile.gettempdir())}) - {Path("/")}:
        assert str(root).encode() not in content
    assert all(sample.tobytes()[:16] not in content for sample in image.samples)


def test_it_is_silent_and_leaves_no_files(image, tmp_path, capfd, caplog, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        quantise(image.original, image.samples, image.folder / "again.onnx")
        assert capfd.readouterr() == ("", "")
        logging.getLogger("mst_distill").info("logs as before")
    assert not list(tmp_path.iterdir())
    assert [record.message for record in caplog.records] == ["logs as before"]


def test_a_file_of_int8_is_used_by_the_student_of_the_folder(image):
    (image.folder / "student_input.json").write_text('{"classes": ["a", "b", "c"]}')
    tensors = image.samples[:9]
    assert np.array_equal(
        Student(image.folder, int8=True).logits(tensors), logits_of(image.target, tensors)
    )
    assert np.array_equal(Student(image.folder).logits(tensors), logits_of(image.original, tensors))


@pytest.mark.parametrize("samples", [np.zeros((0, 1, 8, 8)), np.full((2, 1, 8, 8), np.nan)])
def test_samples_that_give_no_range_are_an_error(image, tmp_path, samples):
    with pytest.raises(ValueError, match=r"student\.onnx cannot be quantised with \d samples"):
        quantise(image.original, samples.astype(np.float32), tmp_path / "int8.onnx")
    assert not list(tmp_path.iterdir())


def test_a_net_without_weights_to_quantise_is_an_error(tmp_path):
    export = make_export(Addition(3), {"classes": 3})
    save_onnx(export, tmp_path / "student.onnx")
    samples = np.zeros((4, 1, 8, 8), np.float32)
    with pytest.raises(ValueError, match=r"student\.onnx has no weights that .* it has Add, Exp"):
        quantise(tmp_path / "student.onnx", samples, tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_an_error_of_the_library_names_the_file(image, tmp_path):
    samples = np.zeros((4, 1, 9, 9), np.float32)  # of another shape than the net takes
    with pytest.raises(ValueError, match=r"student\.onnx cannot be quantised; leave out .* Got: 9"):
        quantise(image.original, samples, tmp_path / "int8.onnx")
    assert not list(tmp_path.iterdir())
