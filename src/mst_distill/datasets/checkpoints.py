"""The dataset of a run's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from mst_distill.artifacts.checkpoint import Checkpoints


class CheckpointsDataset(AbstractDataset[NoReturn, Checkpoints]):
    """Load the folder in which stages save their state until the run has ended.

    Args:
        filepath: The folder.
        metadata: Not used by Kedro; for plugins.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> Checkpoints:
        """Return the folder, which need not exist."""
        return Checkpoints(self._folder)

    def save(self, data: NoReturn) -> NoReturn:
        """Raise, because stages write to the folder while they train."""
        raise DatasetError(f"{self._folder} is written while stages train, not at a node's end")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}
