"""Figures of the report, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mst_distill.evaluate.calibration import COVERAGE
from mst_distill.evaluate.metrics import calibration_error
from mst_distill.metric import ACCURACY, Metric

LEAST_SHARE = 0.02
"""A bin with a smaller share of the samples is a point outside of the reliability curve."""

LEAST_COVERAGE = 0.05
"""A smaller share of the samples is too small for an accuracy."""


def confusion_figure(
    metric_counts: dict[str, Any], classes: Sequence[str], models: Sequence[str]
) -> Figure:
    """Draw confusion matrices side by side; each row is normalised over its true class.

    Args:
        metric_counts: Model name to `MetricAccumulator.summary`.
        classes: Class names in order.
        models: Names of the models to draw.
    """
    size = min(3.0 + 0.35 * len(classes), 12.0)
    figure = Figure(figsize=(size * len(models) + 1, size), layout="constrained")
    for axes, model in zip(np.ravel(figure.subplots(1, len(models))), models, strict=True):
        counts = np.array(metric_counts[model]["confusion"], dtype=float)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        axes.set(title=model, xlabel="predicted", ylabel="true")
        _tick_classes(axes, classes)
        if len(classes) <= 12:
            for (row, column), share in np.ndenumerate(shares):
                if share >= 0.005:
                    shade = "white" if share > 0.5 else "black"
                    text = f"{100 * share:.0f}"
                    axes.text(column, row, text, ha="center", va="center", color=shade, size=7)
    figure.colorbar(image, ax=figure.axes, label="share of the true class", aspect=30)
    return figure


def reliability_figure(metric_counts: dict[str, Any], models: Sequence[str]) -> Figure:
    """Draw accuracy against confidence in bins; a calibrated model lies on the diagonal.

    The area of a point is the share of the samples in its bin.

    Args:
        metric_counts: Model name to `MetricAccumulator.summary`, with temperatures.
        models: Names of the models to draw.
    """
    figure = Figure(figsize=(3.4 * len(models), 4.5), layout="constrained")
    for axes, model in zip(np.ravel(figure.subplots(1, len(models))), models, strict=True):
        counts = metric_counts[model]
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
        title = f"scaled, T = {counts['temperature']:.2f}"
        _plot_reliability(axes, counts["calibration"], "as is", "tab:blue")
        _plot_reliability(axes, counts["calibration_scaled"], title, "tab:orange")
        axes.set(title=model, xlabel="confidence", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    figure.axes[0].set_ylabel("accuracy")
    return figure


def _plot_reliability(
    axes: Axes, calibration: dict[str, list[float]], title: str, color: str
) -> None:
    bins = {name: np.array(values) for name, values in calibration.items()}
    filled = bins["count"] > 0
    confidence = bins["confidence"][filled] / bins["count"][filled]
    accuracy = bins["correct"][filled] / bins["count"][filled]
    share = bins["count"][filled] / bins["count"].sum()
    label = f"{title}: error {100 * calibration_error(calibration):.1f} %"
    many = share >= LEAST_SHARE
    axes.plot(confidence[many], accuracy[many], color=color, linewidth=0.8, alpha=0.6)
    axes.scatter(confidence, accuracy, s=5 + 300 * share, color=color, alpha=0.6)
    axes.plot([], [], "o", color=color, alpha=0.6, label=label)  # markers differ in size


def risk_coverage_figure(curves: pd.DataFrame) -> Figure:
    """Draw the accuracy on the most confident samples against their share of all samples.

    The curves begin at the coverage `LEAST_COVERAGE`.

    Args:
        curves: `risk_coverage` of several models, with the column ``model``.
    """
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for model, curve in curves.groupby("model", sort=False):
        shown = curve[curve["coverage"] >= LEAST_COVERAGE]
        axes.plot(shown["coverage"], shown["accuracy"], label=model, drawstyle="steps-post")
    axes.axvline(COVERAGE, color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="coverage: share of samples answered, the most confident first")
    axes.set(ylabel="accuracy on these", xlim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def learning_curves(
    teachers: pd.DataFrame,
    masks: pd.DataFrame,
    route: pd.DataFrame,
    baseline: pd.DataFrame,
    metric: Metric = ACCURACY,
) -> Figure:
    """Draw the validation metrics by epoch, with one column for each stage.

    Args:
        teachers: History of stage 1.
        masks: History of stage 2.
        route: History of stage 3.
        baseline: History of the baseline, with its column ``phase``.
        metric: The metric that decides.
    """
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    grid = figure.subplots(2, 3)
    for row, (name, label) in enumerate(
        ((metric.name, metric.title), ("ce", "cross-entropy, nats"))
    ):
        first, third = grid[row, 0], grid[row, 2]
        _plot_columns(first, teachers, f"valid_{name}_")
        if (baseline["phase"] == "teachers").any():
            before = baseline[baseline["phase"] == "teachers"]
            _plot_against(first, before, f"valid_{name}", "baseline")
        third.plot(route["epoch"], route[f"valid_{name}"], label="student")
        _plot_against(third, baseline[baseline["phase"] == "route"], f"valid_{name}", "baseline")
        for axes in (first, third):
            axes.set_ylabel(f"validation {label}")
    _plot_columns(grid[0, 1], masks, "valid_kd_")
    grid[0, 1].set(ylabel="validation KD to the student", yscale="log")
    _plot_columns(grid[1, 1], route.drop(columns="train_loss"), "train_")
    grid[1, 1].set(ylabel="loss terms, unweighted", yscale="log")
    titles = ("stage 1: members", "stage 2: masks", "stage 3: student", "", "stage 3: loss", "")
    for axes, title in zip(grid.ravel(), titles, strict=True):
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def routing_figure(routing: pd.DataFrame) -> Figure:
    """Draw the share of samples that each specialist was selected for.

    The left side shows it by epoch, the right side by class over all epochs.

    Args:
        routing: ``epoch``, ``class``, ``specialist`` and ``samples``.
    """
    specialists = list(dict.fromkeys(routing["specialist"]))
    epochs = _shares(routing, "epoch", specialists)
    classes = _shares(routing, "class", specialists).loc[list(dict.fromkeys(routing["class"]))]
    height = max(3.6, 1.6 + 0.3 * len(classes))
    figure = Figure(figsize=(12, height), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.stackplot(epochs.index, epochs.to_numpy().T, labels=specialists, alpha=0.85)
    left.set(xlabel="epoch", ylabel="share of training samples", ylim=(0, 1))
    left.set(title="by epoch", xlim=(0, max(len(epochs) - 1, 1)))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, fontsize=8)
    start = np.zeros(len(classes))
    for specialist in specialists:
        right.barh([str(name) for name in classes.index], classes[specialist], left=start)
        start += classes[specialist].to_numpy()
    right.invert_yaxis()
    right.set(xlabel="share over all epochs", ylabel="class", xlim=(0, 1), title="by class")
    return figure


def _shares(routing: pd.DataFrame, by: str, specialists: Sequence[str]) -> pd.DataFrame:
    counts = routing.pivot_table("samples", by, "specialist", aggfunc="sum")[list(specialists)]
    total = counts.sum(axis=1)
    return counts.div(total.where(total > 0, 1), axis=0)


def _plot_columns(axes: Axes, history: pd.DataFrame, prefix: str) -> None:
    for column in [name for name in map(str, history) if name.startswith(prefix)]:
        axes.plot(history["epoch"], history[column], label=column.removeprefix(prefix))


def _plot_against(axes: Axes, history: pd.DataFrame, column: str, label: str) -> None:
    axes.plot(history["epoch"], history[column], label=label, color="grey", linestyle="--")


def _tick_classes(axes: Axes, classes: Sequence[str]) -> None:
    step = max(1, len(classes) // 20)
    positions = range(0, len(classes), step)
    vertical = max(len(name) for name in classes) > 2
    axes.set_xticks(positions, [classes[at] for at in positions], rotation=90 * vertical, size=8)
    axes.set_yticks(positions, [classes[at] for at in positions], size=8)
