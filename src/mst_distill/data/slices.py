"""Slices of a source: a few samples at a time are read, checked and appended to the arrays."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd

from mst_distill.benchmarks.source import DamagedSampleError, SampleSource, check_labels
from mst_distill.data.appendable_npy import GrowingArray
from mst_distill.data.samples import ABSENT, lacks
from mst_distill.errors import add_context

log = logging.getLogger(__name__)


def read_slice(
    source: SampleSource, part: pd.DataFrame, arrays: Mapping[str, GrowingArray]
) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict[str, str]]:
    """Read some samples, without those that are damaged.

    Floats of any precision are converted to float32.

    Args:
        source: The source.
        part: Rows of its index.
        arrays: The arrays of the store, which give type and shape of modalities that are absent;
            needed only if a sample lacks a modality.

    Returns:
        The rows that can be read, what the source read of them (modalities, dense labels, notes),
        and the other samples, id to reason. Of an absent modality the row is NaN, or 0 if the type
        is integer.

    Raises:
        ValueError: The source reports a damaged sample that is not in `part`, or returns anything
            but arrays with one entry for each sample, by name.
    """
    omitted: dict[str, str] = {}
    while len(part):
        try:
            read = _read(source, part, arrays)
        except DamagedSampleError as damaged:
            # Without this check the same rows would be read again forever.
            if damaged.sample not in set(part["id"]):
                raise ValueError(
                    f"{type(source).__name__} reports damage of a sample that it was not to read: "
                    f"{damaged}"
                ) from damaged
            omitted[damaged.sample] = damaged.reason
            log.warning("%s", damaged)
            part = part[part["id"] != damaged.sample]
        except Exception as error:  # the code of a user's class
            add_context(error, f"This happened when {_which(source, part)} were read.")
            raise
        else:
            return part, read, omitted
    return part, {}, omitted


def _read(
    source: SampleSource, part: pd.DataFrame, arrays: Mapping[str, GrowingArray]
) -> dict[str, np.ndarray]:
    """Read samples; those that lack the same modalities are read together."""
    if ABSENT not in part or not part[ABSENT].any():
        return _read_alike(source, part)
    filled = {
        name: np.full((len(part), *of.shape), np.nan if of.dtype.kind == "f" else 0, of.dtype)
        for name, of in arrays.items()
    }
    for absent in part[ABSENT].unique():
        alike = (part[ABSENT] == absent).to_numpy()
        for name, array in _read_alike(source, part[alike]).items():
            if name not in absent.split():
                if name in arrays:
                    _check_slice(name, array, arrays[name], part[alike])
                filled.setdefault(name, np.full((len(part), *array.shape[1:]), np.nan))
                filled[name][alike] = array
    return filled


def _read_alike(source: SampleSource, part: pd.DataFrame) -> dict[str, np.ndarray]:
    """Read samples that all have, or lack, the same modalities."""
    read = source.read(part)
    _check_read(read, source, part)
    floats = {n for n, array in read.items() if np.issubdtype(array.dtype, np.floating)}
    return read | {name: read[name].astype(np.float32) for name in floats}


def _which(source: SampleSource, part: pd.DataFrame) -> str:
    """The samples of a slice, for error messages."""
    ids = part["id"]
    return f"the samples {ids.iloc[0]!r} to {ids.iloc[-1]!r} of {type(source).__name__}"


def _check_read(read: object, source: SampleSource, part: pd.DataFrame) -> None:
    """Reject what is not an array of the right length for each modality, by its name.

    Raises:
        ValueError: The message names the modality and the samples.
    """
    which = _which(source, part)
    rule = "it must return a dict of NumPy arrays (n, ...), with one entry for each sample"
    if not isinstance(read, dict):
        raise ValueError(f"for {which}, `read` returned a {type(read).__name__}; {rule}")
    for name, array in read.items():
        if not isinstance(array, np.ndarray):
            hint = ", for example by numpy.stack" if isinstance(array, list) else ""
            hint = ", for example by its method numpy()" if hasattr(array, "numpy") else hint
            raise ValueError(
                f"for {which}, `read` returned {name!r} as a {type(array).__name__}; {rule}: "
                f"convert it{hint}"
            )
        if len(array.shape) < (1 if name in source.notes else 2):
            raise ValueError(
                f"for {which}, `read` returned {name!r} with shape {array.shape}; {rule}, and a "
                f"sample must have at least one axis: (n, 1) for one number"
            )
    names = [name for name in read if name != "label" and name not in source.notes]
    absent = part[ABSENT].iloc[0].split() if ABSENT in part else []
    if not set(source.modalities) - set(absent) <= set(names):
        raise ValueError(
            f"for {which}, `read` returned the modalities {names}, but members.modalities has "
            f"networks for {list(source.modalities)}: use the same names"
        )


def take_notes(
    source: SampleSource, read: dict[str, np.ndarray], part: pd.DataFrame
) -> dict[str, list[float]]:
    """Remove the source's notes from what was read and return them.

    Args:
        source: The source.
        read: The second result of `read_slice`; its notes are removed.
        part: The rows that were read.

    Returns:
        For each note, one number for each row.

    Raises:
        ValueError: A note is missing or is not one number for each sample.
    """
    notes = {}
    for name in source.notes:
        which = f"the note {name!r} of the samples from {part['id'].iloc[0]!r} on"
        if name not in read:
            raise ValueError(f"{which} is missing: `read` returned {list(read)}")
        note = read.pop(name)
        if note.shape != (len(part),) or note.dtype.kind not in "biuf":
            raise ValueError(
                f"{which} has shape {note.shape} and type {note.dtype}; it must be {len(part)} "
                f"numbers"
            )
        notes[name] = note.tolist()
    return notes


def append_slice(
    arrays: dict[str, GrowingArray],
    read: dict[str, np.ndarray],
    part: pd.DataFrame,
    source: SampleSource,
) -> None:
    """Check a slice and append it to the arrays.

    Args:
        arrays: The arrays of the store.
        read: Modalities and dense labels by name, without notes.
        part: The rows that were read.
        source: The source.

    Raises:
        ValueError: The slice has other arrays than the first sample, or one of another shape or
            type, numbers that are not finite, or labels that are not classes.
    """
    if not read or list(read) != list(arrays):
        raise ValueError(
            f"sample {part['id'].iloc[0]!r} has the modalities {list(read)}, but the first sample "
            f"has {list(arrays)}"
        )
    for name, array in read.items():
        _check_slice(name, array, arrays[name], part)
    if "label" in read:
        check_labels(read["label"], source, part)
    for name, array in read.items():
        arrays[name].append(array)


def _check_slice(name: str, array: np.ndarray, wanted: GrowingArray, part: pd.DataFrame) -> None:
    """Reject a slice whose shape or type differs from the first sample's, or that is not finite."""
    which = f"modality {name!r} of the samples {part['id'].iloc[0]!r} to {part['id'].iloc[-1]!r}"
    if array.shape != (len(part), *wanted.shape):
        raise ValueError(
            f"{which} has shape {array.shape}; it must be {(len(part), *wanted.shape)} to match "
            f"the first sample"
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{which} is of type {array.dtype}; it must be numbers")
    if array.dtype != wanted.dtype:
        raise ValueError(f"{which} is of type {array.dtype}; the first sample is {wanted.dtype}")
    if np.issubdtype(array.dtype, np.floating):
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        finite |= lacks(part, name)
        if not finite.all():
            raise ValueError(
                f"modality {name!r} of sample {part['id'].iloc[int(np.argmin(finite))]!r} holds "
                f"NaN or infinity; every number must be finite"
            )
