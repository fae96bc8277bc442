"""The code that a source reads with: a store is built anew when any of it changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mst_distill.imports import files_of, resolve

_PACKAGE = Path(__file__).parents[1]

_READERS = sorted(
    file for room in ("benchmarks", "media") for file in (_PACKAGE / room).glob("*.py")
)
"""What any source may read with."""


def source_code(kind: type, opened_with: Mapping[str, Any]) -> list[Path]:
    """Files that hold the source's class, the classes its arguments name, and the bases of both.

    Of this package it is all that raw files are read with. What such a class imports besides is not
    followed.

    Args:
        kind: The source's class.
        opened_with: How it was opened; a text that is the import path of a class names a part that
            it reads with.

    Returns:
        Each file once.
    """
    classes = [kind, *filter(None, map(_class_at, _texts(opened_with)))]
    own = [file for kind in classes for file in files_of(kind)]
    return list(dict.fromkeys([*own, *_READERS]))


def _texts(value: Any) -> Iterator[str]:
    """Every text in nested JSON values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def _class_at(path: str) -> type | None:
    """The class that a text names by its import path; None of any other text."""
    if "." not in path or not all(part.isidentifier() for part in path.split(".")):
        return None
    try:
        return resolve(path, object)
    except (ValueError, TypeError):
        return None
