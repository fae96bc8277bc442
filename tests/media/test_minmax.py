"""Scaling of each sample by its own minimum and maximum."""

from __future__ import annotations

import numpy as np

from mst_distill.media.minmax import scale_min_max


def test_every_sample_is_scaled_by_its_own_minimum_and_maximum() -> None:
    values = np.array([[[0, 2], [4, 8]], [[-1, -1], [-3, 1]]])
    expected = [[[0, 0.25], [0.5, 1]], [[0.5, 0.5], [0, 1]]]
    found = scale_min_max(values)
    assert found.dtype == np.float32
    assert found.tolist() == expected


def test_a_constant_sample_becomes_0() -> None:
    assert scale_min_max(np.array([[7.0, 7.0], [7.0, 8.0]])).tolist() == [[0, 0], [0, 1]]


def test_scaling_does_not_change_its_input() -> None:
    values = np.array([[1.0, 3.0]])
    scale_min_max(values)
    assert values.tolist() == [[1.0, 3.0]]
