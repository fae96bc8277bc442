"""A .npy file that grows: what numpy reads of it, before and after a stop."""

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


def numbers(rows: int, shape: tuple[int, ...] = (3,), dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(rows).integers(0, 200, (rows, *shape)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_appended_is_what_numpy_loads(
    path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    rows = numbers(9, shape, dtype)
    array = GrowingArray(path, np.dtype(dtype), shape)
    for part in (rows[:1], rows[1:1], rows[1:6], rows[6:]):
        array.append(part)
    array.close()
    assert array.rows == 9
    loaded = np.load(path)
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(loaded, rows)
    if np.prod(shape):
        np.testing.assert_array_equal(np.load(path, mmap_mode="r"), rows)


def test_rows_that_do_not_lie_side_by_side_in_memory_are_written_in_order(path: Path) -> None:
    whole = numbers(8, (4, 6))
    array = GrowingArray(path, whole.dtype, (6, 4))
    array.append(whole.transpose(0, 2, 1)[::2])
    array.close()
    np.testing.assert_array_equal(np.load(path), np.stack([row.T for row in whole[::2]]))


def test_until_it_is_closed_numpy_sees_no_rows(path: Path) -> None:
    array = GrowingArray(path, np.dtype("float32"), (3,))
    array.append(numbers(5))
    assert np.load(path).shape == (0, 3)
    array.close()
    assert np.load(path).shape == (5, 3)


@pytest.mark.parametrize("shape", [(), (3,), (2, 4, 5)], ids=str)
@pytest.mark.parametrize("kept", [1, 4, 7])
@pytest.mark.parametrize("closed", [False, True])
def test_it_goes_on_behind_the_rows_that_are_kept(
    path: Path, shape: tuple[int, ...], kept: int, closed: bool
) -> None:
    first, second = numbers(7, shape), numbers(4, shape) + 1000
    array = GrowingArray(path, first.dtype, shape)
    array.append(first)
    if closed:
        array.close()
    again = GrowingArray.reopen(path, kept)
    assert (again.rows, again.shape, again.dtype) == (kept, shape, first.dtype)
    assert np.load(path).shape == (0, *shape)
    again.append(second)
    again.close()
    np.testing.assert_array_equal(np.load(path), np.concatenate([first[:kept], second]))


def test_garbage_behind_the_kept_rows_is_cut_off(path: Path) -> None:
    array = GrowingArray(path, np.dtype("float32"), (3,))
    array.append(numbers(5))
    with path.open("ab") as file:
        file.write(b"half a row")
    GrowingArray.reopen(path, 5).close()
    np.testing.assert_array_equal(np.load(path), numbers(5))
    with path.open("rb") as file:
        npy.read_magic(file)
        npy.read_array_header_1_0(file)
        assert len(file.read()) == 5 * 3 * 4


def test_a_new_one_replaces_what_was_there(path: Path) -> None:
    path.write_bytes(b"something else" * 99)
    array = GrowingArray(path, np.dtype("uint8"), (2,))
    array.append(numbers(1, (2,), "uint8"))
    array.close()
    np.testing.assert_array_equal(np.load(path), numbers(1, (2,), "uint8"))


@pytest.mark.parametrize("shape", [(), (3,), (3, 480, 640)], ids=str)
@pytest.mark.parametrize("rows", [9, 10, 99_999, 10**7, 10**12])
def test_any_number_of_rows_leaves_the_numbers_where_they_are(
    path: Path, shape: tuple[int, ...], rows: int
) -> None:
    """The header is written anew on closing; one of another length would overwrite the numbers."""
    array = GrowingArray(path, np.dtype("float32"), shape)
    if np.prod(shape) < 10:
        array.append(np.full((2, *shape), 7, np.float32))
    before = path.read_bytes()
    array.rows = rows  # as if so many had been appended
    array.close()
    after = path.read_bytes()
    with path.open("rb") as file:
        npy.read_magic(file)
        assert npy.read_array_header_1_0(file)[0] == (rows, *shape)
        start = file.tell()
    assert len(after) == len(before)
    assert after[start:] == before[start:]


def test_the_bytes_of_a_row_are_known(path: Path) -> None:
    assert GrowingArray(path, np.dtype("float32"), (512, 10, 7, 7)).row_bytes == 1_003_520
    assert GrowingArray(path, np.dtype("uint8"), ()).row_bytes == 1
