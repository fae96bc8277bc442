"""A .npy file to which rows are appended, in one run or after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from mst_distill.data.appendable_npy import GrowingArray

SHAPES = [(), (3,), (2, 4, 5), (0,)]
DTYPES = ["float32", "uint8", "int64", "bool"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "grown.npy"


def random_rows(rows: int, shape: tuple[int, ...] = (3,), dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 200, (rows, *shape)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numpy_loads_the_appended_rows(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    rows = random_rows(9, shape, dtype)
    array = GrowingArray(path, np.dtype(dtype), shape)
    for chunk in (rows[:1], rows[1:1], rows[1:6], rows[6:]):
        array.append(chunk)
    array.close()
    assert array.rows == 9
    loaded = np.load(path)
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(loaded, rows)
    if np.prod(shape):
        np.testing.assert_array_equal(np.load(path, mmap_mode="r"), rows)


def test_rows_that_are_not_contiguous_in_memory_are_written_in_order(path: Path) -> None:
    whole = random_rows(8, (4, 6))
    array = GrowingArray(path, whole.dtype, (6, 4))
    array.append(whole.transpose(0, 2, 1)[::2])
    array.close()
    np.testing.assert_array_equal(np.load(path), np.stack([row.T for row in whole[::2]]))


def test_numpy_loads_no_rows_until_the_file_is_closed(path: Path) -> None:
    array = GrowingArray(path, np.dtype("float32"), (3,))
    array.append(random_rows(5))
    assert np.load(path).shape == (0, 3)
    array.close()
    assert np.load(path).shape == (5, 3)


@pytest.mark.parametrize("shape", [(), (3,), (2, 4, 5)], ids=str)
@pytest.mark.parametrize("kept", [1, 4, 7])
@pytest.mark.parametrize("closed", [False, True])
def test_a_reopened_file_continues_after_the_kept_rows(
    path: Path, shape: tuple[int, ...], kept: int, closed: bool
) -> None:
    first, second = random_rows(7, shape), random_rows(4, shape) + 1000
    array = GrowingArray(path, first.dtype, shape)
    array.append(first)
    if closed:
        array.close()
    reopened = GrowingArray.reopen(path, kept)
    assert (reopened.rows, reopened.shape, reopened.dtype) == (kept, shape, first.dtype)
    assert np.load(path).shape == (0, *shape)
    reopened.append(second)
    reopened.close()
    np.testing.assert_array_equal(np.load(path), np.concatenate([first[:kept], second]))


def test_bytes_after_the_kept_rows_are_cut_off(path: Path) -> None:
    array = GrowingArray(path, np.dtype("float32"), (3,))
    array.append(random_rows(5))
    with path.open("ab") as file:
        file.write(b"half a row")
    GrowingArray.reopen(path, 5).close()
    np.testing.assert_array_equal(np.load(path), random_rows(5))
    with path.open("rb") as file:
        npy.read_magic(file)
        npy.read_array_header_1_0(file)
        assert len(file.read()) == 5 * 3 * 4


def test_a_new_array_replaces_an_existing_file(path: Path) -> None:
    path.write_bytes(b"something else" * 99)
    array = GrowingArray(path, np.dtype("uint8"), (2,))
    array.append(random_rows(1, (2,), "uint8"))
    array.close()
    np.testing.assert_array_equal(np.load(path), random_rows(1, (2,), "uint8"))


@pytest.mark.parametrize("shape", [(), (3,), (3, 480, 640)], ids=str)
@pytest.mark.parametrize("rows", [9, 10, 99_999, 10**7, 10**12])
def test_the_header_has_the_same_length_for_any_number_of_rows(
    path: Path, shape: tuple[int, ...], rows: int
) -> None:
    """The header is rewritten by `close`; a longer header would overwrite the rows."""
    array = GrowingArray(path, np.dtype("float32"), shape)
    if np.prod(shape) < 10:
        array.append(np.full((2, *shape), 7, np.float32))
    before = path.read_bytes()
    array.rows = rows  # as if this many had been appended
    array.close()
    after = path.read_bytes()
    with path.open("rb") as file:
        npy.read_magic(file)
        assert npy.read_array_header_1_0(file)[0] == (rows, *shape)
        start = file.tell()
    assert len(after) == len(before)
    assert after[start:] == before[start:]


def test_the_size_of_a_row_in_bytes(path: Path) -> None:
    assert GrowingArray(path, np.dtype("float32"), (512, 10, 7, 7)).row_bytes == 1_003_520
    assert GrowingArray(path, np.dtype("uint8"), ()).row_bytes == 1
