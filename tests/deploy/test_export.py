"""The exported folder: what is in it, what is not, and when an export is refused."""

from __future__ import annotations

import json
import pickletools
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import toy_nets
from exports import Vector, make_export, predict
from mst_distill.artifacts.bundle import load_bundle
from mst_distill.artifacts.student_input import load_student_input
from mst_distill.deploy.check import check_export, sizes_to_check
from mst_distill.deploy.export import Export, export_student
from mst_distill.media.numbers import StandardisedNumbers
from mst_distill.parameters import Runtime
from mst_distill.training.device import prepare

FILES = {
    "README.md", "check.json", "predict.py", "student.json", "student.onnx", "student.pt2",
    "student.safetensors", "student_input.json", "student_input.safetensors",
}  # fmt: skip


class Unpooling(toy_nets.Dense):
    """Dense logits for maps of any even height and width."""

    size_multiple = 2


class Lazy(nn.Module):
    """Learns the width of its input from the first batch."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.last = nn.LazyLinear(classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(image.flatten(1))


class FixedBatch(toy_nets.Skip):
    """Works for two samples alone."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return super().forward(image.reshape(2, 1, 8, 8))


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> tuple[Export, Path]:
    """A student of images and the folder of its export."""
    torch.manual_seed(0)
    export = make_export(toy_nets.Image(3), {"classes": 3}, card="# The card\n\nIts text.\n")
    folder = tmp_path_factory.mktemp("image") / "exported"
    export_student(export, folder)
    return export, folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> tuple[Export, Path]:
    """A student of maps, with free height and width, and the folder of its export."""
    torch.manual_seed(0)
    net = Unpooling(3, channels=2)
    export = make_export(net, {"classes": 3, "channels": 2}, "depth", (2, 6, 8), dense=True)
    folder = tmp_path_factory.mktemp("dense") / "exported"
    export_student(export, folder)
    return export, folder


def test_the_folder_has_its_files_and_no_others(image):
    _, folder = image
    assert {file.name for file in folder.iterdir()} == FILES
    assert [file.name for file in folder.parent.iterdir()] == ["exported"]


def test_the_readme_is_the_card_and_what_the_files_are_for(image):
    text = (image[1] / "README.md").read_text()
    assert text.startswith("# The card\n\nIts text.\n\n## Files\n")
    assert all(name in text for name in FILES - {"README.md"})


def test_the_bundle_and_the_input_are_those_of_the_student(image):
    export, folder = image
    loaded = load_bundle(folder / "student.json", {"toy_nets.Image": None})
    expected = export.student.net.state_dict()
    assert all(value.equal(expected[name]) for name, value in loaded.net.state_dict().items())
    assert loaded.metrics == export.student.metrics
    assert load_student_input(folder / "student_input.json") == export.student_input
    assert loaded.sha256 == export.student_input.weights


def test_the_onnx_describes_its_input_and_passes_the_checker(image, dense):
    model = onnx.load(image[1] / "student.onnx")
    onnx.checker.check_model(model, full_check=True)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["modality"] == "image"
    assert properties["sha256"] == image[0].student_input.weights
    values = {name: json.loads(properties[name]) for name in ("shape", "classes", "temperature")}
    assert values == {
        "shape": [1, 8, 8],
        "classes": ["class 0", "class 1", "class 2"],
        "temperature": 0.5,
    }
    assert _sides(image[1]) == ["batch", 1, 8, 8]
    assert _sides(dense[1]) == ["batch", 2, "2*rows", "2*columns"]


