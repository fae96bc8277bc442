"""`kedro run --pipeline=predict` after a finished run, on data that are not in its samples."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mst_distill.artifacts.student_input import StudentInput
from mst_distill.pipelines.predict.nodes import accuracy_threshold
from projects import FINISHED, finished_project, run_session, session_in

RUN = "digits/heldout-all/image/seed-0/main"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a finished run; only then the recordings are deleted."""
    folder = finished_project(tmp_path_factory.mktemp("predict") / "project", tmp_path_factory)
    shutil.rmtree(folder / "data/01_raw/digits")
    return folder


def predict(project: Path, source: Path, **settings: Any) -> pd.DataFrame:
    run_session(project, "predict", **FINISHED, predict={"source": str(source), **settings})
    results = project / f"data/07_model_output/{RUN}/predicted-new"
    table = pd.read_parquet(results / "predictions.parquet")
    written = pd.read_csv(
        results / "predictions.csv", dtype={"id": str, "label": str}, keep_default_na=False,
        na_values={"confidence": [""]},
    )  # fmt: skip
    assert written["label"].to_list() == table["label"].to_list()
    assert written["confidence"].to_list() == pytest.approx(
        table["confidence"].to_list(), rel=1e-5, nan_ok=True
    )
    return table


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images of scikit-learn's digits as a table."""
    from sklearn.datasets import load_digits

    file = tmp_path_factory.mktemp("pixels") / "pixels.csv"
    digits = load_digits(as_frame=True)
    digits.data.assign(id=[f"image-{row:04d}" for row in range(len(digits.data))]).to_csv(
        file, index=False
    )
    return file


def test_new_data_are_read_and_classified_as_in_the_evaluation(project: Path, pixels: Path) -> None:
    """The samples of the test split get the predictions that `evaluate` has stored for them."""
    found = predict(project, pixels).set_index("id")
    assert len(found) == 1797
    assert (found["error"] == "").all()
    with session_in(project, **FINISHED) as session:
        evaluated = session.load_context().catalog.load("predictions")
    evaluated = evaluated[evaluated["model"] == "student"]
    same = found.loc[[name.split("_")[0] for name in evaluated["id"]]]
    assert same["label"].to_list() == [str(label) for label in evaluated["prediction"]]
    assert same["confidence"].to_list() == pytest.approx(
        evaluated["confidence_scaled"].to_list(), abs=1e-5
    )
    classes = [f"p:{digit}" for digit in range(10)]
    assert found[classes].sum(axis=1).to_numpy() == pytest.approx(1)
    assert (found[classes].max(axis=1) == found["confidence"]).all()


def test_rows_with_errors_stay_in_place(project: Path, pixels: Path, tmp_path: Path) -> None:
    table = pd.read_csv(pixels, dtype=str).head(200)
    table.loc[[0, 100], "pixel_3_3"] = ["black", ""]
    table.to_csv(tmp_path / "t.csv", index=False)
    found = predict(project, tmp_path / "t.csv", batch_size=7)
    assert found["id"].to_list() == table["id"].to_list()
    damaged = found["error"] != ""
    assert found.index[damaged].to_list() == [0, 100]
    assert found["error"][0] == "the column 'pixel_3_3' is 'black', which is not a number"
    assert found["error"][100] == "it contains a pixel that is empty or not a finite number"
    assert found.loc[damaged, "label"].to_list() == ["", ""]
    assert found.loc[damaged, "confidence"].isna().all()
    assert (found.loc[~damaged, "label"] != "").all()


def test_the_student_abstains_below_a_confidence(project: Path, pixels: Path) -> None:
    least = float(predict(project, pixels)["confidence"].median())
    found = predict(project, pixels, least_confidence=least)
    np.testing.assert_array_equal(found["label"] != "", found["confidence"] >= least)


def test_the_threshold_of_a_wanted_accuracy_is_that_of_the_validation_split(
    project: Path, pixels: Path
) -> None:
    with session_in(project, **FINISHED) as session:
        valid = session.load_context().catalog.load("validation_predictions")
    wanted = float(valid["correct"].mean()) + 0.05
    found = predict(project, pixels, wanted_accuracy=wanted)
    answered = found.loc[found["label"] != "", "confidence"]
    threshold = answered.min()
    kept = valid[valid["confidence_scaled"] >= threshold - 1e-9]
    assert kept["correct"].mean() >= wanted
    assert 0 < len(answered) < len(found)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"source": None}, r"predict\.source is missing: add --params=predict\.source=PATH"),
        ({"source": "none.csv"}, r"none\.csv is neither a folder nor a table"),
    ],
)
def test_the_error_says_what_to_do_and_nothing_is_written(
    project: Path, pixels: Path, settings: dict[str, Any], rule: str
) -> None:
    name = {"name": "failed"}
    with pytest.raises(Exception, match=rule):
        run_session(
            project, "predict", **FINISHED, predict={"source": str(pixels), **name, **settings}
        )
    assert not list((project / f"data/07_model_output/{RUN}").glob("*failed*"))


def test_an_accuracy_that_no_confidence_reaches_is_an_error() -> None:
    description = StudentInput("m", (3,), False, ("a", "b"), None, 1.0, "", None)
    table = pd.DataFrame({"confidence_scaled": [0.9, 0.8, 0.7], "correct": [0, 1, 1]})
    with pytest.raises(ValueError, match=r"at no confidence: its accuracy there is 66\.7%"):
        accuracy_threshold(table, 0.7, description)
    assert accuracy_threshold(table, 0.6, description) == 0.7
    with pytest.raises(ValueError, match=r"set predict\.least_confidence"):
        accuracy_threshold(table, 0.6, replace(description, dense=True))
