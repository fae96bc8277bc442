"""What a dataset must always satisfy, whoever wrote it: the catalog's validators."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mst_distill.data.samples import Samples


def check_samples(samples: Samples) -> None:
    """Refuse a store whose parts do not belong together.

    Raises:
        ValueError: An array has other samples than the index, an id appears twice, or a label is
            no class; the message names it.
    """
    for name, array in {**samples.modalities, "label": samples.labels}.items():
        if len(array) != len(samples):
            raise ValueError(
                f"the array {name!r} has {len(array)} samples and the index {len(samples)}: delete "
                f"the store and run `ingest` again"
            )
    _refuse_twice(samples.index, ["id"])
    allowed = {*range(len(samples.classes)), samples.ignored_label}
    found = set() if samples.dense else set(np.unique(samples.labels).tolist())
    if strange := found - allowed:
        row = int(np.flatnonzero(samples.labels == min(strange))[0])
        raise ValueError(
            f"sample {samples.index['id'].iloc[row]!r} has the label {min(strange)}; there are "
            f"{len(samples.classes)} classes, from 0"
        )


def check_history(history: pd.DataFrame) -> None:
    """Refuse a history that is no training's: an epoch a row, each with finite figures.

    Raises:
        ValueError: Epochs do not count from 0, of each phase if there are several, or a figure is
            no finite number; the message names row and column.
    """
    _require(history, ["epoch"])
    phases = history.groupby("phase", sort=False) if "phase" in history else [("", history)]
    for phase, rows in phases:
        epochs = rows["epoch"].tolist()
        if epochs != list(range(len(epochs))):
            where = f" of the phase {phase!r}" if phase else ""
            raise ValueError(f"the epochs{where} are {epochs}: they must count from 0")
    _refuse_infinite(history)


def check_logits(table: pd.DataFrame) -> None:
    """Refuse logits that are no numbers, or that somebody has twice for a sample.

    Raises:
        ValueError: The message names row and column, or sample and specialist or teacher.
    """
    who = "teacher" if "teacher" in table else "specialist"
    _require(table, ["id", who])
    _refuse_twice(table, ["id", who])
    _refuse_infinite(table)


def check_predictions(predictions: pd.DataFrame) -> None:
    """Refuse predictions that do not let models be compared sample by sample.

    Raises:
        ValueError: A model has a sample twice or not at all, a confidence is outside [0, 1], or a
            negative log likelihood is negative or infinite; the message names model and sample.
    """
    _require(predictions, ["id", "model", "confidence", "nll", "correct", "judged"])
    _refuse_twice(predictions, ["id", "model"])
    everybody = set(predictions["id"])
    for model, rows in predictions.groupby("model"):
        if missing := sorted(everybody - set(rows["id"])):
            raise ValueError(f"the model {model!r} has no prediction of the sample {missing[0]!r}")
    _refuse_infinite(predictions)
    _refuse_outside(predictions, "confidence", 0, 1)
    _refuse_outside(predictions, "nll", 0, np.inf)


def check_paths(paths: pd.DataFrame) -> None:
    """Refuse a table of paths in which a source has a class twice or an impossible figure.

    Raises:
        ValueError: The message names source and class, or row and column.
    """
    shares = ["accuracy", "control", "points"]
    _require(paths, ["source", "class", "samples", *shares, "low", "high"])
    _refuse_twice(paths, ["source", "class"])
    _refuse_infinite(paths.loc[paths["samples"] > 0, shares])  # of no sample there are none
    _refuse_half_intervals(paths, "low", "high")
    for column in ("accuracy", "control"):
        _refuse_outside(paths, column, 0, 1)


def check_drift(drift: pd.DataFrame) -> None:
    """Refuse a table of drift that has a source twice for a sample, or a share outside [0, 1].

    Raises:
        ValueError: The message names sample and source, or row and column.
    """
    shares = ["overlap", "by_chance"]
    _require(drift, ["id", "source", *shares])
    _refuse_twice(drift, ["id", "source"])
    _refuse_infinite(drift)
    for column in shares:
        _refuse_outside(drift, column, 0, 1)


def check_reliance(reliance: pd.DataFrame) -> None:
    """Refuse a table of reliance that has a net and modality twice, or an impossible figure.

    Raises:
        ValueError: The message names source and modality, or row and column.
    """
    shares, costs = ["accuracy", "permuted"], ["nll", "nll_permuted"]
    ends = [("low", "high"), ("nats_low", "nats_high")]
    figures = [*shares, "points", *costs, "nats"]
    _require(reliance, ["source", "modality", *figures, *(end for pair in ends for end in pair)])
    _refuse_twice(reliance, ["source", "modality"])
    _refuse_infinite(reliance[figures])
    for low, high in ends:
        _refuse_half_intervals(reliance, low, high)
    for column in shares:
        _refuse_outside(reliance, column, 0, 1)
    for column in costs:
        _refuse_outside(reliance, column, 0, np.inf)


def check_trials(trials: pd.DataFrame) -> None:
    """Refuse a table of trials in which one is told twice or has an impossible figure.

    Raises:
        ValueError: The message names the trial, or row and column.
    """
    _require(trials, ["title", "target", "seed", "rule", "error"])
    _refuse_twice(trials, ["title", "target", "seed", "rule"])
    finished = trials[trials["error"] == ""]
    if len(finished):  # where all died there are no figures
        _require(finished, ["accuracy", "nll"])
        _refuse_infinite(finished[["accuracy", "nll"]])
        _refuse_outside(finished, "accuracy", 0, 1)
        _refuse_outside(finished, "nll", 0, np.inf)


def _require(table: pd.DataFrame, columns: list[str]) -> None:
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"the column {missing[0]!r} is missing: there are {list(table.columns)}")


def _refuse_twice(table: pd.DataFrame, key: list[str]) -> None:
    twice = table[table.duplicated(key)]
    if len(twice):
        named = ", ".join(f"{column} {twice[column].iloc[0]!r}" for column in key)
        raise ValueError(f"row {twice.index[0]} repeats {named}")


def _refuse_infinite(table: pd.DataFrame) -> None:
    for column, values in table.select_dtypes("number").items():  # a copy of one at a time
        strange = ~np.isfinite(values.to_numpy())
        if strange.any():
            row = int(np.argmax(strange))
            raise ValueError(
                f"row {table.index[row]} has {values.iloc[row]} in the column {column!r}; it must "
                f"be a finite number"
            )


def _refuse_half_intervals(table: pd.DataFrame, low: str, high: str) -> None:
    """Refuse an interval that has an infinite end, or one end alone; it may have none."""
    none = table[low].isna() & table[high].isna()
    _refuse_infinite(table.loc[~none, [low, high]])


def _refuse_outside(table: pd.DataFrame, column: str, low: float, high: float) -> None:
    outside = table[(table[column] < low) | (table[column] > high)]
    if len(outside):
        raise ValueError(
            f"row {outside.index[0]} has {outside[column].iloc[0]} in the column {column!r}; it "
            f"must lie between {low} and {high}"
        )
