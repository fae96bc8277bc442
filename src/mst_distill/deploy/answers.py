"""Probabilities as a table of answers: labels, confidence, and where the student abstains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

ABSTAINED = 255
"""The class of a pixel that has no label."""


def answer_table(
    probabilities: np.ndarray,
    errors: Mapping[int, str],
    classes: Sequence[str],
    least_confidence: float = 0.0,
) -> tuple[pd.DataFrame, list[np.ndarray | None]]:
    """Return a row for each value that was read, with one for each error in between.

    Args:
        probabilities: ``(k, C)`` or, for dense labels, ``(k, C, H, W)``, of the values that were
            read, in their order.
        errors: The position of each other value, with what is wrong with it.
        classes: The names of the C classes.
        least_confidence: A value, or a pixel, with a smaller confidence gets no label.

    Returns:
        A table with the columns ``label`` (empty where the student abstains and for dense labels),
        ``confidence``, ``p:CLASS`` for each class (for dense labels the means over the pixels) and
        ``error``, where there is one; and for dense labels the position of the class of each pixel,
        ``(H, W)`` bytes, `ABSTAINED` where the student abstains.
    """
    length = len(probabilities) + len(errors)
    read = [row for row in range(length) if row not in errors]
    confidence, best = probabilities.max(axis=1), probabilities.argmax(axis=1)
    maps: list[np.ndarray | None] = [None] * length
    labels: np.ndarray | str = ""
    if probabilities.ndim > 2:
        pixels = np.where(confidence < least_confidence, ABSTAINED, best).astype(np.uint8)
        for row, each in zip(read, pixels, strict=True):
            maps[row] = each
        probabilities, confidence = probabilities.mean(axis=(2, 3)), confidence.mean(axis=(1, 2))
    else:
        names = np.array(classes, dtype=object)[best]
        labels = np.where(confidence < least_confidence, "", names)
    columns = [f"p:{name}" for name in classes]
    answers = pd.DataFrame(probabilities, read, columns)
    answers.insert(0, "confidence", confidence)
    answers.insert(0, "label", labels)
    table = answers.reindex(range(length)).fillna({"label": ""})
    table["error"] = [errors.get(row, "") for row in range(length)]
    return table, maps
