"""Catalog entry of a model bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import JSONPreview

from mst_distill.bundle import ModelBundle, load_bundle, save_bundle


class ModelBundleDataset(AbstractDataset[ModelBundle, ModelBundle]):
    """A net's weights as safetensors beside a JSON that can build it again.

    Args:
        filepath: The JSON; the weights lie beside it.
        metadata: Free for plugins.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self.metadata = metadata

    def load(self) -> ModelBundle:
        """Build the net and load its weights."""
        return load_bundle(self._path)

    def save(self, data: ModelBundle) -> None:
        """Write weights and JSON."""
        save_bundle(data, self._path)

    def preview(self) -> JSONPreview:
        """The JSON, for kedro-viz."""
        return JSONPreview(self._path.read_text())

    def _exists(self) -> bool:
        return self._path.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}
