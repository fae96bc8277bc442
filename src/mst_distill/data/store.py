"""The sample store on disk: one memory-mapped array for each modality, and an index table."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from mst_distill.artifacts.atomic import remove_folder
from mst_distill.artifacts.lock import one_at_a_time
from mst_distill.artifacts.progress import progress
from mst_distill.artifacts.provenance import sha256_of
from mst_distill.artifacts.student_input import ReaderRecord, read_fitted, write_fitted
from mst_distill.benchmarks.source import (
    SampleSource,
    check_index,
    check_labels,
    described,
    refuse_too_many,
)
from mst_distill.data.appendable_npy import GrowingArray, digest_of
from mst_distill.data.journal import Journal
from mst_distill.data.samples import ABSENT, Samples, are_complete, lacks
from mst_distill.data.slices import append_slice, read_slice, take_notes

SLICE_BYTES = 64 * 2**20
"""Approximate size of the slices in which samples are read, checked and written."""

SLICE_SAMPLES = 256
"""The largest number of samples in a slice, since small samples may take long to prepare."""

FITTED = "readers.safetensors"
"""The file with what the readers have fitted."""

FULL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))
"""The errors of a disk, a quota or a file that is full."""

log = logging.getLogger(__name__)

T = TypeVar("T")


def write_store(source: SampleSource, folder: Path) -> None:
    """Build a store slice by slice. It may be larger than memory, and a stopped build is resumed.

    An intact store of the same source stays as it is. A store of another source is replaced only
    once the new one is complete. While another process builds the store, this one waits.

    Args:
        source: The samples.
        folder: The folder of the store; replaced if it exists.

    Raises:
        ValueError: There are no samples, the index lacks a column, an id appears twice, a label is
            not a class, a shape or type differs from the first sample's, a value is not a finite
            number, a modality is the same in all samples, a note is missing or is not one number
            for each sample, or more samples are damaged than the source tolerates; the message
            names id and modality.
    """
    check_index(source)
    folder = folder.resolve()  # a link to a folder on another disk stays a link
    fingerprint = source.fingerprint()
    partial = folder.with_name(f".{folder.name}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder, f"Another process is building {folder}; waiting for it"):
        if _fingerprint_of(folder / "store.json") == fingerprint and _is_undamaged(folder):
            log.info("%s already holds the requested samples and stays as it is", folder)
        else:
            if partial.is_symlink() or _fingerprint_of(partial / "source.json") != fingerprint:
                remove_folder(partial)
                (partial / "store").mkdir(parents=True)
                (partial / "fit").mkdir()
                (partial / "source.json").write_text(
                    json.dumps({"source": fingerprint}), encoding="utf-8"
                )
            try:
                _build(source, partial)
            except (ValueError, TypeError):  # the data are invalid: resuming would fail again
                remove_folder(partial)
                raise
            except OSError as error:
                if error.errno is not None and error.errno in FULL:
                    raise OSError(
                        error.errno,
                        f"cannot be written ({os.strerror(error.errno)}): when there is space, "
                        f"repeat the command, which continues after the samples that are written",
                        error.filename or str(folder),
                    ) from error
                raise
            remove_folder(folder)
            (partial / "store").rename(folder)
        remove_folder(partial)


def open_store(folder: Path) -> Samples:
    """Open a store; its arrays stay on disk until they are indexed.

    Raises:
        FileNotFoundError: There is no store.
        ValueError: A file of the store is damaged; the message names the file.
    """
    card_path = folder / "store.json"
    if not card_path.is_file():
        raise FileNotFoundError(f"{folder} holds no samples: run the pipeline `ingest` first")
    card = _read_intact(card_path, lambda path: json.loads(path.read_text(encoding="utf-8")))
    if "files" not in card:
        raise ValueError(
            f"{folder} was built before stores had a SHA-256 of each file: run `ingest` again"
        )
    for name, digest in card["files"].items():
        _read_intact(folder / name, partial(_check_digest, digest))
    index = _read_intact(folder / "index.parquet", pd.read_parquet)
    arrays = {
        name: _read_intact(folder / f"{name}.npy", partial(np.load, mmap_mode="r"))
        for name in card["arrays"]
    }
    if card["digest"] != _digest(card, index):
        raise ValueError(f"{card_path} is damaged: delete {folder} and run `ingest` again")
    return Samples(
        index=index,
        labels=arrays.pop("label", index["label"].to_numpy()),
        modalities=arrays,
        classes=tuple(card["classes"]),
        ignored_label=card["ignored_label"],
        digest=card["digest"],
        notes=tuple(card["notes"]),
        omitted=card["omitted"],
        readers=_readers_of(card, folder),
        folder=folder,
    )


def _readers_of(card: Mapping[str, Any], folder: Path) -> dict[str, ReaderRecord]:
    readers = card.get("readers", {})
    if not readers:
        return {}
    fitted = read_fitted(folder / FITTED, card["files"][FITTED])
    return {
        name: ReaderRecord.from_card(reader, fitted.get(name, {}))
        for name, reader in readers.items()
    }


def _check_digest(digest: str, path: Path) -> None:
    if sha256_of(path) != digest:
        raise ValueError(f"its SHA-256 differs from the one in {path.parent / 'store.json'}")


def _is_undamaged(folder: Path) -> bool:
    """Return whether a store can be opened; log the reason if it cannot."""
    try:
        open_store(folder)
    except ValueError as error:
        log.warning("The store %s is damaged and is built again: %s", folder, error)
        return False
    return True


def _read_intact(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            # For example no permission, or no memory to map the file: it is not damaged.
            raise OSError(error.errno, f"cannot be read ({error})", str(path)) from error
        raise ValueError(
            f"{path} is missing or damaged ({error}): delete {path.parent} and run `ingest` again"
        ) from error


def _fingerprint_of(card: Path) -> str | None:
    try:
        return json.loads(card.read_text(encoding="utf-8"))["source"]
    except (FileNotFoundError, json.JSONDecodeError):  # missing, or cut off when a build stopped
        return None


def _build(source: SampleSource, partial: Path) -> None:
    """Write those files of ``partial/store`` that are not complete yet."""
    store = partial / "store"
    source.fit(partial / "fit")
    readers = {name: ReaderRecord.of(reader) for name, reader in source.readers.items()}
    journal = _write_slices(source, store, Journal.open(partial / "slices.jsonl", store))
    index = source.index[~source.index["id"].isin(list(journal.omitted))].reset_index(drop=True)
    if len(index) != journal.written:
        raise ValueError(
            f"the index of {type(source).__name__} has {len(index)} samples that can be read, but "
            f"{journal.written} were written: the index must not change during the build"
        )
    if index.empty:
        raise ValueError(f"no sample of {type(source).__name__} can be read: {journal.omitted}")
    for name in journal.arrays:
        if name != "label":
            _reject_constant_modality(name, store, source, index)
    notes = pd.concat(journal.notes, ignore_index=True)
    index = pd.concat([index, notes], axis=1)
    index.to_parquet(store / "index.parquet")
    names = ["index.parquet", *(f"{name}.npy" for name in journal.arrays)]
    if readers:
        if set(readers) != set(journal.arrays) - {"label"}:
            raise ValueError(
                f"{type(source).__name__} has readers of {sorted(readers)}, but `read` returned "
                f"{sorted(set(journal.arrays) - {'label'})}: use the same names"
            )
        write_fitted({name: reader.fitted for name, reader in readers.items()}, store / FITTED)
        names.append(FITTED)
    card: dict[str, Any] = {
        "source": source.fingerprint(),
        "readers": {name: reader.card for name, reader in readers.items()},
        "arrays": journal.arrays,
        "classes": list(source.classes),
        "ignored_label": source.ignored_label,
        "notes": list(notes),
        "omitted": {**source.omitted, **journal.omitted},
        "files": {name: sha256_of(store / name) for name in names},
    }
    card["digest"] = _digest(card, index)
    (store / "store.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _digest(card: Mapping[str, Any], index: pd.DataFrame) -> str:
    """Return the SHA-256 of what `Samples.digest` names."""
    columns = [name for name in ("id", "group", "split", "label", ABSENT) if name in index]
    sha = hashlib.sha256(index[columns].to_csv(index=False).encode())
    arrays = card["arrays"]
    sha.update(json.dumps([card["classes"], card["ignored_label"], arrays]).encode())
    for name in arrays:
        sha.update(bytes.fromhex(card["files"][f"{name}.npy"]))
    if readers := card.get("readers"):
        sha.update(json.dumps([readers, card["files"][FITTED]]).encode())
    return sha.hexdigest()


def _write_slices(source: SampleSource, store: Path, journal: Journal) -> Journal:
    """Append to the arrays all samples that the journal has not recorded."""
    index = source.index
    arrays = {
        name: GrowingArray.reopen(store / f"{name}.npy", journal.written) for name in journal.arrays
    }
    title = f"samples of {type(source).__name__}"
    with progress(range(0), title, "sample", total=len(index), done=journal.rows) as bar:
        if not arrays and ABSENT in index:
            arrays = _new_arrays(_read_complete(source), source, store)
        while journal.rows < len(index):
            rows = index.iloc[journal.rows : journal.rows + _slice_length(arrays)]
            part, read, omitted = read_slice(source, rows, arrays)
            all_omitted = {**source.omitted, **journal.omitted, **omitted}
            refuse_too_many(all_omitted, len(index) + len(source.omitted), source.tolerated_share)
            notes = take_notes(source, read, part) if len(part) else {}
            if len(part) and not arrays:
                arrays = _new_arrays(read, source, store)
            if len(part):
                append_slice(arrays, read, part, source)
            written = {name: digest_of(array) for name, array in read.items()}
            journal.add(written, len(rows), omitted, notes)
            bar.update(len(rows))
    for array in arrays.values():
        array.close()
    return journal


def _new_arrays(
    read: Mapping[str, np.ndarray], source: SampleSource, store: Path
) -> dict[str, GrowingArray]:
    """Create an array of the type and shape of each modality, and of dense labels."""
    # Dense labels are checked with each slice, labels of the index once.
    if "label" not in read:
        check_labels(source.index["label"].to_numpy(), source, source.index)
    _warn_of_integers(read)
    return {
        name: GrowingArray(store / f"{name}.npy", array.dtype, array.shape[1:])
        for name, array in read.items()
    }


def _read_complete(source: SampleSource) -> dict[str, np.ndarray]:
    """Read the first sample with all modalities, which gives the type and shape of each.

    Raises:
        ValueError: No such sample can be read.
    """
    complete = source.index[are_complete(source.index)]
    for row in range(len(complete)):
        part, read, _ = read_slice(source, complete.iloc[row : row + 1], {})
        if len(part):
            take_notes(source, read, part)
            return read
    raise ValueError(
        f"no sample of {described(source)} that has all modalities can be read: the multimodal "
        f"teacher learns from such samples alone"
    )


def _warn_of_integers(read: Mapping[str, np.ndarray]) -> None:
    for name, array in read.items():
        if name != "label" and not np.issubdtype(array.dtype, np.floating):
            log.warning(
                "Modality %r is of type %s, and is stored without scaling: the nets must accept "
                "this type. For nets that take floats, let `read` return float32",
                name,
                array.dtype,
            )


def _slice_length(arrays: dict[str, GrowingArray]) -> int:
    """Return the number of samples in the next slice: one until the size of a sample is known."""
    if not arrays:
        return 1
    sample_bytes = sum(array.row_bytes for array in arrays.values())
    return max(1, min(SLICE_SAMPLES, SLICE_BYTES // max(sample_bytes, 1)))


def _reject_constant_modality(
    name: str, store: Path, source: SampleSource, index: pd.DataFrame
) -> None:
    """Raise if a modality is equal in all samples, so that nothing can be learned from it."""
    array = np.load(store / f"{name}.npy", mmap_mode="r")
    rows = np.flatnonzero(~lacks(index, name))
    # The first sample that differs ends the loop, so usually only two are read.
    if len(rows) > 1 and all(np.array_equal(array[row], array[rows[0]]) for row in rows[1:]):
        raise ValueError(
            f"modality {name!r} is the same in all {len(rows)} samples of {described(source)}: "
            f"nothing can be learned from it"
        )
