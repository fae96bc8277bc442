"""Predictions become arrays, paired by id."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mst_distill.diagnose.prediction_matrix import Outcomes

TABLE = pd.DataFrame(
    {
        "id": ["a", "b", "c", "c", "a", "b"],
        "label": [0, 1, 1, 1, 0, 1],
        "model": ["one", "one", "one", "other", "other", "other"],
        "correct": [1, 0, 1, 4, 5, 6],
        "nll": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "judged": [10, 20, 30, 30, 10, 20],
    }
)


def test_a_row_a_sample_and_a_column_a_model_whatever_the_order():
    found = Outcomes.of(TABLE)
    assert found.models == ("one", "other")
    assert found.ids.tolist() == ["a", "b", "c"]
    assert found.labels.tolist() == [0, 1, 1]
    assert found.judged.tolist() == [10, 20, 30]
    assert found.correct.tolist() == [[1, 5], [0, 6], [1, 4]]
    assert found.nll.tolist() == [[0.1, 0.5], [0.2, 0.6], [0.3, 0.4]]


def test_some_models_in_another_order():
    found = Outcomes.of(TABLE).take(["other"])
    assert found.models == ("other",)
    assert found.correct.tolist() == [[5], [6], [4]]


def test_accuracy_is_over_pixels():
    np.testing.assert_allclose(Outcomes.of(TABLE).accuracy(), [2 / 60, 15 / 60])
