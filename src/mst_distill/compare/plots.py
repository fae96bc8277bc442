"""The figures of a comparison, drawn without a display."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mst_distill.compare.aggregation import ALL
from mst_distill.compare.ranking import BEST, FEWEST


def differences_figure(differences: pd.DataFrame) -> Figure:
    """Every method's accuracy minus that of the student alone, a panel a target.

    Args:
        differences: From `difference_table`; its first rule has the intervals.
    """
    alone = differences[differences["against"] != BEST]
    targets = list(dict.fromkeys(alone["target"]))
    if not targets:
        figure = Figure(figsize=(6.5, 1.6))
        figure.text(0.5, 0.5, "nothing to compare with the student alone", ha="center")
        return figure
    height = 1.6 + 0.3 * alone.groupby("target")["title"].nunique().max()
    figure = Figure(figsize=(6.5 * len(targets), height), layout="constrained")
    for axes, target in zip(np.ravel(figure.subplots(1, len(targets))), targets, strict=True):
        _plot_differences(axes, alone[alone["target"] == target])
        axes.set_title(f"{target} student")
    return figure


def gains_figure(gains: pd.DataFrame, selection: str, baseline: str) -> Figure:
    """Every method's accuracy minus the baseline's: in each setting, and in their mean.

    Args:
        gains: From `gain_table`.
        selection: The rule of selection that is shown.
        baseline: The method that the others are compared with.
    """
    own = gains[gains["rule"] == selection]
    points = 100 * own.pivot_table("difference", "method", "setting")
    over = own[own["setting"] == ALL].set_index("method").sort_values("difference")
    over = 100 * over[["difference", "low", "high"]]
    places = np.arange(len(over))
    figure = Figure(figsize=(9, 1.8 + 0.3 * len(over)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="grey", linewidth=1, linestyle=":")
    settings = [name for name in dict.fromkeys(own["setting"]) if name != ALL]
    for name, marker in zip(settings, cycle("osv^D<>pP"), strict=False):
        axes.plot(points.loc[over.index, name], places, marker, alpha=0.6, markersize=5, label=name)
    axes.hlines(places, over["low"], over["high"], color="black", linewidth=2)
    axes.plot(over["difference"], places, "|", color="black", markersize=12, label=ALL)
    axes.set_yticks(places, list(over.index), size=8)
    axes.set(xlabel=f"points of accuracy against {baseline}, selected by {selection}")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _plot_differences(axes: Axes, rows: pd.DataFrame) -> None:
    rules = list(dict.fromkeys(rows["rule"]))
    tables = {
        rule: 100 * part.set_index("title")[["difference", "low", "high"]]
        for rule, part in rows.groupby("rule", sort=False)
    }
    own = tables[rules[0]].sort_values("difference")
    places = np.arange(len(own))
    axes.axvline(0, color="grey", linewidth=1, linestyle=":")
    axes.hlines(places, own["low"], own["high"], color="tab:blue", linewidth=1.5)
    note = "" if rows["pairs"].max() >= FEWEST else f"\nno intervals: fewer than {FEWEST} seeds"
    axes.set_xlabel(f"points of accuracy against the student alone{note}")
    axes.plot(own["difference"], places, "o", color="tab:blue", label=f"by {rules[0]}")
    for rule, marker in zip(rules[1:], "x+", strict=False):
        other = tables[rule].reindex(own.index)
        axes.plot(other["difference"], places, marker, color="tab:orange", label=f"by {rule}")
    axes.set_yticks(places, list(own.index), size=8)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
