"""Headroom, against values counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mst_distill.diagnose.headroom import NEGLIGIBLE, headroom
from mst_distill.evaluate.bootstrap import Bootstrap
from toy_diagnoses import matrix_of

SOURCES = ["one", "other"]


def headroom_of(matrix, others=("student",), resamples=300):
    return headroom(matrix, SOURCES, "mixed", list(others), Bootstrap(resamples, 0.95, 0))


def test_class_labels_by_hand():
    found = headroom_of(
        matrix_of(
            {
                "one": [1, 1, 1, 0, 0],
                "other": [0, 0, 1, 1, 0],
                "mixed": [1, 0, 1, 0, 0],
                "student": [1, 0, 0, 0, 0],
            },
            nll={
                "one": [0.1, 0.2, 0.3, 2.0, 3.0],
                "other": [1.0, 1.0, 0.1, 0.1, 2.0],
                "mixed": [0.5, 0.5, 0.2, 0.5, 2.3],
                "student": [1.0, 1.0, 1.0, 1.0, 1.0],
            },
        )
    )
    assert found["best_single"] == "one"
    assert found["disputed"] == pytest.approx(3 / 5)
    accuracy = {name: of["value"] for name, of in found["accuracy"].items()}
    assert accuracy == pytest.approx(
        {
            "oracle": 4 / 5,
            "uniform mixture": 2 / 5,
            "best single": 3 / 5,
            "student": 1 / 5,
            "headroom": 1 / 5,
        }
    )
    nll = {name: of["value"] for name, of in found["nll"].items()}
    assert nll["oracle"] == pytest.approx((0.1 + 0.2 + 0.1 + 0.1 + 2.0) / 5)
    assert nll["best single"] == pytest.approx(4.2 / 5)  # of "other", whose NLL is lower
    assert nll["uniform mixture"] == pytest.approx(4.0 / 5)
    assert nll["headroom"] == pytest.approx((4.0 - 2.5) / 5)


def test_with_dense_labels_images_are_weighted_by_their_pixels():
    found = headroom_of(
        matrix_of(
            {"one": [5, 30], "other": [9, 10], "mixed": [6, 20], "student": [0, 0]},
            labelled=[10, 40],
            nll={"one": [1, 1], "other": [2, 3], "mixed": [1.5, 2], "student": [1, 1]},
        )
    )
    accuracy = {name: of["value"] for name, of in found["accuracy"].items()}
    assert accuracy["oracle"] == pytest.approx(39 / 50)
    assert accuracy["headroom"] == pytest.approx(39 / 50 - 35 / 50)
    assert found["nll"]["best single"]["value"] == pytest.approx(1)
    assert found["nll"]["uniform mixture"]["value"] == pytest.approx((1.5 * 10 + 2 * 40) / 50)


def test_headroom_is_0_if_the_mixture_is_as_good_as_the_oracle():
    right = np.random.default_rng(0).integers(2, size=(2, 50))
    both = right.max(axis=0)
    found = headroom_of(
        matrix_of({"one": right[0], "other": right[1], "mixed": both, "student": both})
    )
    none = {"value": 0.0, "low": np.nan, "high": np.nan}
    assert found["accuracy"]["headroom"] == pytest.approx(none, nan_ok=True)
    assert NEGLIGIBLE > 0


def test_the_best_single_source_is_selected_again_in_every_resample():
    """Two sources are correct on complementary halves, so headroom is at most 50 %."""
    first = np.arange(400) % 2
    found = headroom_of(
        matrix_of({"one": first, "other": 1 - first, "mixed": first, "student": first}),
        resamples=1000,
    )
    room = found["accuracy"]["headroom"]
    assert room["value"] == pytest.approx(0.5)
    assert room["high"] <= 0.5
    # 1 - max(p, 1 - p) for p about 0.5 with a deviation of 0.025.
    assert room["low"] == pytest.approx(0.5 - 2.24 * 0.025, abs=0.01)
