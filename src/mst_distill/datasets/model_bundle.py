"""The datasets of nets: one model bundle, or a folder of bundles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import JSONPreview

from mst_distill.artifacts.atomic import replacing_folder
from mst_distill.artifacts.bundle import (
    OWN_ONLY,
    Classes,
    ModelBundle,
    load_bundle,
    read_card,
    save_bundle,
)
from mst_distill.artifacts.provenance import files_below


class ModelBundleDataset(AbstractDataset[ModelBundle, ModelBundle]):
    """A net: its weights as safetensors, and a JSON from which it is built.

    Args:
        filepath: The JSON; the weights are in the same folder.
        metadata: Not used by Kedro; for plugins.

    Attributes:
        allowed: The classes outside of this package that are built, see `load_bundle`; the catalog
            sets those of the parameters.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self.metadata = metadata
        self.allowed: Classes = OWN_ONLY

    def load(self) -> ModelBundle:
        """Build the net and load its weights."""
        return load_bundle(self._path, self.allowed)

    def save(self, data: ModelBundle) -> None:
        """Write the weights and the JSON."""
        save_bundle(data, self._path)

    def files(self) -> list[Path]:
        """Return the two files."""
        return [self._path, self._path.with_suffix(".safetensors")]

    def identity(self) -> str:
        """Return a digest that is equal for equal nets, also if their origins differ."""
        return _identity({"": self._path})

    def preview(self) -> JSONPreview:
        """Return the JSON, for kedro-viz."""
        return JSONPreview(self._path.read_text(encoding="utf-8"))

    def _exists(self) -> bool:
        return self._path.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}


class ModelBundlesDataset(
    AbstractDataset[dict[str, ModelBundle], dict[str, Callable[[], ModelBundle]]]
):
    """A folder of bundles by name; a name may contain slashes.

    Args:
        path: The folder; saving replaces it as a whole.
        metadata: Not used by Kedro; for plugins.

    Attributes:
        allowed: As in `ModelBundleDataset`.
    """

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata
        self.allowed: Classes = OWN_ONLY

    def load(self) -> dict[str, Callable[[], ModelBundle]]:
        """Return, for each name, a function that loads the bundle."""
        cards = self._cards()
        return {name: partial(load_bundle, cards[name], self.allowed) for name in cards}

    def save(self, data: dict[str, ModelBundle]) -> None:
        """Write all bundles to a pending folder, which then replaces the old one."""
        with replacing_folder(self._path) as folder:
            for name, bundle in data.items():
                save_bundle(bundle, folder / f"{name}.json")

    def files(self) -> list[Path]:
        """Return all files of the folder."""
        return files_below(self._path)

    def identity(self) -> str:
        """Return a digest that is equal for equal nets under equal names, for any origin."""
        return _identity(self._cards())

    def _cards(self) -> dict[str, Path]:
        cards = (path for path in files_below(self._path) if path.suffix == ".json")
        return {path.relative_to(self._path).with_suffix("").as_posix(): path for path in cards}

    def _exists(self) -> bool:
        return bool(self._cards())

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}


def _identity(cards: dict[str, Path]) -> str:
    """Return the SHA-256 over names, classes, arguments and weights."""
    contents = {name: read_card(path) for name, path in cards.items()}
    nets = {
        name: [card["type"], card["arguments"], card["weights"]["sha256"]]
        for name, card in contents.items()
    }
    return hashlib.sha256(json.dumps(nets, sort_keys=True).encode()).hexdigest()
