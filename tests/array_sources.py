"""Sample sources that read from arrays in memory, and helpers that build stores from them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mst_distill.benchmarks.source import DamagedSampleError, SampleSource
from mst_distill.data.store import open_store, write_store

SAMPLE_BYTES = (16 + 3) * 4
"""Size of a sample of `make_source`: 16 + 3 numbers in float32."""


class ArraySource(SampleSource):
    """Samples from arrays in memory; records how many samples each call of `read` asks for."""

    def __init__(self, arrays: dict[str, np.ndarray], count: int, file: Path) -> None:
        self.classes = ("a", "b", "c")
        self.files = [file]
        self.arrays = arrays
        self.reads: list[int] = []
        rows = np.arange(count)
        self.index = pd.DataFrame(
            {
                "id": [f"s{row}" for row in rows],
                "group": [f"g{row // 2}" for row in rows],
                "split": np.array(["train", "train", "valid", "test"])[rows % 4],
                "label": rows % 3,
                "row": rows,
            }
        )

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        self.reads.append(len(part))
        return {name: array[part["row"].to_numpy()] for name, array in self.arrays.items()}


class DenseSource(ArraySource):
    ignored_label = 2


class StoppableSource(ArraySource):
    """Raises KeyboardInterrupt in its `stop_at`-th read, and records the rows it has read."""

    stop_at = 10**9

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rows: list[int] = []

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        if len(self.reads) == self.stop_at:
            raise KeyboardInterrupt
        self.rows += part["row"].tolist()
        return read


class DamagedSource(StoppableSource):
    """Cannot read the rows in `damaged`, and reports one of them at a time."""

    damaged: tuple[int, ...] = ()

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        for sample, row in zip(part["id"], part["row"], strict=True):
            if row in self.damaged:
                raise DamagedSampleError(sample, f"row {row} of raw.bin is torn")
        return super().read(part)


class NotedSource(DamagedSource):
    """Notes of each sample its duration, and how many seconds of it were repaired."""

    notes = ("seconds", "repaired")

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        row = part["row"].to_numpy()
        return super().read(part) | {"seconds": row / 4, "repaired": row * 10}


def make_source(
    raw: Path, count: int = 7, seed: int = 0, kind: type[ArraySource] = ArraySource
) -> Any:
    """Make a source whose samples have an image ``(1, 4, 4)`` and a sound ``(3,)``.

    Args:
        raw: The raw file.
        count: Number of samples.
        seed: Of the numbers.
        kind: Class of the source.
    """
    rng = np.random.default_rng(seed)
    shapes = {"image": (1, 4, 4), "audio": (3,)}
    arrays = {
        name: rng.normal(size=(count, *shape)).astype(np.float32) for name, shape in shapes.items()
    }
    return kind(arrays, count, raw)


def make_dense_source(
    raw: Path, dtype: Any = np.int64, kind: type[ArraySource] = DenseSource
) -> Any:
    """Make a source with a label for each pixel of the image."""
    source = make_source(raw, kind=kind)
    source.index["label"] = -1
    source.arrays["label"] = np.random.default_rng(5).integers(0, 3, (7, 4, 4)).astype(dtype)
    return source


def make_damaged_source(
    raw: Path,
    rows: tuple[int, ...],
    tolerated_share: float,
    kind: type[DamagedSource] = DamagedSource,
) -> Any:
    """Make a source that cannot read some rows."""
    source = make_source(raw, kind=kind)
    source.damaged, source.tolerated_share = rows, tolerated_share
    return source


def build_until_stop(source: StoppableSource, folder: Path, stop_at: int) -> None:
    """Build a store, and stop in a read."""
    source.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        write_store(source, folder)


def digest_of_store(source: ArraySource, folder: Path) -> str:
    """Build a store and return the digest of its samples."""
    write_store(source, folder)
    return open_store(folder).digest


def file_contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a store by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def remaining_entries(folder: Path) -> list[str]:
    """Return what is in the parent folder of a store, except the lock."""
    if not folder.parent.is_dir():
        return []
    return sorted({path.name for path in folder.parent.iterdir()} - {".samples.writing"})


def change_number(source: ArraySource) -> None:
    source.arrays["audio"][6, 2] += 1e-3


def change_label(source: ArraySource) -> None:
    source.index.loc[3, "label"] = 1


def change_split(source: ArraySource) -> None:
    source.index.loc[3, "split"] = "train"


def change_group(source: ArraySource) -> None:
    source.index.loc[3, "group"] = "g9"


def change_id(source: ArraySource) -> None:
    source.index.loc[3, "id"] = "another"


def change_classes(source: ArraySource) -> None:
    source.classes = ("a", "b", "d")


def drop_rows(source: ArraySource) -> None:
    source.index = source.index.iloc[:5]


def rewrite_file(source: ArraySource) -> None:
    source.files[0].write_bytes(b"raw files that have changed")


def touch_file(source: ArraySource) -> None:
    os.utime(source.files[0], ns=(1, 1))


def change_arguments(source: ArraySource) -> None:
    source.opened_with = {"protocol": "heldout", "arguments": {"kept_energy": 0.9}}


Change = Callable[[Any], None]

INDEX_CHANGES: list[Change] = [change_label, change_split, change_group, change_id, change_classes]

CONTENT_CHANGES: list[Change] = [change_number, *INDEX_CHANGES]
"""Changes of what a store holds."""

SOURCE_CHANGES: list[Change] = [
    *INDEX_CHANGES,
    drop_rows,
    rewrite_file,
    touch_file,
    change_arguments,
]
"""Changes that make another source, whose store must be built again."""
