"""Did distillation help? A paired difference, its bootstrap interval, and a plain sentence."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mst_distill.evaluation.bootstrap import Bootstrap


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
    one, other = (
        predictions[predictions["model"] == name].set_index("id") for name in (first, second)
    )
    gain = (one["correct"] - other["correct"].reindex(one.index)).to_numpy(dtype=float)
    judged = one["judged"].to_numpy(dtype=float)
    found = bootstrap.mean(gain, judged)
    return {"difference": found.pop("value"), **found}


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


def comparison_table(metrics: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row a model, one column a figure that is a single number."""
    rows = {
        model: {name: value for name, value in figures.items() if not isinstance(value, dict)}
        for model, figures in metrics.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model").reset_index()
