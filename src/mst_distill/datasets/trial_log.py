"""The dataset of a comparison's log of trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from mst_distill.compare.trial_store import TrialLog


class TrialLogDataset(AbstractDataset[NoReturn, TrialLog]):
    """Load a `TrialLog`, to which a node writes every trial when it has ended.

    Args:
        filepath: The folder of the log.
        metadata: Not used by Kedro; for plugins.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> TrialLog:
        """Open the log, which may be empty."""
        return TrialLog(self._folder)

    def save(self, data: NoReturn) -> NoReturn:
        """Raise, because the log is written trial by trial."""
        raise DatasetError(f"{self._folder} is written trial by trial, not at a node's end")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}
