"""A student in int8 against the same student in float32, on the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from mst_distill.artifacts.progress import progress
from mst_distill.artifacts.student_input import StudentInput
from mst_distill.data.samples import Samples, rows_having
from mst_distill.evaluate.accumulate import MetricAccumulator
from mst_distill.evaluate.bootstrap import Bootstrap, sampling_units
from mst_distill.evaluate.json_values import json_values
from mst_distill.evaluate.metrics import measure
from mst_distill.evaluate.verdict import nll_difference, paired_difference

CALIBRATION = 512
"""The largest number of training samples that the ranges of int8 are found on."""

LARGEST_NUMBERS = 2**26
"""The largest number of their values: 256 MiB of float32."""

BATCH, LARGEST_BATCH = 32, 2**22
"""The largest number of test samples at a time, and that of their values."""

METRICS = (
    *("accuracy", "mean_iou", "nll", "nll_scaled"),
    *("calibration_error", "calibration_error_scaled"),
)
"""The metrics in a report; ``mean_iou`` is of dense labels alone."""

Logits = Callable[[np.ndarray], np.ndarray]
"""Maps ``(n, *shape)`` to logits, with the classes along axis 1."""


def calibration_rows(
    samples: Samples, splits: pd.DataFrame, modality: str, seed: int
) -> np.ndarray:
    """Draw the training samples that int8 is calibrated on; their labels are not used.

    Args:
        samples: The store.
        splits: The run's splits.
        modality: The modality of the student, which the samples must have.
        seed: The same seed draws the same samples.

    Returns:
        At most `CALIBRATION` rows of the store, ascending; fewer if samples are so large that they
        have more than `LARGEST_NUMBERS` values.
    """
    rows = rows_having(samples, splits, "train", [modality])
    width = int(np.prod(samples.modalities[modality].shape[1:]))
    count = min(CALIBRATION, max(1, LARGEST_NUMBERS // width), len(rows))
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def compare_int8(
    samples: Samples,
    splits: pd.DataFrame,
    student: StudentInput,
    models: Mapping[str, Logits],
    bins: int,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Evaluate a student in float32 and in int8 on the test samples that have its modality.

    Args:
        samples: The store.
        splits: The run's splits.
        student: The student's input. Its temperature, fitted in float32, scales both, since both
            are delivered with it.
        models: ``float32`` and ``int8`` to their logits.
        bins: Number of calibration bins.
        bootstrap: Settings of the intervals; groups are resampled whole, see `sampling_units`.

    Returns:
        JSON values: ``samples`` (their number), ``temperature``, ``confidence`` (of the intervals),
        for each model its `METRICS` (accuracies and calibration errors in [0, 1], likelihoods in
        nats), and ``difference``, int8 minus float32: for ``accuracy``, ``nll`` and ``nll_scaled``
        its value as ``difference``, ``low`` and ``high``, None without an interval.
    """
    rows = rows_having(samples, splits, "test", [student.modality])
    units = sampling_units(splits)
    tables, report = [], {}
    for name, logits_of in models.items():
        accumulator = MetricAccumulator(
            len(student.classes),
            bins,
            student.ignored_label,
            torch.device("cpu"),
            student.temperature,
        )
        outcome = _evaluate(samples, rows, student.modality, logits_of, accumulator, name)
        index = {"id": splits["id"].iloc[rows], "group": units.iloc[rows]}
        columns = {column: values.to_numpy() for column, values in index.items()}
        tables.append(outcome.assign(model=name, **columns))
        metrics = measure(accumulator.summary(), student.classes, student.dense)
        report[name] = {metric: metrics[metric] for metric in METRICS if metric in metrics}
    predictions = pd.concat(tables, ignore_index=True)
    pair = (predictions, "int8", "float32", bootstrap)
    found: dict[str, Any] = json_values(
        {
            "samples": len(rows),
            "temperature": student.temperature,
            "confidence": bootstrap.confidence,
            **report,
            "difference": {
                "accuracy": paired_difference(*pair),
                "nll": nll_difference(*pair),
                "nll_scaled": nll_difference(*pair, "nll_scaled"),
            },
        }
    )
    return found


def _evaluate(
    samples: Samples,
    rows: np.ndarray,
    modality: str,
    logits_of: Logits,
    accumulator: MetricAccumulator,
    name: str,
) -> pd.DataFrame:
    """Add rows of the store to the counts of a model; return the outcome of each."""
    array = samples.modalities[modality]
    size = min(BATCH, max(1, LARGEST_BATCH // int(np.prod(array.shape[1:]))))
    starts = range(0, len(rows), size)
    outcomes = []
    for start in progress(starts, f"{name}, test split", "batch"):
        batch = rows[start : start + size]
        logits, label = logits_of(array[batch]), samples.labels[batch].astype(np.int64)
        outcome = accumulator.update(torch.from_numpy(logits), torch.from_numpy(label))
        outcomes.append(pd.DataFrame({key: value.numpy() for key, value in outcome.items()}))
    return pd.concat(outcomes, ignore_index=True)


def check_loss(report: Mapping[str, Any], tolerated: float) -> None:
    """Check that int8 is accurate enough.

    Args:
        report: From `compare_int8`.
        tolerated: The largest loss of accuracy against float32, in [0, 1].

    Raises:
        ValueError: The loss is larger; the message has both accuracies, the loss with its interval
            and the tolerated loss.
    """
    difference = report["difference"]["accuracy"]
    if not -difference["difference"] <= tolerated:  # a comparison with NaN is false
        raise ValueError(
            f"student_int8.onnx is less accurate than export.tolerated_loss allows, so that "
            f"nothing is exported: on {report['samples']} test samples its accuracy is "
            f"{report['int8']['accuracy']:.2%}, that of student.onnx "
            f"{report['float32']['accuracy']:.2%}. The loss is "
            f"{_points(difference, report['confidence'], sign=-1)}, and {100 * tolerated:g} points "
            f"are tolerated. Set a larger export.tolerated_loss, or leave out export.int8"
        )


def int8_sentence(report: Mapping[str, Any]) -> str:
    """Return one sentence on what int8 costs and gains.

    Args:
        report: From `compare_int8`; each model also has its ``bytes``, and ``milliseconds`` from
            `measure_latency`.
    """
    before, after = report["float32"], report["int8"]
    slow, fast = (model["milliseconds"]["1"]["median"] for model in (before, after))
    gain = _points(report["difference"]["accuracy"], report["confidence"])
    return (
        f"int8 has {after['bytes']:,} bytes instead of the {before['bytes']:,} of float32, takes "
        f"{fast:.3g} ms instead of {slow:.3g} ms for a single sample on one thread, and its "
        f"accuracy on {report['samples']} test samples is {after['accuracy']:.2%} instead of "
        f"{before['accuracy']:.2%} ({gain})."
    )


def _points(difference: Mapping[str, float | None], confidence: float, sign: int = 1) -> str:
    """Write a difference of accuracies, or with the sign -1 a loss, with its interval."""
    value, low, high = (
        None if (end := difference[name]) is None else 100 * sign * end
        for name in ("difference", "low", "high")
    )
    if low is None or high is None:
        return f"{value:+.2f} points, without an interval"
    low, high = sorted((low, high))
    return f"{value:+.2f} points, {confidence:.0%} interval {low:+.2f} to {high:+.2f}"
