"""The sample store on disk: one memory-mapped array a modality beside an index table."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from filelock import BaseFileLock, FileLock, Timeout

from mst_distill.artifacts import signed_json
from mst_distill.artifacts.progress import progress
from mst_distill.artifacts.provenance import sha256_of
from mst_distill.artifacts.signals import asked, check
from mst_distill.benchmarks.source import (
    DamagedSampleError,
    SampleSource,
    check_index,
    refuse_too_many,
    told,
)
from mst_distill.data.appendable_npy import GrowingArray, digest_of, digest_of_rows
from mst_distill.data.samples import Samples

SLICE_BYTES = 64 * 2**20
"""About how much is read, checked and written at a time,"""

SLICE_SAMPLES = 256
"""and how many samples at most: what is small may still take long to prepare."""

log = logging.getLogger(__name__)

T = TypeVar("T")


def write_store(source: SampleSource, folder: Path) -> None:
    """Build a store slice by slice: it may be larger than memory, and goes on after a stop.

    A store of the same source that is there already stays as it is. A new one replaces an old one
    only once it is whole. Who comes while another process builds it waits.

    Args:
        source: The samples.
        folder: Where the store goes; replaced if it exists.

    Raises:
        ValueError: There are no samples, the index lacks a column, an id appears twice, a label is
            no class, a shape or type differs from the first sample's, something is no number or
            not finite, a modality is alike in all samples, a note is missing or no number a sample,
            or more samples are damaged than the source tolerates; the message names id and
            modality.
    """
    check_index(source)
    fingerprint = source.fingerprint()
    partial = folder.with_name(f".{folder.name}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if _fingerprint_of(folder / "store.json") == fingerprint and _is_undamaged(folder):
            log.info("The samples in %s are those asked for: kept", folder)
        else:
            if _fingerprint_of(partial / "source.json") != fingerprint:
                shutil.rmtree(partial, ignore_errors=True)
                (partial / "store").mkdir(parents=True)
                (partial / "fit").mkdir()
                (partial / "source.json").write_text(json.dumps({"source": fingerprint}))
            try:
                _build(source, partial)
            except (ValueError, TypeError):  # the data is at fault, and going on would not mend it
                shutil.rmtree(partial)
                raise
            shutil.rmtree(folder, ignore_errors=True)
            (partial / "store").rename(folder)
        shutil.rmtree(partial, ignore_errors=True)


def open_store(folder: Path) -> Samples:
    """Open a store; its arrays stay on disk until they are indexed.

    Raises:
        FileNotFoundError: There is no store.
        ValueError: A file of it is damaged; the message names the file.
    """
    card_path = folder / "store.json"
    if not card_path.is_file():
        raise FileNotFoundError(f"{folder} holds no samples: run the pipeline `ingest` first")
    card = _whole(card_path, lambda path: json.loads(path.read_text()))
    if "files" not in card:
        raise ValueError(
            f"{folder} was built before stores had a SHA-256 of each file: run `ingest` again"
        )
    for name, digest in card["files"].items():
        _whole(folder / name, partial(_check, digest))
    index = _whole(folder / "index.parquet", pd.read_parquet)
    arrays = {
        name: _whole(folder / f"{name}.npy", partial(np.load, mmap_mode="r"))
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
    )


def _check(digest: str, path: Path) -> None:
    if sha256_of(path) != digest:
        raise ValueError(f"its SHA-256 is not the one that {path.parent / 'store.json'} names")


def _is_undamaged(folder: Path) -> bool:
    """Whether a store can be opened; if not, that is said."""
    try:
        open_store(folder)
    except ValueError as error:
        log.warning("%s. The samples are built anew", error)
        return False
    return True


def _whole(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is missing or damaged ({error}): delete {path.parent} and run `ingest` again"
        ) from error


@dataclass
class _Journal:
    """What of a source is written so far, a line a slice: a stop costs the slice in flight.

    A line carries the SHA-256 of its slice of every array; what is damaged since is written anew.
    """

    path: Path
    arrays: list[str] = field(default_factory=list)
    rows: int = 0
    omitted: dict[str, str] = field(default_factory=dict)
    notes: list[pd.DataFrame] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, store: Path) -> _Journal:
        journal = cls(path)
        if path.is_file():
            lines = path.read_text().splitlines()
            whole = list(takewhile(partial(journal._take_if_whole, store), lines))
            path.write_text("".join(f"{line}\n" for line in whole))
            log.info("%d samples are there: going on behind them", journal.rows)
        return journal

    @property
    def kept(self) -> int:
        return self.rows - len(self.omitted)

    def add(
        self,
        arrays: dict[str, str],
        rows: int,
        omitted: dict[str, str],
        notes: dict[str, list[float]],
    ) -> None:
        """Note that the next `rows` rows of the index are on disk, but for the `omitted` ones.

        Args:
            arrays: Name to the SHA-256 of the slice.
            rows: How many of the index.
            omitted: Those that are not written, id to reason.
            notes: Name to a number for each that is written.
        """
        slice_ = {"arrays": arrays, "rows": rows, "omitted": omitted, "notes": notes}
        with self.path.open("a") as file:
            file.write(f"{signed_json.dump(slice_)}\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(arrays, rows, omitted, notes)

    def _take_if_whole(self, store: Path, line: str) -> bool:
        try:
            slice_ = signed_json.load(line)
        except ValueError:
            return False
        count = slice_["rows"] - len(slice_["omitted"])
        for name, digest in slice_["arrays"].items():
            if digest_of_rows(store / f"{name}.npy", self.kept, count) != digest:
                log.warning("%s.npy is damaged behind %d samples", store / name, self.kept)
                return False
        self._take(**slice_)
        return True

    def _take(
        self,
        arrays: dict[str, str],
        rows: int,
        omitted: dict[str, str],
        notes: dict[str, list[float]],
    ) -> None:
        self.arrays = list(arrays) or self.arrays
        self.rows += rows
        self.omitted |= omitted
        self.notes.append(pd.DataFrame(notes))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time build a store; the system unlocks it when a process dies."""
    path = folder.with_name(f".{folder.name}.lock")
    lock = FileLock(path)
    try:
        held: AbstractContextManager[object] = lock.acquire(timeout=0)
    except Timeout:
        log.info("Another process builds %s: waiting for it", folder)
        held = _wait_for(lock)
    with held:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no file that is open
                path.unlink()  # who waits for a lock that is gone takes a new one


