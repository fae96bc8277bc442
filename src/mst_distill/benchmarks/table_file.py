"""A table of samples, CSV or Parquet: its columns as text or numbers, and where each row stands."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mst_distill.benchmarks.raw_files import read_text
from mst_distill.errors import did_you_mean

TABLES = (".csv", ".parquet")
"""The suffixes of tables."""

LISTED = 5
"""Largest number of rows that an error names."""


@dataclass(frozen=True)
class TableFile:
    """The cells of some columns of a table.

    Attributes:
        path: The file.
        names: All columns of the file, in its order.
        cells: The columns that were read, by name; each has one cell for each row. A cell of a CSV
            is a text, one of Parquet has its type there, or is None.
        lines: The number of each row in the file: the line of a CSV, from 1, on which the row
            starts, or the row of a Parquet file, from 0.
    """

    path: Path
    names: Sequence[str]
    cells: dict[str, list[Any]]
    lines: Sequence[int]

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, rows: Collection[int]) -> str:
        """Return the lines of some rows for an error: ``line 7`` or ``lines 7, 9 and 3 more``."""
        unit = "line" if self.path.suffix.lower() == ".csv" else "row"
        numbers = [str(self.lines[row]) for row in list(rows)[:LISTED]]
        more = f" and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
        return f"{unit}{'s' * (len(rows) > 1)} {', '.join(numbers)}{more}"

    def texts(self, column: str) -> list[str]:
        """Return the cells of a column as texts without white space around them.

        A missing value is an empty text. Numbers of a Parquet file are written as Python does.
        """
        return [text_in(cell).strip() for cell in self.cells[column]]


def read_table(path: Path, columns: Collection[str] | None = None) -> TableFile:
    """Read some columns of a table.

    Rows of a CSV in which all cells are empty are skipped.

    Args:
        path: A CSV file in UTF-8 with commas between its columns, or a Parquet file.
        columns: The columns to read; by default, all.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file has another suffix or is damaged, the name of a column is empty or
            appears twice, a line of a CSV has more or fewer cells than the first, or a column does
            not exist; the message names file, line and column.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} is missing: put the table there")
    match path.suffix.lower():
        case ".csv":
            return _read_csv(path, columns)
        case ".parquet":
            return _read_parquet(path, columns)
    raise ValueError(f"{path}: a table must be a file {' or '.join(TABLES)}")


def header_of(path: Path) -> list[str]:
    """Return the columns of a table.

    Raises:
        FileNotFoundError, ValueError: See `read_table`.
    """
    return list(read_table(path, ()).names)


def text_in(cell: Any) -> str:
    """Return a cell as text; a missing value is an empty text."""
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return ""
    return str(cell)


def number_in(column: str, cell: Any) -> float:
    """Return the number in a cell; NaN if the cell is empty.

    Raises:
        ValueError: The cell is not a number; the message names the column.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return math.nan
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise ValueError(f"the column {column!r} is {cell!r}, which is not a number") from None


def _read_csv(path: Path, columns: Collection[str] | None) -> TableFile:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        names = next(reader, [])
        _check_names(path, names)
        wanted = _positions(path, names, columns)
        cells: dict[str, list[Any]] = {name: [] for name in wanted}
        lines = []
        line = reader.line_num + 1
        for row in reader:
            if any(cell.strip() for cell in row):
                if len(row) != len(names):
                    raise ValueError(
                        f"{path}, line {line}: has {len(row)} cells, but the first line has "
                        f"{len(names)}; a cell that contains a comma must be between quotes"
                    )
                lines.append(line)
                for name, position in wanted.items():
                    cells[name].append(row[position])
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a CSV ({error})") from error
    return TableFile(path, names, cells, lines)


def _read_parquet(path: Path, columns: Collection[str] | None) -> TableFile:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            _check_names(path, names)
            wanted = list(_positions(path, names, columns))
            table = file.read(columns=wanted)
            count = file.metadata.num_rows
    except (OSError, ArrowException) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error})") from error
    cells = {name: table.column(name).to_pylist() for name in wanted}
    return TableFile(path, names, cells, range(count))


def _check_names(path: Path, names: Sequence[str]) -> None:
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise ValueError(
            f"{path}: its first line has one column, {names[0]!r}; columns must be separated by "
            f"commas, not by semicolons or tabs"
        )
    if not names or not all(name.strip() for name in names):
        raise ValueError(f"{path}: each column must have a name, in the first line of a CSV")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path}: the column {twice[0]!r} appears twice")


def _positions(path: Path, names: Sequence[str], columns: Collection[str] | None) -> dict[str, int]:
    for column in columns or ():
        if column not in names:
            raise ValueError(f"{path}: {did_you_mean('column', column, names)}")
    return {
        name: position for position, name in enumerate(names) if columns is None or name in columns
    }
