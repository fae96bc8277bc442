"""The test samples with the largest loss of the student, with a picture of each."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mst_distill.data.gallery import draw_sample
from mst_distill.data.samples import Samples
from mst_distill.report.tables import STUDENT

SHOWN = 12
"""The largest number of samples."""

SIDE, DPI = 1.7, 100
"""The side of the picture of one modality in inches, and its resolution."""


@dataclass(frozen=True)
class WorstSample:
    """A test sample.

    Attributes:
        id: Its id.
        true: The name of its class; empty if labels are dense.
        predicted: The name of the predicted class; empty if labels are dense.
        correct: Share of the labelled pixels whose class is predicted; 0 or 1 for a single label.
        confidence: Probability of the predicted class, in [0, 1]; for dense labels the mean.
        nll: Negative log-likelihood in nats; for dense labels the mean over the labelled pixels.
        picture: All modalities as a PNG, the student's first.
    """

    id: str
    true: str
    predicted: str
    correct: float
    confidence: float
    nll: float
    picture: bytes


def worst_samples(samples: Samples, predictions: pd.DataFrame, target: str) -> list[WorstSample]:
    """Select the samples with the largest loss, the largest first.

    Samples without a labelled pixel are left out.

    Args:
        samples: The store.
        predictions: From `evaluate_models`.
        target: The student's modality.
    """
    rows = predictions[(predictions["model"] == STUDENT) & (predictions["labelled"] > 0)]
    rows = rows.nlargest(SHOWN, "nll")
    positions = pd.Index(samples.index["id"]).get_indexer(pd.Index(rows["id"]))
    names = ["", *samples.classes]  # the label and the prediction of dense samples are -1
    return [
        WorstSample(
            id=str(row["id"]),
            true=names[row["label"] + 1],
            predicted=names[row["prediction"] + 1],
            correct=row["correct"] / row["labelled"],
            confidence=row["confidence"],
            nll=row["nll"],
            picture=_picture(samples, position, target),
        )
        for row, position in zip(rows.to_dict(orient="records"), positions, strict=True)
    ]


def _picture(samples: Samples, row: int, target: str) -> bytes:
    """Draw the modalities of one sample side by side, and dense labels after them."""
    others = [name for name in samples.modalities if name != target]
    values = {name: np.asarray(samples.modalities[name][row]) for name in (target, *others)}
    count = len(values) + samples.dense
    figure = Figure(figsize=(SIDE * count, SIDE + 0.2))
    # A layout that is computed would take longer than the drawing.
    figure.subplots_adjust(0.02, 0.03, 0.98, SIDE / (SIDE + 0.2), wspace=0.06)
    grid = figure.subplots(1, count, squeeze=False)[0]
    for (name, value), axes in zip(values.items(), grid, strict=False):
        draw_sample(axes, value if samples.have([name])[row] else None)
        axes.set_title(name, size=8)
    if samples.dense:
        limit = len(samples.classes) - 1
        grid[-1].imshow(samples.labels[row], cmap="nipy_spectral", vmin=0, vmax=limit)
        grid[-1].set_title("label", size=8)
    for axes in grid:
        axes.set(xticks=[], yticks=[])
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()
