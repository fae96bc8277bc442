"""A .npy file to which rows are appended, so that it may be larger than memory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy


class GrowingArray:
    """An array ``(rows, *shape)`` on disk to which rows are appended.

    The number of rows is written to the header by `close`; until then numpy loads an empty array.

    Args:
        path: The .npy file. It is created or overwritten unless `rows` is positive.
        dtype: Type of the numbers.
        shape: Shape of one row.
        rows: Number of rows of an existing file to keep; the rest of the file is cut off.
    """

    def __init__(
        self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], rows: int = 0
    ) -> None:
        self.dtype, self.shape, self.rows = dtype, shape, rows
        self.row_bytes = dtype.itemsize * int(np.prod(shape))
        self._file = path.open("r+b" if rows else "w+b")
        self._write_header(0)
        self._file.truncate(self._file.tell() + rows * self.row_bytes)
        self._file.seek(0, os.SEEK_END)

    @classmethod
    def reopen(cls, path: Path, rows: int) -> GrowingArray:
        """Continue an unfinished file after its first `rows` rows."""
        with path.open("rb") as file:
            shape, dtype = _read_header(file)
        return cls(path, dtype, shape, rows)

    def append(self, rows: np.ndarray) -> None:
        """Append rows ``(n, *shape)``. They are on disk when the method returns."""
        self._file.write(np.ascontiguousarray(rows).data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows += len(rows)

    def close(self) -> None:
        """Write the number of rows to the header, which completes the file, and close it."""
        self._write_header(self.rows)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _write_header(self, rows: int) -> None:
        # numpy pads the header so that the first axis can grow: its length is the same for any
        # number of rows, and rewriting it leaves the rows where they are.
        self._file.seek(0)
        npy.write_array_header_1_0(
            self._file,
            {
                "descr": npy.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": (rows, *self.shape),
            },
        )


def digest_of(rows: np.ndarray) -> str:
    """Return the SHA-256 of rows as `GrowingArray.append` writes them."""
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


def digest_of_rows(path: Path, start: int, count: int) -> str:
    """Return the SHA-256 of some rows of a file, which may be unfinished.

    Args:
        path: The .npy file.
        start: The first row.
        count: The number of rows.

    Returns:
        The digest; an empty string if the file cannot be read or its header is damaged.
    """
    try:
        with path.open("rb") as file:
            shape, dtype = _read_header(file)
            row_bytes = dtype.itemsize * int(np.prod(shape))
            file.seek(start * row_bytes, os.SEEK_CUR)
            return hashlib.sha256(file.read(count * row_bytes)).hexdigest()
    except (OSError, ValueError):
        return ""


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape of a row and the type of its numbers; leave the file after the header."""
    npy.read_magic(file)
    shape, _, dtype = npy.read_array_header_1_0(file)
    return shape[1:], dtype
