"""Catalog entries of nets: one bundle, or a folder of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import JSONPreview

from mst_distill.artifacts.bundle import ModelBundle, load_bundle, read_card, save_bundle
from mst_distill.artifacts.provenance import files_below


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

    def files(self) -> list[Path]:
        """The two files."""
        return [self._path, self._path.with_suffix(".safetensors")]

    def identity(self) -> str:
        """Equal for equal nets, whatever the JSON says of their origin."""
        return _identity({"": self._path})

    def preview(self) -> JSONPreview:
        """The JSON, for kedro-viz."""
        return JSONPreview(self._path.read_text())

    def _exists(self) -> bool:
        return self._path.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}


class ModelBundlesDataset(
    AbstractDataset[dict[str, ModelBundle], dict[str, Callable[[], ModelBundle]]]
):
    """A folder of bundles by name; a name may have slashes.

    Args:
        path: The folder. Saving replaces it as a whole.
        metadata: Free for plugins.
    """

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata

    def load(self) -> dict[str, Callable[[], ModelBundle]]:
        """Every name to a function that loads the bundle."""
        return {name: partial(load_bundle, path) for name, path in self._cards().items()}

    def save(self, data: dict[str, ModelBundle]) -> None:
        """Write all bundles beside the folder, and let them take its place."""
        pending = self._path.with_name(f".{self._path.name}.pending")
        shutil.rmtree(pending, ignore_errors=True)
        try:
            for name, bundle in data.items():
                save_bundle(bundle, pending / f"{name}.json")
            shutil.rmtree(self._path, ignore_errors=True)
            pending.rename(self._path)
        finally:
            shutil.rmtree(pending, ignore_errors=True)

    def files(self) -> list[Path]:
        """Every file of the folder."""
        return files_below(self._path)

    def identity(self) -> str:
        """Equal for equal nets under equal names, whatever the JSON says of their origin."""
        return _identity(self._cards())

    def _cards(self) -> dict[str, Path]:
        cards = (path for path in files_below(self._path) if path.suffix == ".json")
        return {path.relative_to(self._path).with_suffix("").as_posix(): path for path in cards}

    def _exists(self) -> bool:
        return bool(self._cards())

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}


def _identity(cards: dict[str, Path]) -> str:
    """SHA-256 over names, classes, arguments and weights."""
    nets = {name: read_card(path) for name, path in cards.items()}
    kept = {
        name: [card["type"], card["arguments"], card["weights"]["sha256"]]
        for name, card in nets.items()
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
