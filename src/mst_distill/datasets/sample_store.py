"""The dataset of a sample store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import TablePreview

from mst_distill.artifacts.provenance import files_below
from mst_distill.benchmarks.source import SampleSource
from mst_distill.data.samples import Samples
from mst_distill.data.store import open_store, write_store


class SampleStoreDataset(AbstractDataset[SampleSource, Samples]):
    """Save the samples of a source slice by slice, and load them memory-mapped.

    Args:
        filepath: The folder of the store.
        metadata: Not used by Kedro; for plugins.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> Samples:
        """Open the store."""
        return open_store(self._folder)

    def save(self, data: SampleSource) -> None:
        """Build the store, unless it holds the samples of this source already."""
        write_store(data, self._folder)

    def files(self) -> list[Path]:
        """Return all files of the store."""
        return files_below(self._folder)

    def identity(self) -> str:
        """Return the digest of the samples, which is equal for equal data from any files."""
        return open_store(self._folder).digest

    def preview(self, nrows: int = 5) -> TablePreview:
        """Return the first rows of the index, for kedro-viz."""
        head = open_store(self._folder).index.head(nrows)
        return TablePreview(head.to_dict(orient="split"))

    def _exists(self) -> bool:
        return (self._folder / "store.json").is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}
