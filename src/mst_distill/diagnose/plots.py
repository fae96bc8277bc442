"""The diagnosis' figures, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mst_distill.data.gallery import draw_sample

if TYPE_CHECKING:
    from mst_distill.diagnose.drift import DriftView

MANY = 12
"""With more classes numbers do not fit into the cells."""

COLOURS = {"oracle": "tab:green", "student": "tab:blue", "control": "grey"}


def paths_figure(paths: pd.DataFrame, confidence: float) -> Figure:
    """What each source alone does for the student: points against the control, by class.

    Numbers are written where they fit, bold where the interval excludes 0.

    Args:
        paths: From `path_table`.
        confidence: Of its intervals.
    """
    sources, classes = (list(dict.fromkeys(paths[of])) for of in ("source", "class"))
    points, low, high = (
        paths.pivot_table(of, "source", "class").reindex(index=sources, columns=classes).to_numpy()
        for of in ("points", "low", "high")
    )
    # Of all classes together in a column by themselves, which stays as wide with many classes.
    parts = [part for part in (slice(0, 1), slice(1, None)) if len(classes[part])]
    widths = [0.9, float(np.clip(0.62 * (len(classes) - 1), 2.5, 12))][: len(parts)]
    size = (sum(widths) + 4.0, 2.2 + 0.42 * len(sources))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(parts), squeeze=False, width_ratios=widths)[0]
    limit = max(1.0, float(np.nanquantile(np.abs(points), 0.98)))
    for axes, part in zip(grid, parts, strict=True):
        _draw_cells(axes, points[:, part], low[:, part], high[:, part], limit)
        _tick_classes(axes, [str(name) for name in classes[part]])
        axes.set_yticks(range(len(sources)), sources if axes is grid[0] else [], size=9)
    note = f"bold: the {confidence:.0%} interval excludes 0"
    grid[-1].set_xlabel(note if len(parts) == 1 else f"class; {note}")
    figure.suptitle("one fixed source: points of accuracy against the control", size=11)
    image = grid[0].get_images()[0]
    figure.colorbar(image, ax=list(grid), label="points", extend="both", aspect=12)
    return figure


def headroom_figure(headroom: Mapping[str, Any], confidence: float) -> Figure:
    """Who is right how often on the held-out split, a row a group of sources.

    Args:
        headroom: ``headroom`` of the diagnosis.
        confidence: Of its intervals.
    """
    rows = max(len(figures["accuracy"]) for figures in headroom.values())
    size = (11, 1.0 + len(headroom) * (0.9 + 0.28 * rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(headroom), 2, squeeze=False)
    for (group, figures), (left, right) in zip(headroom.items(), grid, strict=True):
        _draw_figures(left, figures["accuracy"], figures["best_single"], 100)
        _draw_figures(right, figures["nll"], "", 1)
        room = figures["accuracy"]["headroom"]
        low, high = _ends(room, 100)
        interval = f"{confidence:.0%} interval {low:.2f} to {high:.2f}"
        left.set_title(
            f"choosing among the {group}\nheadroom {100 * room['value']:.2f} points "
            f"({'no interval' if np.isnan(low) else interval})",
            size=10,
        )
        right.set_title(f"headroom {figures['nll']['headroom']['value']:.3f} nats", size=10)
        left.set_xlabel("held-out accuracy, percent")
        right.set_xlabel("held-out NLL, nats: less is better")
    return figure


def drift_figure(views: Sequence[DriftView], target: str) -> Figure:
    """Samples on which student and multimodal teacher look at different places.

    Args:
        views: A row each.
        target: The modality that is looked at.
    """
    titles = list(views[0].gazes)
    aspect = min(_aspect(views[0].value), 2.5)
    size = (1.75 * (1 + len(titles)) + 0.4, (1.75 * aspect + 0.55) * len(views) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(views), 1 + len(titles), squeeze=False)
    figure.suptitle(f"{target}: where they look, samples of largest drift first", size=9)
    for view, (first, *others) in zip(views, grid, strict=True):
        draw_sample(first, view.value)
        first.set_title("\n".join(map(_shorten, view.name.splitlines())), size=7)
        for title, axes in zip(titles, others, strict=True):
            _draw_gaze(axes, view.gazes[title], view.value)
            overlap = view.overlaps.get(title)
            note = "" if overlap is None else f"\noverlap {overlap:.2f}"
            axes.set_title(f"{title}{note}", size=7)
        for axes in (first, *others):
            axes.set(xticks=[], yticks=[])
    return figure


def _draw_cells(
    axes: Axes, points: np.ndarray, low: np.ndarray, high: np.ndarray, limit: float
) -> None:
    axes.imshow(points, vmin=-limit, vmax=limit, cmap="RdBu", aspect="auto")
    if points.shape[1] > MANY:
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


def _draw_figures(axes: Axes, figures: Mapping[str, Any], best: str, scale: float) -> None:
    names = [name for name in figures if name != "headroom"]
    for place, name in enumerate(names):
        value, (low, high) = scale * figures[name]["value"], _ends(figures[name], scale)
        colour = COLOURS.get(name, "tab:orange")
        axes.hlines(place, low, high, color=colour, linewidth=2)
        axes.plot(value, place, "o", color=colour)
        axes.annotate(
            f"{value:.1f}" if scale > 1 else f"{value:.2f}",
            (value, place),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            size=7,
        )
    labels = [f"{name}: {best}" if best and name == "best single" else name for name in names]
    axes.set_yticks(range(len(names)), labels, size=8)
    axes.set_ylim(len(names) - 0.5, -0.7)
    axes.grid(axis="x", alpha=0.3)


def _ends(figure: Mapping[str, float | None], scale: float) -> tuple[float, float]:
    """Of an interval, times `scale`; not a number where there is none, which draws nothing."""
    low, high = figure["low"], figure["high"]
    if low is None or high is None:
        return np.nan, np.nan
    return scale * low, scale * high


def _draw_gaze(axes: Axes, gaze: np.ndarray, value: np.ndarray) -> None:
    """Shares of the attribution as the sample itself is drawn; those of a video's frames summed."""
    if gaze.ndim == 1:
        axes.fill_between(np.arange(len(gaze)), gaze, step="mid", color="tab:red", linewidth=0)
        axes.margins(0)
        axes.set_box_aspect(1)
        return
    shown = gaze.sum(axis=0) if gaze.ndim == 3 else gaze
    axes.imshow(
        shown, cmap="magma", vmin=0, aspect="auto", origin="lower" if value.ndim == 2 else "upper"
    )
    axes.set_box_aspect(_aspect(value))


def _aspect(value: np.ndarray) -> float:
    """Height over width of the picture of a sample."""
    return value.shape[-2] / value.shape[-1] if value.ndim > 2 else 1.0


def _tick_classes(axes: Axes, classes: Sequence[str]) -> None:
    every = max(1, -(-len(classes) // 48))
    places = range(0, len(classes), every)
    upright = len(classes) > MANY or max(len(name) for name in classes) > 6
    shown = [_shorten(classes[at], 18) for at in places]
    axes.set_xticks(places, shown, rotation=90 * upright, size=8)


def _shorten(name: str, most: int = 24) -> str:
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"
