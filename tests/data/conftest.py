"""Fixtures for the tests of the sample store."""

from __future__ import annotations

from pathlib import Path

import pytest

from array_sources import SAMPLE_BYTES


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The raw file of a source."""
    (tmp_path / "raw.bin").write_bytes(b"raw")
    return tmp_path / "raw.bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store is built."""
    return tmp_path / "stores" / "samples"


@pytest.fixture
def slices_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven samples are read in slices of one, two, two and two."""
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", 2 * SAMPLE_BYTES)
