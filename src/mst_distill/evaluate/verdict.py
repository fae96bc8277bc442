"""Paired comparison of student and baseline: differences, bootstrap intervals, sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.evaluate.accumulate import TERMS
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.json_values import json_values
from mst_distill.metric import ACCURACY, Metric


def comparison_report(
    predictions: pd.DataFrame,
    models: Mapping[str, Mapping[str, Any]],
    pairs: Mapping[str, str],
    bootstrap: Bootstrap,
    bins: int | None,
    target: str,
    metric: Metric = ACCURACY,
) -> dict[str, Any]:
    """Compare students with baselines on the same samples.

    Args:
        predictions: One row for each sample and model, from `evaluate_models`.
        models: Model name to its metrics, from `measure`.
        pairs: Student name to the name of its baseline; ``student`` is selected by the run's own
            criterion.
        bootstrap: Settings of the intervals.
        bins: Number of calibration bins, or None for dense labels. Dense predictions have no
            confidence for each pixel, so the difference of their calibration errors has no
            interval.
        target: The modality of the students.
        metric: The metric that decides.

    Returns:
        JSON values: ``verdict``, the sentences on ``student``, and for every student
        ``gain_over_baseline`` (by the metric), ``nll_over_baseline``, ``nll_scaled_over_baseline``
        (both with their own temperature) and ``calibration_over_baseline``.
    """
    gains = {
        student: paired_difference(predictions, student, baseline, bootstrap, metric)
        for student, baseline in pairs.items()
    }
    nll, scaled = (
        {
            student: nll_difference(predictions, student, baseline, bootstrap, column)
            for student, baseline in pairs.items()
        }
        for column in ("nll", "nll_scaled")
    )
    errors = {
        student: {
            "difference": models[student]["calibration_error"]
            - models[baseline]["calibration_error"]
        }
        if bins is None
        else calibration_difference(predictions, student, baseline, bins, bootstrap)
        for student, baseline in pairs.items()
    }
    confidence = bootstrap.confidence
    sentences = [
        verdict(gains["student"], target, confidence, metric),
        *remarks(nll["student"], scaled["student"], errors["student"], confidence),
    ]
    report: dict[str, Any] = json_values(
        {
            "verdict": " ".join(sentences),
            "gain_over_baseline": gains,
            "nll_over_baseline": nll,
            "nll_scaled_over_baseline": scaled,
            "calibration_over_baseline": errors,
        }
    )
    return report


def paired_difference(
    predictions: pd.DataFrame,
    first: str,
    second: str,
    bootstrap: Bootstrap,
    metric: Metric = ACCURACY,
) -> dict[str, float]:
    """Return the metric of `first` minus that of `second` on the same samples.

    Args:
        predictions: One row for each sample and model: ``id``, ``model``, ``correct``,
            ``labelled`` and ``group``, whose samples are resampled together, and `TERMS` for
            another metric than the accuracy.
        first: A model's name.
        second: Another model's name.
        bootstrap: Settings of the interval.
        metric: The metric.

    Returns:
        ``difference``, ``low`` and ``high`` (accuracy: 1 = 100 points). Without an interval (see
        `Bootstrap.interval`) ``low`` and ``high`` are NaN.
    """
    one, other = _on_same_samples(predictions, first, second)
    if metric.values is not None:
        terms = [np.stack(list(of[TERMS])) for of in (one, other)]
        groups, value = one["group"].to_numpy(), metric.value(terms[0]) - metric.value(terms[1])
        draws = [bootstrap.values(metric.values, of, groups) for of in terms]
        found = bootstrap.interval(value, draws[0] - draws[1])
        return {"difference": found.pop("value"), **found}
    gain = (one["correct"] - other["correct"]).to_numpy(dtype=float)
    labelled = one["labelled"].to_numpy(dtype=float)
    found = bootstrap.mean(gain, labelled, one["group"].to_numpy())
    return {"difference": found.pop("value"), **found}


def nll_difference(
    predictions: pd.DataFrame, first: str, second: str, bootstrap: Bootstrap, column: str = "nll"
) -> dict[str, float]:
    """Return the negative log-likelihood of `first` minus that of `second` on the same samples.

    Args:
        predictions: As in `paired_difference`, with the `column`, for dense labels the mean over
            the labelled pixels of the sample.
        first: A model's name.
        second: Another model's name.
        bootstrap: Settings of the interval.
        column: ``nll``, or ``nll_scaled`` for the likelihood after temperature scaling. The
            interval holds for the temperatures as they were fitted.

    Returns:
        ``difference``, ``low`` and ``high``, in nats; above 0 means that `first` is worse.
    """
    one, other = _on_same_samples(predictions, first, second)
    labelled = one["labelled"].to_numpy(dtype=float)
    difference = (one[column] - other[column]).to_numpy(dtype=float) * labelled
    found = bootstrap.mean(difference, labelled, one["group"].to_numpy())
    return {"difference": found.pop("value"), **found}


def calibration_difference(
    predictions: pd.DataFrame, first: str, second: str, bins: int, bootstrap: Bootstrap
) -> dict[str, float]:
    """Return the calibration error of `first` minus that of `second`, for one label per sample.

    The expected calibration error is biased upwards, and more so for a less confident model: even
    two calibrated models can appear to differ. The interval is therefore that of the unbiased
    squared error over the same bins (Kumar, Liang and Ma, "Verified Uncertainty Calibration",
    NeurIPS 2019): the sum over the bins b of n_b / n (m_b^2 - s_b^2 / n_b), where m_b and s_b are
    the mean and the standard deviation of correct - confidence in a bin of n_b samples. Resamples
    are biased again, so their values are shifted until their mean is the value on all samples.

    Args:
        predictions: As in `paired_difference`, with ``confidence``.
        first: A model's name.
        second: Another model's name.
        bins: Number of bins, of equal width over the confidence in [0, 1].
        bootstrap: Settings of the interval.

    Returns:
        ``difference``, between the expected calibration errors (1 = 100 points), and ``squared``,
        between the squared errors, with ``low`` and ``high``. Above 0 `first` is worse.
    """
    pair = _on_same_samples(predictions, first, second)
    columns = np.hstack([_gaps_by_bin(model, bins) for model in pair])
    count = len(columns)
    sums_of_all, sums_of_draws = (
        columns.sum(axis=0, keepdims=True),
        count * bootstrap.means(columns, np.ones(count), pair[0]["group"].to_numpy()),
    )
    value, drawn = (_squared_difference(sums, count) for sums in (sums_of_all, sums_of_draws))
    squared = bootstrap.interval(value[0], drawn - drawn.mean() + value[0])
    errors = [np.abs(sums[:, :bins]).sum() / count for sums in np.split(sums_of_all, 2, axis=1)]
    return {
        "difference": float(errors[0] - errors[1]),
        "squared": squared["value"],
        "low": squared["low"],
        "high": squared["high"],
    }


def metric_value(rows: pd.DataFrame, metric: Metric = ACCURACY) -> float:
    """Return the metric of a model.

    Args:
        rows: The predictions of the model, as in `paired_difference`.
        metric: The metric.

    Raises:
        ValueError: The metric is not defined, see `Metric.value`.
    """
    if metric.values is not None:
        return metric.value(np.stack(list(rows[TERMS])))
    return float(rows["correct"].sum() / rows["labelled"].sum())


def metric_interval(
    rows: pd.DataFrame, bootstrap: Bootstrap, metric: Metric = ACCURACY
) -> dict[str, float]:
    """Return the metric of a model with its interval: ``value``, ``low`` and ``high``.

    Args:
        rows: The predictions of the model, as in `paired_difference`.
        bootstrap: Settings of the interval.
        metric: The metric.
    """
    groups = rows["group"].to_numpy()
    if metric.values is not None:
        terms = np.stack(list(rows[TERMS]))
        draws = bootstrap.values(metric.values, terms, groups)
        return bootstrap.interval(metric.value(terms), draws)
    correct, labelled = (rows[name].to_numpy(dtype=float) for name in ("correct", "labelled"))
    return bootstrap.mean(correct, labelled, groups)


def verdict(
    difference: dict[str, float], target: str, confidence: float, metric: Metric = ACCURACY
) -> str:
    """Return a sentence on whether the student is better than the baseline.

    Args:
        difference: From `paired_difference`, student minus baseline.
        target: The input modality of both.
        confidence: Confidence level of the interval.
        metric: The metric of the difference.
    """
    spec = f"+{metric.spec()}"
    gain, low, high = (metric.scale * difference[name] for name in ("difference", "low", "high"))
    what = f"{gain:{spec}} points" if metric.percent else f"{gain:{spec}}"
    if metric.values is not None:
        what = f"{metric.title} {what}"
    if not low < high and gain == 0 and metric.values is None:
        return (
            f"The effect of distillation cannot be determined: on every held-out sample, the "
            f"{target} student is correct exactly where the baseline is correct."
        )
    if not low < high:
        return (
            f"The effect of distillation cannot be determined: the {target} student differs from "
            f"the baseline by {what}, but there is no interval, because the difference "
            f"is the same in every resample."
        )
    interval = f"{what}, {confidence:.0%} interval {low:{spec}} to {high:{spec}}"
    if low > 0:
        return f"Distillation helped the {target} student: {interval} against the baseline."
    if high < 0:
        return f"Distillation hurt the {target} student: {interval} against the baseline."
    helped = f"did not measurably help the {target} student"
    return f"Distillation {helped}: {interval} against the baseline."


def remarks(
    nll: dict[str, float],
    scaled: dict[str, float],
    calibration: dict[str, float],
    confidence: float,
) -> list[str]:
    """State where the student's probabilities are measurably worse or better than the baseline's.

    A difference in likelihood may be no more than one number that a model lacks: its temperature.
    Whether it outlives temperature scaling is therefore stated with it.

    Args:
        nll: From `nll_difference`, student minus baseline.
        scaled: The same after temperature scaling of both.
        calibration: From `calibration_difference`; without an interval no sentence is written.
        confidence: Confidence level of the intervals.

    Returns:
        At most two sentences on the likelihood and one on the calibration.
    """
    sentences = []
    as_is, after = _direction(nll), _direction(scaled)
    if as_is:
        sentences.append(
            f"The student's likelihood is measurably {as_is}: {_nats(nll, confidence)}."
        )
    if after:
        sentences.append(
            f"After temperature scaling of both, the student's likelihood is measurably {after}: "
            f"{_nats(scaled, confidence)}."
        )
    elif as_is:
        sentences.append(
            f"After temperature scaling of both, no difference is measurable: "
            f"{_nats(scaled, confidence)}."
        )
    error = calibration["difference"]
    if (how := _direction(calibration)) and error * calibration["squared"] > 0:
        sentences.append(
            f"The student's calibration is measurably {how}: expected calibration error "
            f"{100 * error:+.2f} points."
        )
    return sentences


def _nats(difference: dict[str, float], confidence: float) -> str:
    value, low, high = (difference[name] for name in ("difference", "low", "high"))
    interval = f", {confidence:.0%} interval {low:+.3f} to {high:+.3f}" if low < high else ""
    return f"NLL {value:+.3f} nats{interval}"


def _direction(difference: dict[str, float]) -> str:
    """Return ``worse`` or ``better`` if the interval of an error excludes 0, else an empty text."""
    low, high = difference.get("low", 0.0), difference.get("high", 0.0)
    if not low < high:
        return ""
    return "worse" if low > 0 else "better" if high < 0 else ""


def _on_same_samples(
    predictions: pd.DataFrame, first: str, second: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    one, other = (
        predictions[predictions["model"] == name].set_index("id") for name in (first, second)
    )
    return one, other.reindex(one.index)


def _gaps_by_bin(model: pd.DataFrame, bins: int) -> np.ndarray:
    """Return gap = correct - confidence, gap^2 and 1, each in its sample's bin: ``(n, 3 bins)``."""
    confidence = model["confidence"].to_numpy(dtype=float)
    gap = model["correct"].to_numpy(dtype=float) - confidence
    bin_index = np.minimum((confidence * bins).astype(int), bins - 1)
    within = bin_index[:, None] == np.arange(bins)
    return np.hstack([within * gap[:, None], within * gap[:, None] ** 2, within])


def _squared_difference(sums: np.ndarray, count: int) -> np.ndarray:
    """Return the difference of unbiased squared calibration errors: ``(R, 6 bins)`` to ``(R,)``."""
    errors = []
    for model in np.split(sums, 2, axis=1):
        gap, square, number = np.split(model, 3, axis=1)
        # (m^2 - s^2 / n) n = (sum^2 - sum of squares) / (n - 1). For a bin of one sample, the
        # numerator is 0, so that it adds nothing.
        errors.append(((gap**2 - square) / np.maximum(number - 1, 1)).sum(axis=1) / count)
    return errors[0] - errors[1]


def comparison_table(metrics: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return a table with one row for each model and one column for each scalar metric."""
    rows = {
        model: {name: value for name, value in values.items() if not isinstance(value, dict)}
        for model, values in metrics.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model").reset_index()
