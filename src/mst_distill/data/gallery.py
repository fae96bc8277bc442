"""A few samples in each modality, whatever its shape, to see that they are what they should be."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mst_distill.data.samples import Samples

COLUMNS = 6
"""Samples in the picture."""

SIDE = 2.1
"""Inches that a picture is wide."""

FRAMES = 9
"""Frames shown of a video, at most."""


def gallery(samples: Samples) -> Figure:
    """Draw some samples, one of each of some classes: a column a sample, a row a modality.

    Images are shown as they are and videos as a few of their frames, with the mean over channels
    where there are not one or three; matrices as heat maps with the first row at the bottom,
    vectors as curves, dense labels as maps.
    """
    rows = _choose(samples)
    arrays = {name: array[rows] for name, array in samples.modalities.items()}
    if samples.dense:
        arrays["label"] = samples.labels[rows]
    heights = [_height(name, array) for name, array in arrays.items()]
    size = (SIDE * len(rows) + 0.5, SIDE * sum(heights) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(arrays), len(rows), squeeze=False, height_ratios=heights)
    for (name, array), line in zip(arrays.items(), grid, strict=True):
        line[0].set_ylabel(name, size=10)
        for axes, value in zip(line, array, strict=True):
            axes.set(xticks=[], yticks=[])
            if name == "label":
                axes.imshow(value, cmap="nipy_spectral", vmin=0, vmax=len(samples.classes) - 1)
            else:
                draw_sample(axes, value)
    for axes, row in zip(grid[0], rows, strict=True):
        axes.set_title(_title(samples, row), size=8)
    return figure


def _choose(samples: Samples) -> np.ndarray:
    """Store rows of the samples to draw, in the order of their classes if they have one."""
    if samples.dense:
        return np.unique(np.linspace(0, len(samples) - 1, COLUMNS).astype(int))
    first = pd.Series(samples.labels).drop_duplicates().sort_values().index.to_numpy()
    return first[np.unique(np.linspace(0, len(first) - 1, COLUMNS).astype(int))]


def _title(samples: Samples, row: int) -> str:
    name = samples.index["id"].iloc[row]
    short = name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}"
    return short if samples.dense else f"{samples.classes[samples.labels[row]][:24]}\n{short}"


def _height(name: str, array: np.ndarray) -> float:
    """Of a picture of what is in `array`, the first axis being the samples, over its width."""
    return array.shape[-2] / array.shape[-1] if array.ndim > 3 or name == "label" else 1.0


def draw_sample(axes: Axes, value: np.ndarray) -> None:
    """A sample of one modality: a vector, a matrix, an image ``(C, H, W)`` or a video."""
    if value.ndim == 1:
        axes.plot(value, linewidth=0.6)
        axes.set_box_aspect(1)
    elif value.ndim == 2:
        axes.imshow(value, aspect="auto", origin="lower")
        axes.set_box_aspect(1)
    else:
        picture = _tile(value) if value.ndim == 4 else value
        if len(picture) not in (1, 3):
            picture = picture.mean(axis=0, keepdims=True)
        low, high = picture.min(), picture.max()
        shown = (picture - low) / (high - low if high > low else 1)
        axes.imshow(np.moveaxis(shown, 0, -1), cmap="gray")


def _tile(video: np.ndarray) -> np.ndarray:
    """Frames of ``(C, T, H, W)`` side by side in a square, ``(C, n * H, n * W)``."""
    side = int(np.sqrt(min(video.shape[1], FRAMES)))
    chosen = video[:, np.linspace(0, video.shape[1] - 1, side * side).astype(int)]
    channels, _, height, width = chosen.shape
    squared = chosen.reshape(channels, side, side, height, width).swapaxes(2, 3)
    return squared.reshape(channels, side * height, side * width)
