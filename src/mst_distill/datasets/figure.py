"""The dataset of a figure, which pages load again as a picture."""

from __future__ import annotations

from kedro_datasets.matplotlib import MatplotlibDataset


class FigureDataset(MatplotlibDataset):
    """Save a figure as PNG, as `MatplotlibDataset` does, and load the PNG as bytes."""

    def load(self) -> bytes:
        """Return the content of the file."""
        with self._fs.open(str(self._get_load_path()), mode="rb") as file:
            content: bytes = file.read()
        return content
