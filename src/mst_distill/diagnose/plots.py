"""Figures of the diagnosis, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mst_distill.data.gallery import draw_sample

if TYPE_CHECKING:
    from mst_distill.diagnose.drift import DriftExample

MAX_ANNOTATED = 12
"""Up to this many classes, numbers fit into the cells of a heat map."""

COLOURS = {"oracle": "tab:green", "student": "tab:blue", "baseline": "grey"}


def paths_figure(paths: pd.DataFrame, confidence: float) -> Figure:
    """Draw the accuracy of each path minus the baseline in points, by class.

    Numbers are written where they fit, in bold type if the interval excludes 0.

    Args:
        paths: From `path_table`.
        confidence: Confidence level of its intervals.
    """
    sources, classes = (list(dict.fromkeys(paths[name])) for name in ("source", "class"))
    points, low, high = (
        paths.pivot_table(name, "source", "class")
        .reindex(index=sources, columns=classes)
        .to_numpy()
        for name in ("points", "low", "high")
    )
    # All classes together have their own axes, whose width does not shrink with many classes.
    slices = [columns for columns in (slice(0, 1), slice(1, None)) if len(classes[columns])]
    widths = [0.9, float(np.clip(0.62 * (len(classes) - 1), 2.5, 12))][: len(slices)]
    size = (sum(widths) + 4.0, 2.2 + 0.42 * len(sources))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(slices), squeeze=False, width_ratios=widths)[0]
    limit = max(1.0, float(np.nanquantile(np.abs(points), 0.98)))
    for axes, columns in zip(grid, slices, strict=True):
        _draw_cells(axes, points[:, columns], low[:, columns], high[:, columns], limit)
        _tick_classes(axes, [str(name) for name in classes[columns]])
        axes.set_yticks(range(len(sources)), sources if axes is grid[0] else [], size=9)
    note = f"bold: the {confidence:.0%} interval excludes 0"
    grid[-1].set_xlabel(note if len(slices) == 1 else f"class; {note}")
    figure.suptitle("one fixed source: points of accuracy against the baseline", size=11)
    image = grid[0].get_images()[0]
    figure.colorbar(image, ax=list(grid), label="points", extend="both", aspect=12)
    return figure


def headroom_figure(headroom: Mapping[str, Any], confidence: float) -> Figure:
    """Draw accuracy and NLL on the held-out split, with one row for each group of sources.

    Args:
        headroom: Section ``headroom`` of the diagnosis.
        confidence: Confidence level of its intervals.
    """
    rows = max(len(metrics["accuracy"]) for metrics in headroom.values())
    size = (11, 1.0 + len(headroom) * (0.9 + 0.28 * rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(headroom), 2, squeeze=False)
    for (group, metrics), (left, right) in zip(headroom.items(), grid, strict=True):
        _draw_intervals(left, metrics["accuracy"], metrics["best_single"], 100)
        _draw_intervals(right, metrics["nll"], "", 1)
        room = metrics["accuracy"]["headroom"]
        low, high = _ends(room, 100)
        interval = f"{confidence:.0%} interval {low:.2f} to {high:.2f}"
        left.set_title(
            f"choosing among the {group}\nheadroom {100 * room['value']:.2f} points "
            f"({'no interval' if np.isnan(low) else interval})",
            size=10,
        )
        right.set_title(f"headroom {metrics['nll']['headroom']['value']:.3f} nats", size=10)
        left.set_xlabel("held-out accuracy, percent")
        right.set_xlabel("held-out NLL, nats (lower is better)")
    return figure


def drift_figure(examples: Sequence[DriftExample], target: str) -> Figure:
    """Draw the saliency maps of samples on which student and multimodal teacher differ most.

    Args:
        examples: The samples, one for each row of the figure.
        target: The modality of the samples.
    """
    titles = list(examples[0].maps)
    aspect = min(_aspect(examples[0].value), 2.5)
    size = (1.75 * (1 + len(titles)) + 0.4, (1.75 * aspect + 0.55) * len(examples) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(examples), 1 + len(titles), squeeze=False)
    figure.suptitle(f"saliency on {target}, samples with the largest drift first", size=9)
    for example, (first, *others) in zip(examples, grid, strict=True):
        draw_sample(first, example.value)
        first.set_title("\n".join(map(_shorten, example.name.splitlines())), size=7)
        for title, axes in zip(titles, others, strict=True):
            _draw_saliency(axes, example.maps[title], example.value)
            overlap = example.overlaps.get(title)
            note = "" if overlap is None else f"\noverlap {overlap:.2f}"
            axes.set_title(f"{title}{note}", size=7)
        for axes in (first, *others):
            axes.set(xticks=[], yticks=[])
    return figure


def _draw_cells(
    axes: Axes, points: np.ndarray, low: np.ndarray, high: np.ndarray, limit: float
) -> None:
    axes.imshow(points, vmin=-limit, vmax=limit, cmap="RdBu", aspect="auto")
    if points.shape[1] > MAX_ANNOTATED:
        return
    for (row, column), value in np.ndenumerate(points):
        certain = low[row, column] * high[row, column] > 0
        axes.text(
            column,
            row,
            "–" if np.isnan(value) else f"{value:+.1f}",
            ha="center",
            va="center",
            size=8,
            weight="bold" if certain else "normal",
            color="white" if abs(value) > 0.6 * limit else "black",
        )


def _draw_intervals(axes: Axes, metrics: Mapping[str, Any], best: str, scale: float) -> None:
    names = [name for name in metrics if name != "headroom"]
    for position, name in enumerate(names):
        value, (low, high) = scale * metrics[name]["value"], _ends(metrics[name], scale)
        colour = COLOURS.get(name, "tab:orange")
        axes.hlines(position, low, high, color=colour, linewidth=2)
        axes.plot(value, position, "o", color=colour)
        axes.annotate(
            f"{value:.1f}" if scale > 1 else f"{value:.2f}",
            (value, position),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            size=7,
        )
    labels = [f"{name}: {best}" if best and name == "best single" else name for name in names]
    axes.set_yticks(range(len(names)), labels, size=8)
    axes.set_ylim(len(names) - 0.5, -0.7)
    axes.grid(axis="x", alpha=0.3)


def _ends(interval: Mapping[str, float | None], scale: float) -> tuple[float, float]:
    """Return the ends of an interval times `scale`; NaN, which draws nothing, if there is none."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return np.nan, np.nan
    return scale * low, scale * high


