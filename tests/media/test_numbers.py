"""Standardised numbers, compared with figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mst_distill.media.numbers import StandardisedNumbers
from mst_distill.media.readers import UnreadableValueError

NAN = float("nan")


def fitted(*rows: list[float]) -> StandardisedNumbers:
    reader = StandardisedNumbers(("a", "b", "c"))
    reader.fit(iter(rows))
    return reader


def test_numbers_are_scaled_by_the_mean_and_deviation_of_the_training_samples() -> None:
    """Of 1, 3 the mean is 2 and the deviation 1; of 0, 4 (one is empty) they are 2 and 2."""
    reader = fitted([1, 0, 7], [3, 4, 7], [2, NAN, 7])
    np.testing.assert_allclose(reader.fitted["mean"], [2, 2, 7])
    deviation = np.sqrt(2 / 3)
    read = reader.read([[2 + deviation, 6, 7], [2, NAN, 9]])
    np.testing.assert_allclose(read, [[1, 2, 0], [0, 0, 0]], atol=1e-6)
    assert read.dtype == np.float32


def test_a_row_that_cannot_be_read_is_not_fitted_on_and_is_named() -> None:
    reader = fitted([1, 0, 7], [3, 4, 7], [2, float("inf"), 7], [1, 2])
    np.testing.assert_allclose(reader.fitted["mean"], [2, 2, 7])
    with pytest.raises(UnreadableValueError, match="column 'b' is infinite") as error:
        reader.read([[1, 2, 3], [1, float("inf"), 3]])
    assert error.value.position == 1
    with pytest.raises(UnreadableValueError, match="has 2 numbers; 3 are required"):
        reader.read([[1, 2]])


def test_a_column_that_is_empty_in_the_training_is_0_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = fitted([1, NAN, 7], [3, NAN, 7])
    assert "column 'b' has no number in any training sample and is 0" in caplog.text
    np.testing.assert_allclose(reader.read([[3, NAN, 7], [1, 5, 7]]), [[1, 0, 0], [-1, 0, 0]])


def test_a_row_without_any_number_cannot_be_read() -> None:
    with pytest.raises(UnreadableValueError, match="there is no number in a, b, c"):
        fitted([1, 2, 3], [4, 5, 6]).read([[NAN, NAN, NAN]])
    with pytest.raises(ValueError, match=r"none of 1 training values .* 3 are required"):
        fitted([1])
