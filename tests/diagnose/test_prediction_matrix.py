"""Conversion of predictions to arrays, paired by id."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mst_distill.diagnose.prediction_matrix import PredictionMatrix

TABLE = pd.DataFrame(
    {
        "id": ["a", "b", "c", "c", "a", "b"],
        "group": ["x", "y", "x", "x", "x", "y"],
        "label": [0, 1, 1, 1, 0, 1],
        "model": ["one", "one", "one", "other", "other", "other"],
        "correct": [1, 0, 1, 4, 5, 6],
        "nll": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "labelled": [10, 20, 30, 30, 10, 20],
    }
)


def test_samples_are_paired_by_id_in_any_order():
    found = PredictionMatrix.of(TABLE)
    assert found.models == ("one", "other")
    assert found.ids.tolist() == ["a", "b", "c"]
    assert found.labels.tolist() == [0, 1, 1]
    assert found.labelled.tolist() == [10, 20, 30]
    assert found.correct.tolist() == [[1, 5], [0, 6], [1, 4]]
    assert found.nll.tolist() == [[0.1, 0.5], [0.2, 0.6], [0.3, 0.4]]


def test_take_selects_columns():
    found = PredictionMatrix.of(TABLE).take(["other"])
    assert found.models == ("other",)
    assert found.correct.tolist() == [[5], [6], [4]]


def test_accuracy_is_a_share_of_pixels():
    np.testing.assert_allclose(PredictionMatrix.of(TABLE).accuracy(), [2 / 60, 15 / 60])
