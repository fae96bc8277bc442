"""The journal of a store in progress: the rows that are written, for a build that is resumed."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

from mst_distill.artifacts import signed_json
from mst_distill.artifacts.atomic import replacing
from mst_distill.data.appendable_npy import digest_of_rows

log = logging.getLogger(__name__)


@dataclass
class Journal:
    """The slices written so far, one line for each: a stop loses only the slice in progress.

    A line carries the SHA-256 of its slice of every array. When a journal is opened, the first
    damaged line or slice and all that follow are dropped, and are written again.

    Attributes:
        path: The file.
        arrays: Names of the arrays, in the order in which the source returned them.
        rows: Number of rows of the source's index that are done, including the omitted ones.
        omitted: Samples that were not written, id to reason.
        notes: The notes of the written samples, one table for each slice.
    """

    path: Path
    arrays: list[str] = field(default_factory=list)
    rows: int = 0
    omitted: dict[str, str] = field(default_factory=dict)
    notes: list[pd.DataFrame] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, store: Path) -> Journal:
        """Read a journal, if there is one, and drop what is damaged.

        Args:
            path: The file.
            store: The folder of the arrays.
        """
        journal = cls(path)
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            intact = list(takewhile(partial(journal._restore, store), lines))
            with replacing(path) as file:
                file.write_text("".join(f"{line}\n" for line in intact), encoding="utf-8")
            log.info("Continuing after the %d samples that were already read", journal.rows)
        return journal

    @property
    def written(self) -> int:
        """Number of samples in the arrays."""
        return self.rows - len(self.omitted)

    def add(
        self,
        arrays: dict[str, str],
        rows: int,
        omitted: dict[str, str],
        notes: dict[str, list[float]],
    ) -> None:
        """Record that the next `rows` rows of the index are on disk, except the omitted ones.

        Args:
            arrays: SHA-256 of the slice of each array.
            rows: Number of rows of the index, including the omitted ones.
            omitted: Samples that were not written, id to reason.
            notes: For each note, one number for each sample that was written.
        """
        slice_ = {"arrays": arrays, "rows": rows, "omitted": omitted, "notes": notes}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{signed_json.dump(slice_)}\n")
            file.flush()
            os.fsync(file.fileno())
        self._count(slice_)

    def _restore(self, store: Path, line: str) -> bool:
        """Count the slice of a line if the line and the slice are intact; return whether it is."""
        try:
            slice_ = signed_json.load(line)
        except ValueError:
            return False
        count = slice_["rows"] - len(slice_["omitted"])
        for name, digest in slice_["arrays"].items():
            if digest_of_rows(store / f"{name}.npy", self.written, count) != digest:
                log.warning("%s.npy is damaged after %d samples", store / name, self.written)
                return False
        self._count(slice_)
        return True

    def _count(self, slice_: dict[str, Any]) -> None:
        # A slice without a single readable sample has no arrays.
        self.arrays = list(slice_["arrays"]) or self.arrays
        self.rows += slice_["rows"]
        self.omitted |= slice_["omitted"]
        self.notes.append(pd.DataFrame(slice_["notes"]))