def _wait_for(lock: BaseFileLock) -> AbstractContextManager[object]:
    try:
        return lock.acquire(cancel_check=asked)
    except Timeout:  # a signal asked the run to end
        check()
        raise


def _fingerprint_of(card: Path) -> str | None:
    try:
        return json.loads(card.read_text())["source"]
    except (FileNotFoundError, json.JSONDecodeError):  # none, or one that a stop left torn
        return None


def _build(source: SampleSource, partial: Path) -> None:
    """Fill ``partial/store``, or what of it is not there yet."""
    store = partial / "store"
    source.fit(partial / "fit")
    journal = _write_slices(source, store, _Journal.open(partial / "slices.jsonl", store))
    index = source.index[~source.index["id"].isin(list(journal.omitted))].reset_index(drop=True)
    if len(index) != journal.kept:
        raise ValueError(
            f"the index of {type(source).__name__} has {len(index)} samples that can be read, but "
            f"{journal.kept} were written: it must not change while they are read"
        )
    if index.empty:
        raise ValueError(f"no sample of {type(source).__name__} can be read: {journal.omitted}")
    for name in journal.arrays:
        if name != "label":
            _refuse_alike(name, store, source)
    notes = pd.concat(journal.notes, ignore_index=True)
    index = pd.concat([index, notes], axis=1)
    index.to_parquet(store / "index.parquet")
    names = ["index.parquet", *(f"{name}.npy" for name in journal.arrays)]
    card: dict[str, Any] = {
        "source": source.fingerprint(),
        "arrays": journal.arrays,
        "classes": list(source.classes),
        "ignored_label": source.ignored_label,
        "notes": list(notes),
        "omitted": {**source.omitted, **journal.omitted},
        "files": {name: sha256_of(store / name) for name in names},
    }
    card["digest"] = _digest(card, index)
    (store / "store.json").write_text(json.dumps(card, indent=2) + "\n")


def _digest(card: Mapping[str, Any], index: pd.DataFrame) -> str:
    """SHA-256 over who is there with which label, the classes and the arrays."""
    sha = hashlib.sha256(index[["id", "group", "split", "label"]].to_csv(index=False).encode())
    arrays = card["arrays"]
    sha.update(json.dumps([card["classes"], card["ignored_label"], arrays]).encode())
    for name in arrays:
        sha.update(bytes.fromhex(card["files"][f"{name}.npy"]))
    return sha.hexdigest()


