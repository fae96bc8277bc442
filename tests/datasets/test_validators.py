"""Validators of datasets: each accepts the output of a run and rejects every single defect."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog
from kedro.validation import DataValidationError

from mst_distill.datasets.validators import (
    check_drift,
    check_history,
    check_logits,
    check_paths,
    check_predictions,
    check_reliance,
    check_samples,
    check_trials,
)
from toys import make_samples

HISTORY = pd.DataFrame(
    {"epoch": [0, 1, 0, 1], "train_loss": [3.0, 2, 2, 1], "phase": ["one", "one", "two", "two"]}
)
LOGITS = pd.DataFrame(
    {"id": ["a", "a", "b"], "split": "train", "specialist": ["x", "y", "x"], "zero": [0.5, -1, 2]}
)
PREDICTIONS = pd.DataFrame(
    {
        "id": ["a", "b", "a", "b"],
        "group": ["a", "b", "a", "b"],
        "model": ["student", "student", "baseline", "baseline"],
        "confidence": [0.5, 1.0, 0.0, 0.7],
        "confidence_scaled": [0.6, 1.0, 0.0, 0.8],
        "nll": [0.7, 0.0, 5.0, 0.1],
        "nll_scaled": [0.5, 0.0, 6.0, 0.1],
        "correct": [1, 0, 1, 1],
        "labelled": 1,
    }
)
TRIALS = pd.DataFrame(
    {
        "title": ["kd <- audio", "kd <- audio", "baseline"],
        "target": "image",
        "seed": [0, 1, 0],
        "selection": ["last", "last", "last"],
        "accuracy": [0.5, 1.0, np.nan],
        "nll": [0.7, 0.1, np.nan],
        "error": ["", "", "ZeroDivisionError"],
    }
)
PATHS = pd.DataFrame(
    {
        "source": ["audio teacher", "audio teacher", "audio/hidden"],
        "class": ["(all)", "zero", "(all)"],
        "samples": [30, 10, 30],
        "accuracy": [0.5, 1.0, 0.0],
        "baseline": [0.4, 0.9, 0.4],
        "points": [10.0, 10.0, -40.0],
        "low": [1.0, -3.0, -50.0],
        "high": [20.0, 30.0, -20.0],
    }
)
DRIFT = pd.DataFrame(
    {
        "id": ["a", "b", "a"],
        "source": ["multimodal teacher", "multimodal teacher", "multimodal/fusion"],
        "overlap": [0.0, 1.0, 0.5],
        "by_chance": [0.1, 0.2, 0.3],
    }
)
RELIANCE = pd.DataFrame(
    {
        "source": ["multimodal teacher", "multimodal teacher", "multimodal/fusion"],
        "modality": ["image", "text", "image"],
        "accuracy": [0.9, 0.9, 0.8],
        "permuted": [0.7, 0.3, 0.8],
        "points": [20.0, 60.0, 0.0],
        "low": [15.0, 55.0, np.nan],
        "high": [25.0, 65.0, np.nan],
        "nll": [0.3, 0.3, 0.5],
        "nll_permuted": [1.0, 3.0, 0.5],
        "nats": [0.7, 2.7, 0.0],
        "nats_low": [0.5, 2.0, np.nan],
        "nats_high": [1.0, 3.0, np.nan],
    }
)
TABLES = [
    (check_history, HISTORY),
    (check_history, HISTORY.assign(train_ce_audio=np.nan)),  # a member that saw no sample
    (check_logits, LOGITS),
    (check_logits, LOGITS.iloc[:0]),
    (check_predictions, PREDICTIONS),
    (check_trials, TRIALS),
    (check_trials, TRIALS.drop(columns=["accuracy", "nll"]).assign(error="failed")),
    (check_trials, TRIALS.assign(peak_bytes=[1.0, np.nan, np.nan])),
    (check_logits, LOGITS.drop(columns="split").rename(columns={"specialist": "teacher"})),
    (check_paths, PATHS),
    (check_paths, PATHS.assign(low=[1.0, np.nan, -50.0], high=[20.0, np.nan, -20.0])),
    (check_paths, PATHS.assign(samples=0, accuracy=np.nan, points=np.nan, low=np.nan, high=np.nan)),
    (check_drift, DRIFT),
    (check_reliance, RELIANCE),
    (check_reliance, RELIANCE.iloc[:0]),
]


def alter(table, row, column, value):
    table = table.copy()
    table[column] = table[column].astype(object)
    table.loc[row, column] = value
    return table.infer_objects()


@pytest.mark.parametrize(("check", "table"), TABLES)
def test_the_output_of_a_run_is_valid(check, table):
    check(table)


@pytest.mark.parametrize(
    ("check", "table", "message"),
    [
        (check_history, HISTORY.drop(columns="epoch"), "column 'epoch' is missing: there are"),
        (check_history, HISTORY.drop(index=2), r"phase 'two' are \[1\]: they must count from 0"),
        (check_history, alter(HISTORY, 1, "train_loss", np.inf), "row 1 has inf .*'train_loss'"),
        (check_history, alter(HISTORY, 1, "train_loss", np.nan), "row 1 has nan .*'train_loss'"),
        (
            check_history,
            alter(HISTORY.assign(train_kd=1.0), 1, "train_kd", np.inf),
            "row 1 has inf .*'train_kd'",
        ),
        (check_logits, alter(LOGITS, 1, "zero", np.nan), "row 1 has nan in the column 'zero'"),
        (check_logits, alter(LOGITS, 1, "specialist", "x"), "row 1 repeats id 'a', specialist 'x'"),
        (check_predictions, alter(PREDICTIONS, 0, "confidence", 1.5), "row 0 has 1.5 .*0 and 1"),
        (check_predictions, alter(PREDICTIONS, 3, "nll", -0.1), "row 3 has -0.1 .*'nll'"),
        (check_predictions, alter(PREDICTIONS, 2, "nll_scaled", -1.0), "row 2 .*'nll_scaled'"),
        (
            check_predictions,
            alter(PREDICTIONS, 1, "confidence_scaled", 1.1),
            "row 1 has 1.1 .*'confidence_scaled'",
        ),
        (check_predictions, alter(PREDICTIONS, 3, "id", "a"), "repeats id 'a', model 'baseline'"),
        (check_predictions, PREDICTIONS.drop(index=3), "'baseline' has no prediction of .*'b'"),
        (check_trials, alter(TRIALS, 1, "seed", 0), "row 1 repeats title 'kd <- audio'"),
        (check_trials, alter(TRIALS, 1, "accuracy", 50.0), "row 1 has 50.0 in .*'accuracy'"),
        (check_trials, alter(TRIALS, 1, "nll", np.nan), "row 1 has nan in the column 'nll'"),
        (check_paths, alter(PATHS, 1, "class", "(all)"), "repeats source 'audio teacher'"),
        (check_paths, alter(PATHS, 0, "accuracy", 50.0), "row 0 has 50.0 .*'accuracy'"),
        (check_paths, alter(PATHS, 2, "low", np.nan), "row 2 has nan in the column 'low'"),
        (check_paths, alter(PATHS, 1, "high", np.nan), "row 1 has nan in the column 'high'"),
        (check_paths, alter(PATHS, 1, "high", np.inf), "row 1 has inf in the column 'high'"),
        (check_paths, alter(PATHS, 1, "points", np.nan), "row 1 has nan in the column 'points'"),
        (check_paths, PATHS.drop(columns="samples"), "column 'samples' is missing"),
        (check_drift, alter(DRIFT, 1, "id", "a"), "repeats id 'a', source 'multimodal teacher'"),
        (check_drift, alter(DRIFT, 1, "overlap", 1.1), "row 1 has 1.1 in the column 'overlap'"),
        (check_drift, DRIFT.drop(columns="overlap"), "column 'overlap' is missing"),
        (check_reliance, alter(RELIANCE, 1, "modality", "image"), "repeats .* modality 'image'"),
        (check_reliance, alter(RELIANCE, 1, "permuted", 30.0), "row 1 has 30.0 .*'permuted'"),
        (check_reliance, alter(RELIANCE, 0, "nll", -0.1), "row 0 has -0.1 .*'nll'"),
        (check_reliance, alter(RELIANCE, 0, "points", np.nan), "row 0 has nan .*'points'"),
        (check_reliance, alter(RELIANCE, 0, "nats_low", np.nan), "row 0 has nan .*'nats_low'"),
        (check_reliance, RELIANCE.drop(columns="high"), "column 'high' is missing"),
    ],
)
def test_a_defect_is_named(check, table, message):
    with pytest.raises(ValueError, match=message):
        check(table)


def test_arrays_and_index_of_samples_must_match():
    samples, _ = make_samples(6)
    check_samples(samples)
    arrays = {**samples.modalities, "audio": samples.modalities["audio"][:5]}
    with pytest.raises(ValueError, match="array 'audio' has 5 samples and the index 6"):
        check_samples(dataclasses.replace(samples, modalities=arrays))
    labels = np.array([0, 1, 2, 3, 0, 1])
    with pytest.raises(ValueError, match="sample 's003' has the label 3; there are 3 classes"):
        check_samples(dataclasses.replace(samples, labels=labels))
    repeated = samples.index.assign(id="a")
    with pytest.raises(ValueError, match="row 1 repeats id 'a'"):
        check_samples(dataclasses.replace(samples, index=repeated))
    check_samples(make_samples(6, dense=(2, 2), ignored=0)[0])


def test_a_catalog_entry_is_validated_on_load_and_save(tmp_path):
    entry = {
        "type": "pandas.CSVDataset",
        "filepath": str(tmp_path / "history.csv"),
        "validator": "mst_distill.datasets.validators.check_history",
    }
    catalog = DataCatalog.from_config({"history": entry})
    catalog.save("history", HISTORY)
    with pytest.raises(DataValidationError, match="must count from 0"):
        catalog.save("history", HISTORY.iloc[1:])
    HISTORY.iloc[1:].to_csv(tmp_path / "history.csv", index=False)
    with pytest.raises(DataValidationError, match="must count from 0"):
        catalog.load("history")


def test_teachers_and_specialists_may_all_lack_the_same_samples() -> None:
    tables = [
        PREDICTIONS[PREDICTIONS["model"] == "baseline"].assign(model=model)
        for model in ("student", "baseline", "audio teacher", "audio/hidden")
    ]
    whole = pd.concat(tables, ignore_index=True)
    teachers = whole["model"].str.startswith("audio")
    check_predictions(whole[~(teachers & (whole["id"] == "b"))])
    one = (whole["model"] == "audio/hidden") & (whole["id"] == "b")
    with pytest.raises(ValueError, match="'audio/hidden' has no prediction of the sample 'b'"):
        check_predictions(whole[~one])
    students = (whole["model"] == "baseline") & (whole["id"] == "b")
    with pytest.raises(ValueError, match="'baseline' has no prediction of the sample 'b'"):
        check_predictions(whole[~students])