def _sides(folder: Path) -> list[str | int]:
    (entry,) = onnx.load(folder / "student.onnx").graph.input
    return [side.dim_param or side.dim_value for side in entry.type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", ["image", "dense"])
def test_no_file_has_a_path_of_the_machine_or_a_pickle(name, request):
    _, folder = request.getfixturevalue(name)
    roots = {Path.cwd(), Path(__file__).parents[2], Path(sys.prefix), Path.home(), folder.parent}
    roots |= {Path(module.__file__).parents[1] for module in (torch, onnx, toy_nets)}
    for file in folder.iterdir():
        contents = {file.name: file.read_bytes()}
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                contents |= {part: archive.read(part) for part in archive.namelist()}
        for part, content in contents.items():
            for root in roots - {Path("/")}:
                assert str(root).encode() not in content, f"{part} has the path {root}"
            assert not _is_pickle(content), f"{part} is a pickle"


def _is_pickle(content: bytes) -> bool:
    """Whether all of the content can be read as a pickle, or is an archive that has one."""
    try:
        *_, last = pickletools.genops(content)
    except Exception:
        return b"data.pkl" in content
    return last[0].name == "STOP" and content[:1] == b"\x80"


def test_the_search_for_pickles_finds_those_of_torch(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "net.pt")
    assert _is_pickle((tmp_path / "net.pt").read_bytes())
    torch.save(np.float64, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert _is_pickle(__import__("pickle").dumps({"weight": 1}))


def test_a_program_of_free_size_computes_what_the_net_computes_on_other_sizes(dense):
    export, folder = dense
    tensors = torch.randn(3, 2, 10, 4)
    program = torch.export.load(folder / "student.pt2").module()
    with torch.no_grad():
        assert torch.equal(program(tensors), export.student.net.eval()(tensors))


def test_layers_that_learn_their_width_from_a_batch_are_exported(tmp_path):
    net = Lazy(4)
    net(torch.zeros(1, 1, 8, 8))
    check = export_student(make_export(net, {"classes": 4}), tmp_path / "exported")
    assert check["student.pt2"]["difference"] == 0


def test_the_net_itself_stays_as_it_is(tmp_path):
    net = toy_nets.Image(3).train()
    export_student(make_export(net, {"classes": 3}), tmp_path / "exported")
    assert net.training
    assert all(weight.requires_grad for weight in net.parameters())


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_process_that_has_trained_can_export(tmp_path, precision):
    """Training changes how CUDA rounds, and exporters of PyTorch read that setting."""
    backends: Any = torch.backends
    before = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    rounding = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    try:
        prepare(torch.device("cpu"), Runtime(precision=precision))
        while_trained = [setting.fp32_precision for setting in rounding]
        export_student(make_export(toy_nets.Skip(3), {"classes": 3}), tmp_path / "exported")
        assert [setting.fp32_precision for setting in rounding] == while_trained
        assert backends.cudnn.allow_tf32 is (precision == "tf32")
    finally:
        backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = before


def test_a_program_that_computes_something_else_is_refused(image, tmp_path):
    export, folder = image
    other = toy_nets.Image(3).eval()
    sizes = sizes_to_check((1, 8, 8), None)
    with pytest.raises(ValueError, match=r"student\.onnx of Image is not the net .* difference is"):
        check_export(other, folder, sizes, dense=False)
    check = check_export(export.student.net.eval(), folder, sizes, dense=False)
    assert check["student.onnx"]["difference"] < check["allowed"]["difference"]


def test_a_net_that_unpools_may_differ_but_not_in_its_classes(dense):
    export, folder = dense
    sizes = sizes_to_check((2, 6, 8), 2)
    assert sizes == ((1, 2, 6, 8), (2, 2, 4, 2), (5, 2, 4, 2))
    check = check_export(export.student.net.eval(), folder, sizes, dense=True)
    assert check["allowed"] == {"difference": None, "share_of_other_classes": 1e-3}
    with pytest.raises(ValueError, match="its share_of_other_classes is"):
        check_export(Unpooling(3, channels=2).eval(), folder, sizes, dense=True)


def test_not_a_number_is_not_taken_for_agreement(image):
    net = toy_nets.Image(3).eval()
    nn.init.constant_(net.last.bias, float("nan"))
    with pytest.raises(ValueError, match="difference is nan"):
        check_export(net, image[1], ((1, 1, 8, 8),), dense=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "0" * 64}, "do not belong together: the SHA-256 of the weights is"),
        ({"classes": ("a", "b")}, r"logits of the shape \(2, 3\) .* 2 classes need \(2, 2\)"),
        ({"shape": (1, 9, 9)}, r"Image does not accept the image of the shape \(1, 9, 9\)"),
        ({"dense": True}, r"3 classes need \(2, 3, 8, 8\)"),
    ],
)
def test_an_input_that_is_not_the_students_is_refused(image, tmp_path, change, message):
    other = replace(image[0], student_input=replace(image[0].student_input, **change))
    with pytest.raises(ValueError, match=message):
        export_student(other, tmp_path / "exported")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [FixedBatch, toy_nets.Untraceable])
def test_a_net_that_depends_on_values_or_on_the_batch_is_refused(tmp_path, kind):
    with pytest.raises(ValueError, match=f"the student {kind.__name__} cannot be exported"):
        export_student(make_export(kind(3), {"classes": 3}), tmp_path / "exported")


def test_an_export_that_fails_leaves_the_earlier_one(image, tmp_path):
    export, _ = image
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "student.onnx").write_text("earlier")
    wrong = replace(export, student_input=replace(export.student_input, weights="0"))
    with pytest.raises(ValueError, match="SHA-256"):
        export_student(wrong, folder)
    assert [file.name for file in tmp_path.iterdir()] == ["exported"]
    assert (folder / "student.onnx").read_text() == "earlier"


# predict.py