def _write_slices(source: SampleSource, store: Path, journal: _Journal) -> _Journal:
    """Append to every modality's array what the journal does not have yet."""
    index = source.index
    arrays = {
        name: GrowingArray.reopen(store / f"{name}.npy", journal.kept) for name in journal.arrays
    }
    title = f"samples of {type(source).__name__}"
    with progress(range(0), title, "sample", total=len(index), done=journal.rows) as bar:
        while journal.rows < len(index):
            asked = index.iloc[journal.rows : journal.rows + _slice_length(arrays)]
            part, read, omitted = _read(source, asked)
            lost = {**source.omitted, **journal.omitted, **omitted}
            refuse_too_many(lost, len(index) + len(source.omitted), source.tolerated_share)
            notes = _take_notes(source, read, part) if len(part) else {}
            if len(part) and not arrays:
                if "label" not in read:
                    _check_labels(index["label"].to_numpy(), source, index)
                arrays = {
                    name: GrowingArray(store / f"{name}.npy", array.dtype, array.shape[1:])
                    for name, array in read.items()
                }
            if len(part):
                _append(arrays, read, part, source)
            written = {name: digest_of(array) for name, array in read.items()}
            journal.add(written, len(asked), omitted, notes)
            bar.update(len(asked))
    for array in arrays.values():
        array.close()
    return journal


def _slice_length(arrays: dict[str, GrowingArray]) -> int:
    """Samples in the next slice: one, as long as nobody knows how large they are."""
    if not arrays:
        return 1
    sample_bytes = sum(array.row_bytes for array in arrays.values())
    return max(1, min(SLICE_SAMPLES, SLICE_BYTES // max(sample_bytes, 1)))


def _read(
    source: SampleSource, part: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict[str, str]]:
    """Read some samples: those that can be read, what they hold, and why the others cannot.

    Whatever precision they come in, floats are kept as float32.
    """
    omitted: dict[str, str] = {}
    while len(part):
        try:
            read = source.read(part)
        except DamagedSampleError as damaged:
            if damaged.sample not in set(part["id"]):
                raise ValueError(
                    f"{type(source).__name__} was not asked for: {damaged}"
                ) from damaged
            omitted[damaged.sample] = damaged.reason
            log.warning("%s", damaged)
            part = part[part["id"] != damaged.sample]
        else:
            floats = {n for n, array in read.items() if np.issubdtype(array.dtype, np.floating)}
            read |= {name: read[name].astype(np.float32) for name in floats}
            return part, read, omitted
    return part, {}, omitted


def _take_notes(
    source: SampleSource, read: dict[str, np.ndarray], part: pd.DataFrame
) -> dict[str, list[float]]:
    """Take out of what was read what it says of each sample, a number for each."""
    notes = {}
    for name in source.notes:
        which = f"the note {name!r} of the samples from {part['id'].iloc[0]!r} on"
        if name not in read:
            raise ValueError(f"{which} is missing: there are {list(read)}")
        note = read.pop(name)
        if note.shape != (len(part),) or note.dtype.kind not in "biuf":
            raise ValueError(
                f"{which} has shape {note.shape} and type {note.dtype}; it must be {len(part)} "
                f"numbers"
            )
        notes[name] = note.tolist()
    return notes


def _append(
    arrays: dict[str, GrowingArray],
    read: dict[str, np.ndarray],
    part: pd.DataFrame,
    source: SampleSource,
) -> None:
    """Check a slice, and write it."""
    if not read or list(read) != list(arrays):
        raise ValueError(
            f"the sample {part['id'].iloc[0]!r} has the modalities {list(read)}, the first one "
            f"{list(arrays)}"
        )
    for name, array in read.items():
        _check_slice(name, array, arrays[name], part)
    if "label" in read:
        _check_labels(read["label"], source, part)
    for name, array in read.items():
        arrays[name].append(array)


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


def _refuse_alike(name: str, store: Path, source: SampleSource) -> None:
    """Refuse a modality of which nothing can be learned, for it says the same of every sample."""
    array = np.load(store / f"{name}.npy", mmap_mode="r")
    # Most differ at once: one that does ends this.
    if len(array) > 1 and all(np.array_equal(sample, array[0]) for sample in array[1:]):
        raise ValueError(
            f"modality {name!r} is alike in all {len(array)} samples of {told(source)}: nothing "
            f"can be learned from it"
        )


def _check_slice(name: str, array: np.ndarray, wanted: GrowingArray, part: pd.DataFrame) -> None:
    """Refuse a slice of a modality that is not like the first sample, or not finite."""
    which = f"modality {name!r} of the samples {part['id'].iloc[0]!r} to {part['id'].iloc[-1]!r}"
    if array.shape != (len(part), *wanted.shape):
        raise ValueError(
            f"{which} has shape {array.shape}; {(len(part), *wanted.shape)} would fit the first "
            f"sample"
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{which} is {array.dtype}; it must be numbers")
    if array.dtype != wanted.dtype:
        raise ValueError(f"{which} is {array.dtype}; the first sample's is {wanted.dtype}")
    if np.issubdtype(array.dtype, np.floating):
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"modality {name!r} of sample {part['id'].iloc[int(np.argmin(finite))]!r} holds "
                f"NaN or infinity; every number must be finite"
            )
