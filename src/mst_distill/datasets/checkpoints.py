"""Catalog entry of a run's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from mst_distill.artifacts.checkpoint import Checkpoints


class CheckpointsDataset(AbstractDataset[NoReturn, Checkpoints]):
    """Loads as the folder in which stages keep their state until the run is over.

    Args:
        filepath: The folder.
        metadata: Free for plugins.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> Checkpoints:
        """Open the folder, which need not be there."""
        return Checkpoints(self._folder)

    def save(self, data: NoReturn) -> NoReturn:
        """Refuse: stages write it as they go."""
        raise DatasetError(f"{self._folder} is written by stages as they go, not at a node's end")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}
