"""The figures of a comparison, drawn without a display."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from mst_distill.compare.aggregation import ALL, BETWEEN
from mst_distill.compare.ranking import MIN_SEEDS, to_baseline
from mst_distill.compare.student_sizes import COSTS
from mst_distill.metric import ACCURACY, Metric


def differences_figure(differences: pd.DataFrame, metric: Metric = ACCURACY) -> Figure:
    """Draw the metric of every method minus the baseline's, with one subplot for each target.

    Args:
        differences: From `difference_table`; the intervals are those of its first criterion.
        metric: The metric that decides.
    """
    rows = to_baseline(differences)
    targets = list(dict.fromkeys(rows["target"]))
    if not targets:
        figure = Figure(figsize=(6.5, 1.6))
        figure.text(0.5, 0.5, "nothing to compare with the baseline", ha="center")
        return figure
    height = 1.6 + 0.3 * rows.groupby("target")["title"].nunique().max()
    columns = min(2, len(targets))
    lines = -(-len(targets) // columns)
    figure = Figure(figsize=(6.5 * columns, height * lines), layout="constrained")
    grid = np.ravel(figure.subplots(lines, columns))
    for axes, target in zip(grid, targets, strict=False):
        _plot_differences(axes, rows[rows["target"] == target], metric)
        axes.set_title(f"{target} student")
    for axes in grid[len(targets) :]:
        axes.set_axis_off()
    return figure


DODGE = 1.035
"""The factor between the places of two methods on the logarithmic axis of the share of labels."""


def label_curve_figure(curve: pd.DataFrame, metric: Metric = ACCURACY) -> Figure:
    """Draw the metric over the share of labels, with one subplot for each target.

    Args:
        curve: From `label_curve_table`; bars are its intervals.
        metric: The metric that decides.
    """
    targets = list(dict.fromkeys(curve["target"]))
    figure = Figure(figsize=(5.5 * max(1, len(targets)), 4.2), layout="constrained")
    grid = figure.subplots(1, max(1, len(targets)), squeeze=False)[0]
    for axes, target in zip(grid, targets, strict=False):
        of_target = curve[curve["target"] == target]
        lines = list(of_target.groupby("title", sort=False))
        for number, ((title, line), marker) in enumerate(
            zip(lines, cycle("osv^D<>pP"), strict=False)
        ):
            # Next to one another, so that no interval covers another.
            shift = DODGE ** (number - (len(lines) - 1) / 2)
            shown = metric.scale * line[[metric.name, "low", "high"]]
            below, above = (
                shown[metric.name] - shown["low"],
                shown["high"] - shown[metric.name],
            )
            axes.errorbar(
                100 * line["labelled"] * shift,
                shown[metric.name],
                yerr=[below.fillna(0), above.fillna(0)],
                marker=marker,
                markersize=5,
                capsize=2,
                linewidth=1.2,
                elinewidth=0.8,
                label=title,
            )
        shares = sorted(100 * of_target["labelled"].unique())
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{share:g}" for share in shares])
        axes.set_xticks([], minor=True)
        axes.set(
            title=f"{target} student", xlabel="labels used, %", ylabel=f"test {metric.heading}"
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def sizes_figure(sizes: pd.DataFrame, baseline: str | None, metric: Metric = ACCURACY) -> Figure:
    """Draw the metric of students over what they cost, with a row of subplots for each modality.

    Args:
        sizes: From `size_table`; bars are its intervals.
        baseline: The title of the baseline, or None.
        metric: The metric that decides.
    """
    modalities = list(dict.fromkeys(sizes["modality"]))
    if not modalities:
        figure = Figure(figsize=(6.5, 1.6))
        figure.text(0.5, 0.5, "there are no students of other sizes", ha="center")
        return figure
    shape = (3.1 * len(COSTS), 3.2 * len(modalities))
    figure = Figure(figsize=shape, layout="constrained")
    grid = figure.subplots(len(modalities), len(COSTS), sharey="row", squeeze=False)
    for row, modality in zip(grid, modalities, strict=True):
        of_modality = sizes[sizes["modality"] == modality]
        for axes, (cost, name) in zip(row, COSTS.items(), strict=True):
            _plot_sizes(axes, of_modality, cost, baseline, metric)
            axes.set_xlabel(name)
        row[0].set_ylabel(f"{modality}: test {metric.heading}")
        row[0].legend(fontsize=8, loc="best")
    return figure


def _plot_sizes(
    axes: Axes, sizes: pd.DataFrame, cost: str, baseline: str | None, metric: Metric
) -> None:
    """Draw the students of one modality over one of their costs."""
    for own, colour, name in (
        (sizes["method"] == baseline, "tab:grey", "baseline"),
        (sizes["method"] != baseline, "tab:blue", "best method by validation"),
    ):
        line = sizes[own].sort_values(cost)
        shown = metric.scale * line[[metric.name, "low", "high"]]
        ends = [shown[metric.name] - shown["low"], shown["high"] - shown[metric.name]]
        axes.errorbar(
            line[cost],
            shown[metric.name],
            yerr=[end.fillna(0) for end in ends],
            marker="o",
            markersize=5,
            capsize=2,
            linewidth=1.2,
            color=colour,
            label=name,
        )
    falls = line[metric.name].diff() < 0
    for (_, row), below in zip(line.iterrows(), falls, strict=True):
        axes.annotate(
            row["student"],
            (row[cost], metric.scale * row[metric.name]),
            xytext=(4, -11 if below else 5),  # away from the name of the one before
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xscale("log")
    # Wide enough for at least two labels, also if the students hardly differ.
    least, most = sizes[cost].min() / 1.8, 2.6 * sizes[cost].max()
    axes.set_xlim(least, most)
    decades = np.log10(most / least)
    subs = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 2.5 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(EngFormatter(sep="") if cost != "milliseconds" else "{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.3)


def gains_figure(
    gains: pd.DataFrame, selection: str, baseline: str, metric: Metric = ACCURACY
) -> Figure:
    """Draw the metric of every method minus the baseline's: in each setting, and in their mean.

    Args:
        gains: From `gain_table`.
        selection: The selection criterion that is shown.
        baseline: The method that the others are compared with.
        metric: The metric that decides.
    """
    selected = gains[(gains["selection"] == selection) & (gains["against"] == baseline)]
    points = metric.scale * selected.pivot_table("difference", "method", "setting")
    over = ALL if (selected["setting"] == ALL).any() else BETWEEN
    means = selected[selected["setting"] == over].set_index("method").sort_values("difference")
    means = metric.scale * means[["difference", "low", "high"]]
    heights = np.arange(len(means))
    figure = Figure(figsize=(9, 1.8 + 0.3 * len(means)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="grey", linewidth=1, linestyle=":")
    settings = [name for name in dict.fromkeys(selected["setting"]) if name not in (ALL, BETWEEN)]
    for name, marker in zip(settings, cycle("osv^D<>pP"), strict=False):
        axes.plot(
            points.loc[means.index, name], heights, marker, alpha=0.6, markersize=5, label=name
        )
    axes.hlines(heights, means["low"], means["high"], color="black", linewidth=2)
    axes.plot(means["difference"], heights, "|", color="black", markersize=12, label=over)
    axes.set_yticks(heights, list(means.index), size=8)
    unit = ", points" if metric.percent else ""
    axes.set(xlabel=f"{metric.title} minus that of {baseline}{unit}; selected by {selection}")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _plot_differences(axes: Axes, rows: pd.DataFrame, metric: Metric) -> None:
    selections = list(dict.fromkeys(rows["selection"]))
    tables = {
        criterion: metric.scale * of_criterion.set_index("title")[["difference", "low", "high"]]
        for criterion, of_criterion in rows.groupby("selection", sort=False)
    }
    first = tables[selections[0]].sort_values("difference")
    heights = np.arange(len(first))
    axes.axvline(0, color="grey", linewidth=1, linestyle=":")
    axes.hlines(heights, first["low"], first["high"], color="tab:blue", linewidth=1.5)
    note = (
        "" if rows["pairs"].max() >= MIN_SEEDS else f"\nno intervals: fewer than {MIN_SEEDS} seeds"
    )
    unit = ", points" if metric.percent else ""
    axes.set_xlabel(f"{metric.title} minus that of the baseline{unit}{note}")
    axes.plot(first["difference"], heights, "o", color="tab:blue", label=f"by {selections[0]}")
    for criterion, marker in zip(selections[1:], "x+", strict=False):
        other = tables[criterion].reindex(first.index)
        axes.plot(other["difference"], heights, marker, color="tab:orange", label=f"by {criterion}")
    axes.set_yticks(heights, list(first.index), size=8)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
