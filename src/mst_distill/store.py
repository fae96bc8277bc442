"""The sample store on disk: one memory-mapped array a modality beside an index table."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from mst_distill.benchmarks.source import SampleSource
from mst_distill.samples import Samples
from mst_distill.training.progress import progress

SLICE_BYTES = 64 * 2**20
"""About how much is read, checked and written at a time."""

log = logging.getLogger(__name__)


def write_store(source: SampleSource, folder: Path) -> None:
    """Build a store slice by slice, so that it may be larger than memory.

    A store of the same source that is there already stays as it is. A new one replaces an old one
    only once it is whole.

    Args:
        source: The samples.
        folder: Where the store goes; replaced if it exists.

    Raises:
        ValueError: There are no samples, an id appears twice, a label is no class, a shape differs
            from the first sample's, or a number is not finite; the message names id and modality.
    """
    fingerprint = source.fingerprint()
    if _fingerprint_of(folder) == fingerprint:
        log.info("The samples in %s are those asked for: kept", folder)
        return
    _check_index(source)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        digest, names = _write_arrays(source, partial)
        source.index.to_parquet(partial / "index.parquet")
        card = {
            "source": fingerprint,
            "digest": digest,
            "arrays": names,
            "classes": list(source.classes),
            "ignored_label": source.ignored_label,
        }
        (partial / "store.json").write_text(json.dumps(card, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_store(folder: Path) -> Samples:
    """Open a store; its arrays stay on disk until they are indexed.

    Raises:
        FileNotFoundError: There is no store.
    """
    card_path = folder / "store.json"
    if not card_path.is_file():
        raise FileNotFoundError(f"{folder} holds no samples: run the pipeline `ingest` first")
    card = json.loads(card_path.read_text())
    index = pd.read_parquet(folder / "index.parquet")
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in card["arrays"]}
    labels = arrays.pop("label", index["label"].to_numpy())
    classes = tuple(card["classes"])
    return Samples(index, arrays, labels, classes, card["ignored_label"], card["digest"])


def _fingerprint_of(folder: Path) -> str | None:
    card = folder / "store.json"
    return json.loads(card.read_text())["source"] if card.is_file() else None


def _check_index(source: SampleSource) -> None:
    index = source.index
    if index.empty:
        raise ValueError(f"{type(source).__name__} found no samples in {list(source.files)[:3]}")
    if index["id"].duplicated().any():
        twice = index.loc[index["id"].duplicated(), "id"].iloc[0]
        raise ValueError(f"sample id {twice!r} appears twice; ids must be unique")
    strange = index[~index["label"].between(-1, len(source.classes) - 1)]
    if len(strange):
        row = strange.iloc[0]
        raise ValueError(
            f"sample {row['id']!r} has label {row['label']}, but there are only the "
            f"{len(source.classes)} classes 0 to {len(source.classes) - 1}"
        )


def _write_arrays(source: SampleSource, folder: Path) -> tuple[str, list[str]]:
    """Write every modality; return the SHA-256 over index and arrays, and the arrays' names."""
    index = source.index
    sha = hashlib.sha256(index[["id", "group", "split", "label"]].to_csv(index=False).encode())
    sha.update(json.dumps(list(source.classes)).encode())
    first = source.read(index.iloc[:1])
    maps = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", array.dtype, (len(index), *array.shape[1:])
        )
        for name, array in first.items()
    }
    slices = list(_slices(len(index), sum(array.nbytes for array in first.values())))
    for rows in progress(slices, f"samples of {type(source).__name__}", "slice"):
        part = index.iloc[rows]
        for name, array in source.read(part).items():
            _check_slice(name, array, maps[name], part)
            maps[name][rows] = array
            sha.update(np.ascontiguousarray(array).tobytes())
    for array in maps.values():
        array.flush()
    return sha.hexdigest(), list(maps)


def _slices(count: int, sample_bytes: int) -> Iterator[slice]:
    step = max(1, SLICE_BYTES // max(sample_bytes, 1))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _check_slice(name: str, array: np.ndarray, wanted: np.ndarray, part: pd.DataFrame) -> None:
    if array.shape != (len(part), *wanted.shape[1:]):
        raise ValueError(
            f"modality {name!r} of the samples {part['id'].iloc[0]!r} to {part['id'].iloc[-1]!r} "
            f"has shape {array.shape}; {(len(part), *wanted.shape[1:])} would fit the first sample"
        )
    if np.issubdtype(array.dtype, np.floating):
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"modality {name!r} of sample {part['id'].iloc[int(np.argmin(finite))]!r} holds "
                f"NaN or infinity; every number must be finite"
            )
