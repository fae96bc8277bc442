"""Raw files below a folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


def find_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Find the files in and below `folder` with one of the suffixes, in lower case.

    Returns:
        Sorted, without the hidden ones that archives may leave (``._a.wav``, from a Mac).
    """
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in suffixes and not file.name.startswith(".")
    )
