"""The validators of the catalog: conditions that the content of a dataset must satisfy."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from mst_distill.data.samples import UNLABELLED, Samples


def check_samples(samples: Samples) -> None:
    """Reject a store whose arrays and index do not match.

    Raises:
        ValueError: An array and the index differ in the number of samples, an id appears twice, or
            a label is not a class; the message names the array, id or sample.
    """
    for name, array in {**samples.modalities, "label": samples.labels}.items():
        if len(array) != len(samples):
            raise ValueError(
                f"the array {name!r} has {len(array)} samples and the index {len(samples)}: delete "
                f"the store and run `ingest` again"
            )
    _reject_repeated(samples.index, ["id"])
    allowed = {*range(len(samples.classes)), samples.ignored_label, UNLABELLED}
    found = set() if samples.dense else set(np.unique(samples.labels).tolist())
    if invalid := found - allowed:
        row = int(np.flatnonzero(samples.labels == min(invalid))[0])
        raise ValueError(
            f"sample {samples.index['id'].iloc[row]!r} has the label {min(invalid)}; there are "
            f"{len(samples.classes)} classes, from 0"
        )


def check_history(history: pd.DataFrame) -> None:
    """Reject a training history unless it has one row for each epoch, with finite metrics.

    Raises:
        ValueError: Epochs do not count from 0 (in each phase, if there are several), or a metric is
            not a finite number; the message names row and column.
    """
    _require(history, ["epoch"])
    phases = history.groupby("phase", sort=False) if "phase" in history else [("", history)]
    for phase, rows in phases:
        epochs = rows["epoch"].tolist()
        if epochs != list(range(len(epochs))):
            where = f" of the phase {phase!r}" if phase else ""
            raise ValueError(f"the epochs{where} are {epochs}: they must count from 0")
    # In an epoch without a sample for a term, as for a member that sees few, the term is missing.
    terms = [name for name in map(str, history) if re.match("train_(?!loss$)", name)]
    for name in terms:
        _reject_infinite(history.loc[history[name].notna(), [name]])
    _reject_infinite(history.drop(columns=terms))


def check_logits(table: pd.DataFrame) -> None:
    """Reject logits that are not finite, or that a sample has twice from one specialist or teacher.

    Raises:
        ValueError: The message names row and column, or sample and specialist or teacher.
    """
    model = "teacher" if "teacher" in table else "specialist"
    _require(table, ["id", model])
    _reject_repeated(table, ["id", model])
    _reject_infinite(table)


def check_predictions(predictions: pd.DataFrame) -> None:
    """Reject predictions in which models cannot be compared sample by sample.

    Raises:
        ValueError: A model has two predictions of a sample or none, a confidence is outside [0, 1],
            or a negative log-likelihood is negative or infinite; the message names model and
            sample.
    """
    _require(predictions, ["id", "group", "model", "confidence", "nll", "correct", "labelled"])
    _reject_repeated(predictions, ["id", "model"])
    all_ids = set(predictions["id"])
    ids_of = {str(model): set(rows["id"]) for model, rows in predictions.groupby("model")}
    # Teachers and specialists cannot see samples that lack a modality, and are all evaluated on the
    # same.
    teachers = {model for model in ids_of if model.endswith(" teacher") or "/" in model}
    seen = set().union(*(ids_of[model] for model in teachers))
    for model, ids in ids_of.items():
        needed = seen if model in teachers else all_ids
        if missing := sorted(needed - ids):
            raise ValueError(f"the model {model!r} has no prediction of the sample {missing[0]!r}")
    _reject_infinite(predictions)
    for column, high in (("confidence", 1), ("nll", np.inf)):
        _reject_outside(predictions, column, 0, high)
        if f"{column}_scaled" in predictions:
            _reject_outside(predictions, f"{column}_scaled", 0, high)


def check_paths(paths: pd.DataFrame) -> None:
    """Reject a table of paths in which a source has a class twice or a value is impossible.

    Raises:
        ValueError: The message names source and class, or row and column.
    """
    shares = ["accuracy", "baseline", "points"]
    _require(paths, ["source", "class", "samples", *shares, "low", "high"])
    _reject_repeated(paths, ["source", "class"])
    _reject_infinite(paths.loc[paths["samples"] > 0, shares])  # without samples they are undefined
    _reject_incomplete_intervals(paths, "low", "high")
    for column in ("accuracy", "baseline"):
        _reject_outside(paths, column, 0, 1)


def check_drift(drift: pd.DataFrame) -> None:
    """Reject a table of drift in which a sample has a source twice or a share is outside [0, 1].

    Raises:
        ValueError: The message names sample and source, or row and column.
    """
    shares = ["overlap", "by_chance"]
    _require(drift, ["id", "source", *shares])
    _reject_repeated(drift, ["id", "source"])
    _reject_infinite(drift)
    for column in shares:
        _reject_outside(drift, column, 0, 1)


def check_reliance(reliance: pd.DataFrame) -> None:
    """Reject a table of reliance in which a net has a modality twice or a value is impossible.

    Raises:
        ValueError: The message names source and modality, or row and column.
    """
    shares, costs = ["accuracy", "permuted"], ["nll", "nll_permuted"]
    intervals = [("low", "high"), ("nats_low", "nats_high")]
    numbers = [*shares, "points", *costs, "nats"]
    _require(
        reliance,
        ["source", "modality", *numbers, *(end for interval in intervals for end in interval)],
    )
    _reject_repeated(reliance, ["source", "modality"])
    _reject_infinite(reliance[numbers])
    for low, high in intervals:
        _reject_incomplete_intervals(reliance, low, high)
    for column in shares:
        _reject_outside(reliance, column, 0, 1)
    for column in costs:
        _reject_outside(reliance, column, 0, np.inf)


def check_trials(trials: pd.DataFrame) -> None:
    """Reject a table of trials in which a trial appears twice or has an impossible metric.

    Raises:
        ValueError: The message names the trial, or row and column.
    """
    _require(trials, ["title", "target", "seed", "selection", "error"])
    share = [name for name in ("labelled",) if name in trials]
    _reject_repeated(trials, [*share, "title", "target", "seed", "selection"])
    finished = trials[trials["error"] == ""]
    if len(finished):  # there are no metrics if all trials failed
        _require(finished, ["accuracy", "nll"])
        _reject_infinite(finished[["accuracy", "nll"]])
        _reject_outside(finished, "accuracy", 0, 1)
        _reject_outside(finished, "nll", 0, np.inf)
        if "nll_scaled" in finished:
            _reject_infinite(finished[["nll_scaled", "temperature"]])
            _reject_outside(finished, "nll_scaled", 0, np.inf)
            _reject_outside(finished, "temperature", 0, np.inf)


def _require(table: pd.DataFrame, columns: list[str]) -> None:
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"the column {missing[0]!r} is missing: there are {list(table.columns)}")


def _reject_repeated(table: pd.DataFrame, key: list[str]) -> None:
    repeated = table[table.duplicated(key)]
    if len(repeated):
        named = ", ".join(f"{column} {repeated[column].iloc[0]!r}" for column in key)
        raise ValueError(f"row {repeated.index[0]} repeats {named}")


def _reject_infinite(table: pd.DataFrame) -> None:
    # Column by column, so that only one is copied at a time.
    for column, values in table.select_dtypes("number").items():
        invalid = ~np.isfinite(values.to_numpy())
        if invalid.any():
            row = int(np.argmax(invalid))
            raise ValueError(
                f"row {table.index[row]} has {values.iloc[row]} in the column {column!r}; it must "
                f"be a finite number"
            )


def _reject_incomplete_intervals(table: pd.DataFrame, low: str, high: str) -> None:
    """Reject an interval with an infinite end or only one end; it may have neither end."""
    none = table[low].isna() & table[high].isna()
    _reject_infinite(table.loc[~none, [low, high]])


def _reject_outside(table: pd.DataFrame, column: str, low: float, high: float) -> None:
    outside = table[(table[column] < low) | (table[column] > high)]
    if len(outside):
        raise ValueError(
            f"row {outside.index[0]} has {outside[column].iloc[0]} in the column {column!r}; it "
            f"must lie between {low} and {high}"
        )
