"""The dataset of figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mst_distill.datasets import FigureDataset
from mst_distill.datasets.catalog import ArtifactCatalog


def test_a_figure_is_saved_as_png_and_loaded_as_its_bytes(tmp_path: Path) -> None:
    dataset = FigureDataset(filepath=str(tmp_path / "a.png"), save_args={"dpi": 20})
    dataset.save(Figure(figsize=(2, 1)))
    content = dataset.load()
    assert content == (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert [int.from_bytes(content[at : at + 4]) for at in (16, 20)] == [40, 20]  # width, height


def test_a_figure_replaces_another_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    dataset = FigureDataset(filepath=str(path), save_args={"dpi": 20})
    dataset.save(Figure(figsize=(2, 1)))
    before = dataset.load()
    catalog = ArtifactCatalog({"figure": dataset})

    def save_and_stop() -> None:
        with catalog._replacing("figure", path):
            catalog["figure"].save(Figure(figsize=(3, 3)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_and_stop()
    assert dataset.load() == before
    assert [file.name for file in tmp_path.glob("*.png*")] == ["a.png"]
