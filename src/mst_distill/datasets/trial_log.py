"""Catalog entry of a comparison's log."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from mst_distill.compare.trial_store import TrialLog


class TrialLogDataset(AbstractDataset[NoReturn, TrialLog]):
    """Loads as a `TrialLog`, through which a node notes every trial when it is over.

    Args:
        filepath: The log's folder.
        metadata: Free for plugins.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> TrialLog:
        """Open the log, which may be empty."""
        return TrialLog(self._folder)

    def save(self, data: NoReturn) -> NoReturn:
        """Refuse: it is written trial by trial."""
        raise DatasetError(f"{self._folder} is written trial by trial, not at a node's end")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}
