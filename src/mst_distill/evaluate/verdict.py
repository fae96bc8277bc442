"""Did distillation help? Paired differences, their bootstrap intervals, and a few sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mst_distill.evaluate.bootstrap import Bootstrap


def paired_difference(
    predictions: pd.DataFrame, first: str, second: str, bootstrap: Bootstrap
) -> dict[str, float]:
    """Accuracy of `first` minus that of `second` on the same samples.

    Args:
        predictions: A row a sample and model: ``id``, ``model``, ``correct``, ``judged``.
        first: A model's name.
        second: Another's.
        bootstrap: Of the interval.

    Returns:
        ``difference``, ``low`` and ``high``, in accuracy (1 = 100 points); where there is no
        interval (see `Bootstrap.interval`) its ends are not a number.
    """
    one, other = _on_same_samples(predictions, first, second)
    gain = (one["correct"] - other["correct"]).to_numpy(dtype=float)
    judged = one["judged"].to_numpy(dtype=float)
    found = bootstrap.mean(gain, judged)
    return {"difference": found.pop("value"), **found}


def nll_difference(
    predictions: pd.DataFrame, first: str, second: str, bootstrap: Bootstrap
) -> dict[str, float]:
    """Negative log-likelihood of `first` minus that of `second` on the same samples.

    Args:
        predictions: As in `paired_difference`, with ``nll``, a sample's mean over its judged
            pixels.
        first: A model's name.
        second: Another's.
        bootstrap: Of the interval.

    Returns:
        ``difference``, ``low`` and ``high``, in nats; above 0 the first is worse.
    """
    one, other = _on_same_samples(predictions, first, second)
    judged = one["judged"].to_numpy(dtype=float)
    found = bootstrap.mean((one["nll"] - other["nll"]).to_numpy(dtype=float) * judged, judged)
    return {"difference": found.pop("value"), **found}


def calibration_difference(
    predictions: pd.DataFrame, first: str, second: str, bins: int, bootstrap: Bootstrap
) -> dict[str, float]:
    """Calibration error of `first` minus that of `second`, for one label a sample.

    Chance makes an expected calibration error larger, more so for a less confident model: two
    models that are both calibrated seem to differ. Whether they do is therefore told by the
    squared error over the same bins without this bias (Kumar, Liang and Ma, "Verified Uncertainty
    Calibration", NeurIPS 2019): sum over the bins b of n_b / n (m_b^2 - s_b^2 / n_b), with m_b and
    s_b the mean and the deviation of correct - confidence in a bin of n_b samples. Draws with
    replacement have the bias again, so that their interval is moved to the value's own place.

    Args:
        predictions: As in `paired_difference`, with ``confidence``.
        first: A model's name.
        second: Another's.
        bins: Bins of equal width over the confidence in [0, 1].
        bootstrap: Of the interval.

    Returns:
        ``difference``, of the expected calibration errors (1 = 100 points); ``squared``, of the
        squared errors, with ``low`` and ``high``. Above 0 the first is worse.
    """
    pair = _on_same_samples(predictions, first, second)
    columns = np.hstack([_gaps_by_bin(model, bins) for model in pair])
    count = len(columns)
    own, draws = (
        columns.sum(axis=0, keepdims=True),
        count * bootstrap.means(columns, np.ones(count)),
    )
    value, drawn = (_squared_difference(sums, count) for sums in (own, draws))
    squared = bootstrap.interval(value[0], drawn - drawn.mean() + value[0])
    errors = [np.abs(sums[:, :bins]).sum() / count for sums in np.split(own, 2, axis=1)]
    return {
        "difference": float(errors[0] - errors[1]),
        "squared": squared["value"],
        "low": squared["low"],
        "high": squared["high"],
    }


def verdict(difference: dict[str, float], target: str, confidence: float) -> str:
    """Say in one sentence whether the student beats the control.

    Args:
        difference: From `paired_difference`, student minus control.
        target: The modality that both see.
        confidence: Of the interval.
    """
    gain, low, high = (100 * difference[name] for name in ("difference", "low", "high"))
    if not low < high and gain == 0:
        return (
            f"Nothing can be told of distillation: on every held-out sample the {target} student "
            f"is right or wrong as the control is."
        )
    if not low < high:
        return (
            f"Nothing can be told of distillation: the {target} student differs from the control "
            f"by {gain:+.2f} points, and there is no interval, for the difference is the same on "
            f"every held-out sample."
        )
    interval = f"{gain:+.2f} points, {confidence:.0%} interval {low:+.2f} to {high:+.2f}"
    if low > 0:
        return f"Distillation helped the {target} student: {interval} against the control."
    if high < 0:
        return f"Distillation hurt the {target} student: {interval} against the control."
    helped = f"did not measurably help the {target} student"
    return f"Distillation {helped}: {interval} against the control."


def remarks(nll: dict[str, float], calibration: dict[str, float], confidence: float) -> list[str]:
    """Say where the student's probabilities are measurably worse or better than the control's.

    Args:
        nll: From `nll_difference`, student minus control.
        calibration: From `calibration_difference`; without an interval nothing is said of it.
        confidence: Of the intervals.

    Returns:
        At most a sentence on the likelihood and one on the calibration.
    """
    said = []
    if how := _direction(nll):
        value, low, high = (nll[name] for name in ("difference", "low", "high"))
        interval = f"{confidence:.0%} interval {low:+.3f} to {high:+.3f}"
        said.append(f"Its likelihood is measurably {how}: NLL {value:+.3f} nats, {interval}.")
    error = calibration["difference"]
    if (how := _direction(calibration)) and error * calibration["squared"] > 0:
        said.append(
            f"Its calibration is measurably {how}: expected calibration error {100 * error:+.2f} "
            f"points."
        )
    return said


def _direction(difference: dict[str, float]) -> str:
    """Whether an interval of errors is above or below 0; empty if neither, or if there is none."""
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
    """Of correct - confidence itself, square and 1 in its sample's bin: ``(n, 3 bins)``."""
    confidence = model["confidence"].to_numpy(dtype=float)
    gap = model["correct"].to_numpy(dtype=float) - confidence
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    within = place[:, None] == np.arange(bins)
    return np.hstack([within * gap[:, None], within * gap[:, None] ** 2, within])


def _squared_difference(sums: np.ndarray, count: int) -> np.ndarray:
    """Squared calibration errors without bias, one minus the other: ``(R, 6 bins)`` to ``(R,)``."""
    errors = []
    for model in np.split(sums, 2, axis=1):
        gap, square, number = np.split(model, 3, axis=1)
        # (m^2 - s^2 / n) n = (sum^2 - sum of squares) / (n - 1); a lone sample tells nothing.
        errors.append(((gap**2 - square) / np.maximum(number - 1, 1)).sum(axis=1) / count)
    return errors[0] - errors[1]


def comparison_table(metrics: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row a model, one column a figure that is a single number."""
    rows = {
        model: {name: value for name, value in figures.items() if not isinstance(value, dict)}
        for model, figures in metrics.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model").reset_index()
