"""The dataset of the comparisons of all benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
from kedro.io import AbstractDataset, DatasetError

from mst_distill.artifacts.provenance import Origin, verify

FILE = "trials.parquet"

Comparisons = dict[str, Callable[[], tuple[pd.DataFrame, Origin]]]
"""``BENCHMARK/compare/RUN`` to a function that loads a table of trials and its origin, verified."""


class ComparisonsDataset(AbstractDataset[NoReturn, Comparisons]):
    """Load all tables of trials that the pipeline `compare` wrote, of all benchmarks.

    Args:
        path: The folder that is searched for tables, with its subfolders.
        metadata: Not used by Kedro; for plugins.
    """

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata

    def load(self) -> Comparisons:
        """Find the tables; each is read when its function is called."""
        found = sorted(self._path.rglob(FILE))
        return {
            file.parent.relative_to(self._path).as_posix(): partial(_read, file) for file in found
        }

    def save(self, data: NoReturn) -> NoReturn:
        """Raise, because each comparison writes its own table."""
        raise DatasetError(f"{self._path} is written by the pipeline `compare` of each benchmark")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}


def _read(file: Path) -> tuple[pd.DataFrame, Origin]:
    try:
        origin = verify(file).origin
    except ValueError as error:
        raise ValueError(f"{error}. Run --pipeline=compare of that benchmark again") from error
    return pd.read_parquet(file), origin
