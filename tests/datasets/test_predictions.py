"""The files of predictions: complete tables and images of classes, or the earlier files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch import Tensor, nn

from mst_distill.artifacts.student_input import StudentInput
from mst_distill.datasets import PredictionsDataset
from mst_distill.deploy.new_samples import NewSamples
from mst_distill.deploy.prediction import PredictedBatch, Predictions
from mst_distill.deploy.predictor import Predictor
from mst_distill.media.feature_files import Features
from mst_distill.parameters import Runtime

CLASSES = ("void", "wall, painted", "floor")


class Identity(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def dense_predictions(folder: Path, count: int = 5) -> tuple[Predictions, np.ndarray]:
    """Predictions on files of random logits, and their classes; the second file is damaged."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 3, 4, 6)).astype(np.float32)
    folder.mkdir()
    for row, values in enumerate(logits):
        np.save(folder / f"room {row}.npy", values)
    (folder / "room 1.npy").write_bytes(b"no array")
    reader = Features((3, 4, 6))
    described = StudentInput("m", (3, 4, 6), True, CLASSES, 0, 1.0, "", None)
    student = Predictor(Identity(), described, reader, 0.0, Runtime(device="cpu"))
    return Predictions(student, NewSamples(str(folder), reader, "m"), 2), logits.argmax(axis=1)


def test_dense_predictions_are_images_of_classes_and_a_row_of_means(tmp_path: Path) -> None:
    predictions, expected = dense_predictions(tmp_path / "raw")
    dataset = PredictionsDataset(filepath=str(tmp_path / "predicted-new"))
    dataset.save(predictions)
    table = dataset.load()
    assert table["id"].to_list() == [f"room {row}.npy" for row in range(5)]
    assert table.loc[1, "error"].startswith(f"{tmp_path / 'raw' / 'room 1.npy'}: not a complete")
    assert table["confidence"].notna().to_list() == [True, False, True, True, True]
    images = sorted((tmp_path / "predicted-new").glob("*.png"))
    assert [file.name[:6] for file in images] == ["000000", "000002", "000003", "000004"]
    for file in images:
        with Image.open(file) as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), expected[int(file.name[:6])])
            colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(colours, axis=0)) == len(np.unique(expected[int(file.name[:6])]))
    named = json.loads((tmp_path / "predicted-new" / "classes.json").read_text())
    assert named == {"0": "void", "1": "wall, painted", "2": "floor"}
    written = pd.read_csv(tmp_path / "predicted-new" / "predictions.csv", dtype={"label": str})
    assert list(written) == list(table)


def test_an_interrupted_save_keeps_the_earlier_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions, _ = dense_predictions(tmp_path / "raw")
    dataset = PredictionsDataset(filepath=str(tmp_path / "predicted-new"))
    dataset.save(predictions)
    before = {file: file.read_bytes() for file in dataset.files()}
    batches = Predictions.batches

    def interrupted(self: Predictions) -> Iterator[PredictedBatch]:
        yield next(batches(self))
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictions, "batches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dataset.save(predictions)
    assert {file: file.read_bytes() for file in dataset.files()} == before
    assert not list(tmp_path.glob(".*"))
