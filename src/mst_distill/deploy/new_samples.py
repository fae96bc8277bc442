"""New samples of one modality: the files of a folder, or the rows of a table."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from mst_distill.benchmarks.raw_files import find_files
from mst_distill.benchmarks.table_file import TABLES, number_in
from mst_distill.errors import did_you_mean
from mst_distill.media.readers import Reader


@dataclass(frozen=True)
class NewBatch:
    """Some new samples.

    Attributes:
        ids: Their names.
        values: What the reader reads, in the same order; None for a value that does not exist.
        errors: Position of each value that does not exist, with the reason.
    """

    ids: Sequence[str]
    values: Sequence[Any]
    errors: Mapping[int, str] = field(default_factory=dict)


class NewSamples:
    """The samples of a folder or of a table, of which a few at a time are in memory.

    In a folder, each file with a suffix that the reader reads is a sample, also in subfolders, and
    its id is its path in the folder. In a table, each row is a sample; the column ``id`` is its id,
    or else the number of the row, from 0. Relative paths in a table start at the folder of the
    table.

    Args:
        source: The folder, or a table ``.csv`` or ``.parquet``.
        reader: The reader of the student.
        modality: The modality that the student sees.
        column: The column with paths or texts; by default that of the training table, or
            `modality` if the student was not trained on a table.

    Attributes:
        path: The folder or the table.

    Raises:
        FileNotFoundError: There is no such folder or table, or the folder has no file to read.
        ValueError: The table has another suffix, is damaged or lacks a column, the student needs a
            table and `source` is a folder, or `column` is given for numbers; the message says which
            columns.
    """

    def __init__(
        self, source: str, reader: Reader, modality: str, column: str | None = None
    ) -> None:
        self.path = Path(source)
        self._reader = reader
        if column and reader.takes == "numbers":
            raise ValueError(
                f"predict.column is {column!r}, but the student reads numbers, whose columns must "
                f"have the names of the training: {', '.join(reader.columns[:5])}, …"
            )
        self._columns = (column,) if column else reader.columns or (modality,)
        self._files: list[Path] = []
        if self.path.is_dir():
            self._files = self._find_files()
            self._length = len(self._files)
        elif not self.path.is_file():
            raise FileNotFoundError(f"{self.path.absolute()} is neither a folder nor a table")
        elif self.path.suffix.lower() not in TABLES:
            raise ValueError(
                f"{self.path}: a table must be a file {' or '.join(TABLES)}; for single files, "
                f"name their folder"
            )
        else:
            self._length = self._check_table()

    def __len__(self) -> int:
        return self._length

    def batches(self, size: int) -> Iterator[NewBatch]:
        """Yield all samples in order, at most `size` at a time."""
        if self._files:
            files = iter(self._files)
            while part := list(islice(files, size)):
                yield NewBatch([file.relative_to(self.path).as_posix() for file in part], part)
            return
        start = 0
        for table in self._tables(size):
            yield self._batch_of(table, start)
            start += len(table)

    def _find_files(self) -> list[Path]:
        if self._reader.takes != "path":
            raise ValueError(
                f"{self.path} is a folder, but the student reads {self._what()}: name a table"
            )
        files = find_files(self.path, self._reader.suffixes)
        if not files:
            suffixes = ", ".join(self._reader.suffixes)
            raise FileNotFoundError(f"{self.path} has no file {suffixes} to read")
        return files

    def _what(self) -> str:
        columns = list(self._columns)
        more = f" and {len(columns) - 5} more" if len(columns) > 5 else ""
        kind = {"path": "paths", "text": "texts", "numbers": "numbers"}[self._reader.takes]
        return f"{kind} in the column{'s' * (len(columns) > 1)} {', '.join(columns[:5])}{more}"

    def _check_table(self) -> int:
        """Check the columns of the table, and count its rows.

        Raises:
            ValueError: See the class.
        """
        try:
            names, length = _header_of(self.path)
        except Exception as error:  # pandas and Arrow raise errors of many types
            raise ValueError(f"{self.path} cannot be read as a table ({error})") from error
        hint = "" if self._reader.takes == "numbers" else "; or name it with predict.column"
        for column in self._columns:
            if column not in names:
                raise ValueError(
                    f"{self.path}: the student reads {self._what()}, but the table has no column "
                    f"{column!r}: {did_you_mean('column', column, names)}{hint}"
                )
        return length

    def _tables(self, size: int) -> Iterator[pd.DataFrame]:
        wanted = {"id", *self._columns}
        if self.path.suffix.lower() == ".csv":
            rows = _csv_rows(self.path)
            names = next(rows)
            while part := list(islice(rows, size)):
                yield pd.DataFrame(part, columns=names)[[name for name in names if name in wanted]]
            return
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self.path) as file:
            columns = [name for name in file.schema_arrow.names if name in wanted]
            for batch in file.iter_batches(size, columns=columns):
                yield batch.to_pandas(ignore_metadata=True)  # else a column may become an index

    def _batch_of(self, table: pd.DataFrame, start: int) -> NewBatch:
        numbers = range(start, start + len(table))
        ids = [str(id_) for id_ in table.get("id", numbers)]
        values: list[Any] = []
        errors: dict[int, str] = {}
        for position, row in enumerate(table[list(self._columns)].itertuples(index=False)):
            try:
                values.append(self._value_of(row))
            except ValueError as error:
                values.append(None)
                errors[position] = str(error)
        return NewBatch(ids, values, errors)

    def _value_of(self, row: Sequence[Any]) -> Any:
        """Return the raw value in a row of a table.

        Raises:
            ValueError: A cell is empty or is no number.
        """
        if self._reader.takes == "numbers":
            return [number_in(name, cell) for name, cell in zip(self._columns, row, strict=True)]
        (cell,) = row
        if not isinstance(cell, str) or not cell.strip():
            raise ValueError(f"the column {self._columns[0]!r} is empty")
        return self.path.parent / cell if self._reader.takes == "path" else cell


def _header_of(path: Path) -> tuple[list[str], int]:
    """Return the columns of a table and its number of rows; a few rows at a time are read."""
    if path.suffix.lower() == ".csv":
        rows = _csv_rows(path)
        return next(rows), sum(1 for _ in rows)
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        return list(file.schema_arrow.names), file.metadata.num_rows


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """Yield the names of the columns, then the cells of each row.

    Blank lines are skipped, except in a table of one column, where a blank line is an empty cell.

    Raises:
        ValueError: The file is empty or not UTF-8, or a row has another number of cells; the
            message names the line.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        names = next(reader, None)
        if not names:
            raise ValueError("it has no first line with the names of the columns")
        yield names
        for row in reader:
            cells = row or ([""] if len(names) == 1 else [])
            if cells and len(cells) != len(names):
                raise ValueError(
                    f"line {reader.line_num} has {len(cells)} cells, but the first line has "
                    f"{len(names)}; a cell that contains a comma must be between quotes"
                )
            if cells:
                yield cells