def _draw_saliency(axes: Axes, saliency: np.ndarray, value: np.ndarray) -> None:
    """Draw a saliency map in the layout of its sample; the frames of a video are summed."""
    if saliency.ndim == 1:
        axes.fill_between(
            np.arange(len(saliency)), saliency, step="mid", color="tab:red", linewidth=0
        )
        axes.margins(0)
        axes.set_box_aspect(1)
        return
    shown = saliency.sum(axis=0) if saliency.ndim == 3 else saliency
    axes.imshow(
        shown, cmap="magma", vmin=0, aspect="auto", origin="lower" if value.ndim == 2 else "upper"
    )
    axes.set_box_aspect(_aspect(value))


def _aspect(value: np.ndarray) -> float:
    """Return height / width of the picture of a sample."""
    return value.shape[-2] / value.shape[-1] if value.ndim > 2 else 1.0


def _tick_classes(axes: Axes, classes: Sequence[str]) -> None:
    step = max(1, -(-len(classes) // 48))
    positions = range(0, len(classes), step)
    vertical = len(classes) > MAX_ANNOTATED or max(len(name) for name in classes) > 6
    shown = [_shorten(classes[at], 18) for at in positions]
    axes.set_xticks(positions, shown, rotation=90 * vertical, size=8)


def _shorten(name: str, longest: int = 24) -> str:
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-longest // 2 :]}"
