"""A .npy file that grows row by row: larger than memory if need be, and resumed after a stop."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy


class GrowingArray:
    """An array ``(rows, *shape)`` on disk that rows are appended to.

    Its header says how many rows there are only once it is `close`d: until then numpy sees none.

    Args:
        path: The .npy file; created, unless there are rows to keep.
        dtype: Of the numbers.
        shape: Of a row.
        rows: How many rows of a file that is there already are kept; what lies behind is cut off.
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
        """Go on with a file that was left unfinished, after its first `rows` rows."""
        with path.open("rb") as file:
            shape, dtype = _read_header(file)
        return cls(path, dtype, shape, rows)

    def append(self, rows: np.ndarray) -> None:
        """Write ``(n, *shape)`` behind what is there; on disk, not just under way, on return."""
        self._file.write(np.ascontiguousarray(rows).data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows += len(rows)

    def close(self) -> None:
        """Make it a whole .npy file."""
        self._write_header(self.rows)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _write_header(self, rows: int) -> None:
        # numpy pads the header for a first axis that grows, so it is of one length for any number.
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
    """SHA-256 of rows, as `GrowingArray.append` writes them."""
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


def digest_of_rows(path: Path, start: int, count: int) -> str:
    """SHA-256 of some rows of a file that may be unfinished; empty if its header is damaged.

    Args:
        path: The .npy file.
        start: The first row.
        count: How many.
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
    """The shape of a row and the type of its numbers; the file stands behind the header."""
    npy.read_magic(file)
    shape, _, dtype = npy.read_array_header_1_0(file)
    return shape[1:], dtype
