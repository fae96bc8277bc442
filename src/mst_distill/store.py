"""The sample store on disk: one memory-mapped array a modality beside an index table."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from mst_distill.benchmarks.source import SampleSource, check_index
from mst_distill.progress import progress
from mst_distill.samples import Samples

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
        ValueError: There are no samples, the index lacks a column, an id appears twice, a label is
            no class, a shape or type differs from the first sample's, or a number is not finite;
            the message names id and modality.
    """
    fingerprint = source.fingerprint()
    if _fingerprint_of(folder) == fingerprint:
        log.info("The samples in %s are those asked for: kept", folder)
        return
    check_index(source)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own: several runs may come to want the same store at the same time.
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    _clear_leftovers(folder)
    partial.mkdir()
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
        if _fingerprint_of(folder) != fingerprint:
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


def _clear_leftovers(folder: Path) -> None:
    """Remove what runs that were killed had built of this store."""
    for partial in folder.parent.glob(f".{folder.name}.[0-9]*"):
        pid = int(partial.suffix[1:])
        if pid == os.getpid() or not psutil.pid_exists(pid):
            shutil.rmtree(partial)


def _fingerprint_of(folder: Path) -> str | None:
    card = folder / "store.json"
    return json.loads(card.read_text())["source"] if card.is_file() else None


def _check_labels(labels: np.ndarray, source: SampleSource, part: pd.DataFrame) -> None:
    """Refuse labels that are neither a class nor the one that is ignored."""
    count = len(source.classes)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}; they must be whole numbers")
    fits = (labels >= 0) & (labels < count)
    if source.ignored_label is not None:
        fits |= labels == source.ignored_label
    if not fits.all():
        row = int(np.argmin(fits.reshape(len(labels), -1).all(axis=1)))
        strange = labels[row][~fits[row]].ravel()[0]
        raise ValueError(
            f"sample {part['id'].iloc[row]!r} has label {strange}, but there are only the "
            f"{count} classes 0 to {count - 1}"
        )


def _write_arrays(source: SampleSource, folder: Path) -> tuple[str, list[str]]:
    """Write every modality; return the SHA-256 over index and arrays, and the arrays' names."""
    index = source.index
    sha = hashlib.sha256(index[["id", "group", "split", "label"]].to_csv(index=False).encode())
    sha.update(json.dumps([list(source.classes), source.ignored_label]).encode())
    first = _read(source, index.iloc[:1])
    maps = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", array.dtype, (len(index), *array.shape[1:])
        )
        for name, array in first.items()
    }
    if "label" not in maps:
        _check_labels(index["label"].to_numpy(), source, index)
    sha.update(json.dumps([[name, str(array.dtype)] for name, array in maps.items()]).encode())
    shas = {name: hashlib.sha256() for name in maps}
    slices = list(_slices(len(index), sum(array.nbytes for array in first.values())))
    for rows in progress(slices, f"samples of {type(source).__name__}", "slice"):
        part = index.iloc[rows]
        arrays = _read(source, part)
        if list(arrays) != list(maps):
            raise ValueError(
                f"the sample {part['id'].iloc[0]!r} has the modalities {list(arrays)}, the first "
                f"one {list(maps)}"
            )
        for name, array in arrays.items():
            _check_slice(name, array, maps[name], part)
            maps[name][rows] = array
            shas[name].update(np.ascontiguousarray(array).tobytes())
        if "label" in arrays:
            _check_labels(arrays["label"], source, part)
    for name, array in maps.items():
        array.flush()
        sha.update(shas[name].digest())
    return sha.hexdigest(), list(maps)


def _read(source: SampleSource, part: pd.DataFrame) -> dict[str, np.ndarray]:
    """Read some samples; whatever precision they come in, floats are kept as float32."""
    return {
        name: array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array
        for name, array in source.read(part).items()
    }


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
    if array.dtype != wanted.dtype:
        raise ValueError(
            f"modality {name!r} of the samples {part['id'].iloc[0]!r} to {part['id'].iloc[-1]!r} "
            f"is {array.dtype}; the first sample's is {wanted.dtype}"
        )
    if np.issubdtype(array.dtype, np.floating):
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"modality {name!r} of sample {part['id'].iloc[int(np.argmin(finite))]!r} holds "
                f"NaN or infinity; every number must be finite"
            )
