"""A figure of a few samples in each modality, to check by eye that they were read correctly."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mst_distill.data.samples import UNLABELLED, Samples

COLUMNS = 6
"""The largest number of samples in the figure."""

SIDE = 2.1
"""The width of one picture in inches."""

FRAMES = 9
"""The largest number of frames shown of a video."""


def gallery(samples: Samples) -> Figure:
    """Draw one sample of each of some classes: a column for each sample, a row for each modality.

    Images are shown as they are and videos as a few of their frames. Their channels are averaged
    unless there are one or three. Matrices are heat maps with the first row at the bottom, vectors
    are curves, and dense labels are maps in a row of their own.
    """
    rows = _select_rows(samples)
    arrays = {name: array[rows] for name, array in samples.modalities.items()}
    if samples.dense:
        arrays["label"] = samples.labels[rows]
    heights = [_relative_height(name, array) for name, array in arrays.items()]
    size = (SIDE * len(rows) + 0.5, SIDE * sum(heights) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(arrays), len(rows), squeeze=False, height_ratios=heights)
    for (name, array), grid_row in zip(arrays.items(), grid, strict=True):
        grid_row[0].set_ylabel(name, size=10)
        for axes, value, row in zip(grid_row, array, rows, strict=True):
            axes.set(xticks=[], yticks=[])
            if name == "label":
                axes.imshow(value, cmap="nipy_spectral", vmin=0, vmax=len(samples.classes) - 1)
            else:
                draw_sample(axes, value if samples.have([name])[row] else None)
    for axes, row in zip(grid[0], rows, strict=True):
        axes.set_title(_title(samples, row), size=8)
    return figure


def _select_rows(samples: Samples) -> np.ndarray:
    """Return the store rows of the samples to draw, by class unless labels are dense."""
    if samples.dense:
        return np.unique(np.linspace(0, len(samples) - 1, COLUMNS).astype(int))
    labels = pd.Series(samples.labels)
    first = labels[labels != UNLABELLED].drop_duplicates().sort_values().index.to_numpy()
    return first[np.unique(np.linspace(0, len(first) - 1, COLUMNS).astype(int))]


def _title(samples: Samples, row: int) -> str:
    name = samples.index["id"].iloc[row]
    short = name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}"
    return short if samples.dense else f"{samples.classes[samples.labels[row]][:24]}\n{short}"


def _relative_height(name: str, array: np.ndarray) -> float:
    """Return the height over the width of a picture of one sample of `array`, ``(N, *shape)``."""
    return array.shape[-2] / array.shape[-1] if array.ndim > 3 or name == "label" else 1.0


def draw_sample(axes: Axes, value: np.ndarray | None) -> None:
    """Draw one modality of a sample.

    Args:
        axes: Where to draw.
        value: A vector, a matrix, an image ``(C, H, W)`` or a video ``(C, T, H, W)``; None if the
            sample does not have this modality.
    """
    if value is None:
        axes.text(0.5, 0.5, "absent", ha="center", va="center", size=8, transform=axes.transAxes)
        axes.set_box_aspect(1)
    elif value.ndim == 1:
        axes.plot(value, linewidth=0.6)
        axes.set_box_aspect(1)
    elif value.ndim == 2:
        axes.imshow(value, aspect="auto", origin="lower")
        axes.set_box_aspect(1)
    else:
        picture = _tile_frames(value) if value.ndim == 4 else value
        if len(picture) not in (1, 3):
            picture = picture.mean(axis=0, keepdims=True)
        low, high = picture.min(), picture.max()
        scaled = (picture - low) / (high - low if high > low else 1)
        axes.imshow(np.moveaxis(scaled, 0, -1), cmap="gray")


def _tile_frames(video: np.ndarray) -> np.ndarray:
    """Arrange frames of ``(C, T, H, W)``, evenly spaced, in a square ``(C, n * H, n * W)``."""
    side = int(np.sqrt(min(video.shape[1], FRAMES)))
    frames = video[:, np.linspace(0, video.shape[1] - 1, side * side).astype(int)]
    channels, _, height, width = frames.shape
    squared = frames.reshape(channels, side, side, height, width).swapaxes(2, 3)
    return squared.reshape(channels, side * height, side * width)