def test_predict_needs_numpy_and_onnxruntime_alone(image, tmp_path):
    export, folder = image
    tensors = np.random.default_rng(0).standard_normal((40, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "forty.npy", tensors)
    np.save(tmp_path / "one.npy", tensors[0])
    done = predict(folder, tmp_path / "forty.npy", tmp_path / "one.npy")
    assert done.returncode == 0, done.stderr
    header, *lines = [line.split(",") for line in done.stdout.splitlines()]
    assert header == ["file", "row", "label", "confidence", "p:class 0", "p:class 1", "p:class 2"]
    with torch.no_grad():
        logits = export.student.net.eval()(torch.from_numpy(tensors))
    expected = (logits.double() / 0.5).softmax(dim=1).numpy()
    found = np.array([line[4:] for line in lines], float)
    assert found == pytest.approx(np.vstack([expected, expected[:1]]), abs=1e-5)
    assert [line[0] for line in lines] == [str(tmp_path / "forty.npy")] * 40 + [
        str(tmp_path / "one.npy")
    ]
    assert [line[2] for line in lines[:40]] == [f"class {row}" for row in expected.argmax(axis=1)]
    assert [float(line[3]) for line in lines] == pytest.approx(found.max(axis=1))


def test_the_process_of_that_test_cannot_import_anything_else(tmp_path):
    (tmp_path / "predict.py").write_text("import pandas")
    assert "pandas is imported" in predict(tmp_path).stderr


def test_predict_writes_the_classes_of_pixels(dense, tmp_path):
    export, folder = dense
    tensors = torch.randn(2, 2, 4, 12)
    np.save(tmp_path / "maps.npy", tensors.numpy())
    done = predict(folder, tmp_path / "maps.npy")
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        logits = export.student.net.eval()(tensors)
    probabilities = (logits / 0.5).softmax(dim=1)
    confidence = probabilities.amax(dim=1).mean(dim=(1, 2), keepdim=False)[:, None]
    expected = torch.cat([confidence, probabilities.mean(dim=(2, 3))], dim=1).numpy()
    lines = [line.split(",") for line in done.stdout.splitlines()]
    assert lines[0][:5] == ["file", "row", "label", "confidence", "p:class 0"]
    assert [line[2] for line in lines[1:]] == ["", ""]
    found = np.array([line[3:] for line in lines[1:]], float)
    assert found == pytest.approx(expected, abs=1e-5)
    maps = np.load(tmp_path / "maps.classes.npy")
    assert np.array_equal(maps, logits.argmax(dim=1).numpy())


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> tuple[Export, Path, StandardisedNumbers]:
    """A student of two standardised columns, the folder of its export, and its reader."""
    torch.manual_seed(0)
    reader = StandardisedNumbers(("height in m", "weight"))
    reader.fit(np.array([[1.5, 50.0], [1.75, 70.0], [1.9, 95.0]]))
    arguments = {"classes": 3, "width": 2}
    export = make_export(Vector(**arguments), arguments, "body", (2,), reader=reader)
    folder = tmp_path_factory.mktemp("numbers") / "exported"
    export_student(export, folder)
    return export, folder, reader


def test_predict_reads_columns_of_numbers_as_the_reader_does(numbers, tmp_path):
    export, folder, reader = numbers
    (tmp_path / "new.csv").write_text(
        'weight,name,height in m\n81.25,"a, b",1.6\n,c,1.85\n12e1,d, \n', encoding="utf-8"
    )
    done = predict(folder, tmp_path / "new.csv")
    assert done.returncode == 0, done.stderr
    nan = float("nan")
    tensors = reader.read([[1.6, 81.25], [1.85, nan], [nan, 120.0]])
    with torch.no_grad():
        logits = export.student.net(torch.from_numpy(tensors)).double()
    expected = (logits / 0.5).softmax(dim=1).numpy()
    found = np.array([line.split(",")[4:] for line in done.stdout.splitlines()[1:]], float)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weight\n70\n", "new.csv: row 0 has no column 'height in m'"),
        ("height in m,weight\n1.7,60\n1.8,heavy\n", "'heavy'"),
        ("height in m,weight\n1.7,inf\n", "row 0 has an infinite number"),
    ],
)
def test_predict_names_what_is_wrong_with_a_table(numbers, tmp_path, text, message):
    (tmp_path / "new.csv").write_text(text)
    done = predict(numbers[1], tmp_path / "new.csv")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_predict_reads_no_raw_values_for_a_student_of_something_else(image, tmp_path):
    (tmp_path / "new.csv").write_text("a,b\n1,2\n")
    done = predict(image[1], tmp_path / "new.csv")
    assert "reads no raw values for no reader; it needs tensors, as .npy" in done.stderr


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 1, 8, 9)), r"(1, 8, 9); the student needs (1, 8, 8)"),
        (np.array([{}]), "Python objects in dtype"),
    ],
)
def test_predict_names_a_file_of_something_else(image, tmp_path, array, message):
    np.save(tmp_path / "other.npy", array)
    done = predict(image[1], tmp_path / "other.npy")
    assert done.returncode == 1
    assert message in done.stderr
    assert "other.npy" in done.stderr
    assert "Traceback" not in done.stderr
