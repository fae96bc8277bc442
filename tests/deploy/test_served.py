"""Tables of raw values in, tables of predictions out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from exports import export_of
from mst_distill.deploy.served import BATCH, ServedStudent

KINDS = ("numbers", "text", "path", "dense", "tensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nn.Module, Path]]:
    """Kind of value to a student of it and the folder of its export."""
    root = tmp_path_factory.mktemp("served")
    return {kind: export_of(kind, root / kind) for kind in KINDS}


def expected(net: nn.Module, tensors: list) -> np.ndarray:
    with torch.no_grad():
        logits = net(torch.tensor(np.array(tensors), dtype=torch.float32)).double()
    return (logits / 0.5).softmax(dim=1).numpy()


def test_numbers_are_read_from_columns_in_any_order(folders):
    net, folder = folders["numbers"]
    student = ServedStudent(folder, "toy_readers")
    assert student.columns == ("words", "mentions")
    table = pd.DataFrame({"mentions": [1, 4.0], "other": [0, 0], "words": [2, 6.0]})
    found = student.predict(table)
    probabilities = expected(net, [[2 / 10, 1 / 20], [6 / 10, 4 / 20]])
    assert list(found) == ["label", "confidence", "p:class 0", "p:class 1", "p:class 2", "error"]
    assert found.iloc[:, 2:5].to_numpy(float) == pytest.approx(probabilities, abs=1e-5)
    assert found["confidence"].tolist() == pytest.approx(probabilities.max(axis=1), abs=1e-5)
    assert found["label"].tolist() == [f"class {best}" for best in probabilities.argmax(axis=1)]
    assert found["error"].tolist() == ["", ""]


def test_a_row_that_cannot_be_read_has_an_error_and_the_others_their_predictions(folders):
    net, folder = folders["numbers"]
    rows = [[1.0, 2.0], [-3.0, 0.0], [5.0, 6.0]]
    table = pd.DataFrame(rows, columns=["words", "mentions"])
    found = ServedStudent(folder, "toy_readers").predict(table)
    assert found.iloc[1].tolist() == ["", None, None, None, None, "-3 is negative"]
    probabilities = expected(net, [[1 / 10, 2 / 20], [5 / 10, 6 / 20]])
    assert found.iloc[[0, 2], 2:5].to_numpy(float) == pytest.approx(probabilities, abs=1e-5)


def test_texts_are_read_and_a_missing_one_is_an_error(folders):
    net, folder = folders["text"]
    table = pd.DataFrame({"text": ["banana", None, "aerie"]})
    found = ServedStudent(folder, "toy_readers").predict(table)
    assert found["error"].tolist() == ["", "the text is missing", ""]
    probabilities = expected(net, [[3, 0, 0, 0], [1, 2, 1, 0]])
    assert found.iloc[[0, 2], 2:5].to_numpy(float) == pytest.approx(probabilities, abs=1e-5)


def test_a_file_is_sent_as_its_content_and_no_path_of_the_server_is_shown(folders):
    net, folder = folders["path"]
    table = pd.DataFrame({"sound": [bytes([0, 255, 0, 255]), b"ab", b"/etc/passwd"]})
    found = ServedStudent(folder, "toy_readers").predict(table)
    assert found["error"].tolist() == ["", "sound: it has 2 bytes of 4", ""]
    tensors = [[0, 1, 0, 1], np.frombuffer(b"/etc", np.uint8) / 255]
    probabilities = expected(net, tensors)
    assert found.iloc[[0, 2], 2:5].to_numpy(float) == pytest.approx(probabilities, abs=1e-5)


def test_values_below_the_least_confidence_have_probabilities_but_no_label(folders):
    _, folder = folders["text"]
    student = ServedStudent(folder, "toy_readers")
    table = pd.DataFrame({"text": ["", "aaaaaaaa", "eeee"]})
    all_labelled = student.predict(table)
    confidence = all_labelled["confidence"].astype(float)
    threshold = float(np.median(confidence))
    found = student.predict(table, least_confidence=threshold)
    assert (found["label"] != "").tolist() == (confidence >= threshold).tolist()
    pd.testing.assert_frame_equal(found.drop(columns="label"), all_labelled.drop(columns="label"))


def test_no_rows_have_no_answers(folders):
    _, folder = folders["text"]
    student = ServedStudent(folder, "toy_readers")
    found = student.predict(pd.DataFrame({"text": []}))
    assert (len(found), tuple(found)) == (0, student.outputs)


def test_more_rows_than_a_batch_keep_their_order(folders):
    _, folder = folders["text"]
    texts = ["a" * (number % 7) + "o" * (number % 5) for number in range(BATCH + 3)]
    student = ServedStudent(folder, "toy_readers")
    together = student.predict(pd.DataFrame({"text": texts}))
    for number in (0, BATCH - 1, BATCH, BATCH + 2):
        alone = student.predict(pd.DataFrame({"text": [texts[number]]}))
        row = together.iloc[number, 1:5].to_numpy(float)
        assert row == pytest.approx(alone.iloc[0, 1:5].to_numpy(float), abs=1e-6)


def test_a_student_of_pixels_labels_every_pixel(folders):
    net, folder = folders["dense"]
    content = bytes(np.random.default_rng(0).integers(0, 256, 24).tolist())
    found = ServedStudent(folder, "toy_readers").predict(pd.DataFrame({"picture": [content]}))
    probability = [f"p:class {number}" for number in range(3)]
    assert list(found) == ["label", "pixels", "confidence", *probability, "error"]
    pixels = np.frombuffer(content, np.uint8).reshape(1, 1, 4, 6)
    probabilities = expected(net, pixels)
    assert found["label"][0] == ""
    assert found["pixels"][0] == probabilities[0].argmax(axis=0).tolist()
    means = probabilities[0].mean(axis=(1, 2))
    assert found.loc[0, probability].to_numpy(float) == pytest.approx(means, abs=1e-4)
    assert found["confidence"][0] == pytest.approx(probabilities.max(axis=1).mean(), abs=1e-4)


def test_a_student_without_a_reader_takes_tensors(folders):
    net, folder = folders["tensors"]
    student = ServedStudent(folder)
    assert student.takes is None
    tensors = np.random.default_rng(0).standard_normal((3, 4))
    found = student.predict({"vector": tensors})
    assert found.iloc[:, 2:5].to_numpy(float) == pytest.approx(expected(net, tensors), abs=1e-5)
    with pytest.raises(ValueError, match=r"the shape \(5,\); the student needs \(4,\)"):
        student.predict({"vector": np.zeros((2, 5))})


def test_a_reader_of_a_package_that_is_not_trusted_is_not_imported(folders):
    _, folder = folders["text"]
    with pytest.raises(PermissionError, match=r"toy_readers\.Letters"):
        ServedStudent(folder, "mst_distill.benchmarks.digits.Digits")


def test_the_server_does_not_load_torch():
    code = "import sys, mst_distill.deploy.served as _; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
