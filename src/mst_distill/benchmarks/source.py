"""The interface of a benchmark: an index of samples, and a method that reads some of them."""

from __future__ import annotations

import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from mst_distill.artifacts.code_digest import code_of
from mst_distill.artifacts.provenance import texts_in
from mst_distill.data.samples import ABSENT, UNLABELLED, lacks
from mst_distill.errors import did_you_mean
from mst_distill.media.readers import Reader

Protocol = Literal["heldout", "random", "grouped"]
"""``heldout``: the benchmark's own leak-free split, with preprocessing fitted on the training split
only. ``random``: all samples are split at random, as in the reference implementation. ``grouped``:
as ``heldout`` with a split of its own, to which whole groups are dealt; sources are opened as with
``heldout``, and their splits are replaced before they fit anything."""

NO_CLASS_NAMES = ("", "all", "(dense)", "(no label)", "id", "split", "specialist")
"""Names that are not allowed for classes, because the tables of the report use them otherwise."""


DENSE = -1
"""The label in the index of all samples of a dense task, whose labels `read` returns."""


class DamagedSampleError(ValueError):
    """One sample cannot be read, or one of its modalities contains no information.

    The other samples can be used.

    Args:
        sample: Id of the sample.
        reason: The file, and what is wrong with it.
    """

    def __init__(self, sample: str, reason: str) -> None:
        super().__init__(f"sample {sample!r}: {reason}")
        self.sample = sample
        self.reason = reason


class SampleSource(ABC):
    """The raw files of one benchmark, presented as samples.

    A subclass opens its files in ``__init__(self, protocol, **arguments)``, fits its preprocessing
    and sets `index`. The arguments come from the ``benchmark`` block of the parameters. Large data
    are read only in `read`, so that a store larger than memory can be built slice by slice.

    Attributes:
        classes: Class names, in the order of the labels.
        ignored_label: The label that is not a target (dense tasks), or None.
        notes: Names of the numbers that `read` returns in addition to the modalities, such as
            durations or repairs.
        index: One row for each sample, with ``id`` (a unique string), ``group``, ``split``
            (leak-free), ``label`` (-1 for a training sample without one), optionally ``absent``
            (the names of the modalities that a sample does not have, separated by spaces),
            optionally ``source`` (an actor, an event, a kind of scene), which the report counts,
            and any other columns that `read` needs to find the sample.
        files: The raw files that were opened.
        omitted: The ids of the samples that are known to be incomplete before they are read, with
            the reason. These samples are not in `index`.
        tolerated_share: Maximum share of all samples, in [0, 1), that may be left out because they
            are incomplete or because `read` finds them damaged.
        readers: The reader of each modality, if the source has readers (see `ReaderSource`). Their
            fitted state is stored with the samples, and goes with the student.
        modalities: The names of the modalities that `read` is expected to return, if known; set by
            the pipeline.
        shared_by_groups: What samples of different groups may share, such as a clip of noise; if
            there is anything, groups cannot be dealt again without a leak, and the protocol
            ``grouped`` is an error.
        opened_with: Class, protocol and arguments, set by `open_source`. Together with the files,
            the index and the code (see `code_of`), they identify a store.
    """

    classes: Sequence[str]
    ignored_label: ClassVar[int | None] = None
    notes: ClassVar[Sequence[str]] = ()
    index: pd.DataFrame
    files: Sequence[Path]
    omitted: Mapping[str, str] = MappingProxyType({})
    tolerated_share: float = 0.0
    shared_by_groups: ClassVar[str] = ""
    readers: Mapping[str, Reader] = MappingProxyType({})
    modalities: Sequence[str] = ()
    opened_with: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def default_members(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the block ``members`` that stands for ``members: auto``.

        Args:
            arguments: The arguments of the source in the parameters.

        Raises:
            ValueError: This class of sources has no default networks.
        """
        raise ValueError(
            f"members is 'auto', but {cls.__module__}.{cls.__qualname__} has no default networks: "
            f"list the multimodal teacher and a network for each modality"
        )

    def fit(self, folder: Path) -> None:
        """Fit preprocessing that needs a pass over the raw files; by default, nothing.

        This method is called before the first `read`, when `index` has only the rows that are used.

        Args:
            folder: Folder for intermediate results. Its files are kept when the building of the
                store is interrupted and continued.
        """
        return

    @abstractmethod
    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Read some samples.

        Args:
            part: n rows of `index`, all with the same `ABSENT` modalities.

        Returns:
            For each modality an array ``(n, *shape)`` float32, for a dense task also ``label``,
            ``(n, H, W)``, and for each name in `notes` an array of ``(n,)`` numbers. Modalities
            that are absent may be left out, with their notes.

        Raises:
            DamagedSampleError: A sample cannot be read. The caller leaves it out and calls this
                method again with the other samples.
        """

    def fingerprint(self) -> str:
        """Return a SHA-256 that changes whenever the samples may change.

        It covers `opened_with`, the classes, the code, the index, and the names, sizes and
        modification times of the files.
        """
        files = [
            (file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in self.files
        ]
        code = code_of(type(self), *texts_in(self.opened_with))
        origin = [dict(self.opened_with), list(self.classes), self.ignored_label, files, code]
        sha = hashlib.sha256(json.dumps(origin, sort_keys=True).encode())
        sha.update(pd.util.hash_pandas_object(self.index, index=False).to_numpy().tobytes())
        sha.update(json.dumps(list(self.index.columns)).encode())
        return sha.hexdigest()


def described(source: SampleSource) -> str:
    """Return the class of a source and the first three of its files, for errors."""
    files = [str(file) for file in source.files]
    more = [f"{len(files) - 3} more"] if len(files) > 3 else []
    return f"{type(source).__name__} ({', '.join([*files[:3], *more])})"


def check_index(source: SampleSource) -> None:
    """Check that a store can be built from the index of a source.

    Raises:
        ValueError: `classes`, `index` or `files` is missing or has the wrong type, a class name is
            not allowed or appears twice, a column is missing or has missing values, a label is not
            a class, there are no samples, too many samples are omitted, an id is not a string or
            appears twice, a sample lacks all modalities or one that is unknown, no sample has a
            modality, a column cannot be stored in a Parquet file, or a note has the name of a
            column; the message names it.
    """
    _check_attributes(source)
    index, classes = source.index, list(source.classes)
    if invalid := [name for name in classes if not isinstance(name, str) or name in NO_CLASS_NAMES]:
        raise ValueError(
            f"the class name {invalid[0]!r} is not allowed: it must be a string, but none of "
            f"{NO_CLASS_NAMES}"
        )
    if len(set(classes)) < len(classes):
        raise ValueError(f"class names must be unique: {classes}")
    for column in ("id", "group", "split", "label"):
        if column not in index:
            raise ValueError(f"the index of {described(source)} lacks the column {column!r}")
        if index[column].isna().any():
            row = int(index[column].isna().argmax())
            raise ValueError(f"row {row} of the index of {described(source)} has no {column!r}")
    refuse_too_many(source.omitted, len(index) + len(source.omitted), source.tolerated_share)
    if index.empty:
        raise ValueError(f"{type(source).__name__} found no samples in {list(source.files)[:3]}")
    for row, name in enumerate(index["id"]):
        if not isinstance(name, str):  # ids are written to JSON with the store
            raise ValueError(
                f"row {row} of the index of {type(source).__name__} has the id {name!r}; an id "
                f"must be a string"
            )
    if index["id"].duplicated().any():
        twice = index.loc[index["id"].duplicated(), "id"].iloc[0]
        raise ValueError(
            f"sample id {twice!r} of {described(source)} appears twice; ids must be unique"
        )
    if ABSENT in index:
        _check_absent(source)
    if not (index["label"] == DENSE).all():
        check_labels(index["label"].to_numpy(), source, index)
    _check_table(source)


def _check_absent(source: SampleSource) -> None:
    """Reject unknown modalities in the column `ABSENT`, and samples or modalities without data."""
    index, known = source.index, list(source.modalities or source.readers)
    for sample, absent in zip(index["id"], index[ABSENT], strict=True):
        if not isinstance(absent, str):
            raise ValueError(
                f"sample {sample!r} of {described(source)} has {absent!r} in the column "
                f"{ABSENT!r}; it must be a text with the names of the absent modalities, separated "
                f"by spaces"
            )
        names = absent.split()
        for name in names:
            if known and name not in known:
                unknown = did_you_mean(f"modality in the column {ABSENT!r}", name, known)
                raise ValueError(f"sample {sample!r} of {described(source)}: {unknown}")
        if known and set(names) == set(known):
            raise ValueError(
                f"sample {sample!r} of {described(source)} lacks all modalities: leave it out"
            )
    for name in known:
        if lacks(index, name).all():
            raise ValueError(
                f"no sample of {described(source)} has the modality {name!r}: remove it from "
                f"members.modalities, or check how absence is marked"
            )


def _check_attributes(source: SampleSource) -> None:
    for name, kind in (("classes", Iterable), ("index", pd.DataFrame), ("files", Iterable)):
        value = getattr(source, name, None)
        if not isinstance(value, kind) or isinstance(value, str):
            wanted = "a pandas DataFrame" if kind is pd.DataFrame else "a list or a tuple"
            raise ValueError(
                f"`{name}` of {type(source).__name__} is of type {type(value).__name__}; it must "
                f"be {wanted}"
            )
    for file in source.files:
        if not isinstance(file, Path):
            raise ValueError(
                f"`files` of {type(source).__name__} contains {file!r}; each must be a pathlib.Path"
            )


def check_labels(labels: np.ndarray, source: SampleSource, part: pd.DataFrame) -> None:
    """Reject labels that are neither a class nor the ignored label nor, for whole samples, missing.

    Args:
        labels: ``(n,)``, or ``(n, H, W)`` for dense labels.
        source: The source, which has the classes.
        part: The samples' rows of the index, for the message.

    Raises:
        ValueError: A label is not an integer or not a class; the message names the sample.
    """
    count = len(source.classes)
    if not np.issubdtype(labels.dtype, np.integer):
        first = (
            f", such as {labels[0]!r} of sample {part['id'].iloc[0]!r}" if labels.ndim == 1 else ""
        )
        raise ValueError(
            f"labels of {type(source).__name__} are of type {labels.dtype}{first}; they must be "
            f"integers, the positions of the classes in `classes`, from 0 to {count - 1}"
        )
    valid = (labels >= 0) & (labels < count)
    if labels.ndim == 1:
        valid |= (labels == UNLABELLED) & (part["split"] == "train").to_numpy()
    if source.ignored_label is not None:
        valid |= labels == source.ignored_label
    if not valid.all():
        row = int(np.argmin(valid.reshape(len(labels), -1).all(axis=1)))
        invalid = labels[row][~valid[row]].ravel()[0]
        raise ValueError(
            f"sample {part['id'].iloc[row]!r} has label {invalid}, but there are only the {count} "
            f"classes 0 to {count - 1} of {type(source).__name__}"
        )


def _check_table(source: SampleSource) -> None:
    """Raise an error for columns that could not be written after all samples have been read."""
    for column in source.index:
        try:
            source.index[[column]].to_parquet(io.BytesIO(), index=False)
        except Exception as error:  # pandas and Arrow raise errors of many types
            raise ValueError(
                f"the column {column!r} of the index of {type(source).__name__} cannot be stored "
                f"in a Parquet file: {error}"
            ) from error
    if taken := [name for name in source.notes if name in source.index]:
        raise ValueError(
            f"{type(source).__name__} has a note {taken[0]!r}, but its index has a column of the "
            f"same name"
        )


def refuse_too_many(omitted: Mapping[str, str], total: int, tolerated_share: float) -> None:
    """Raise an error if more than the tolerated share of all samples has to be left out.

    Args:
        omitted: The ids of the samples that cannot be used, with the reason.
        total: Number of all samples, including these.
        tolerated_share: Maximum share of omitted samples, in [0, 1).

    Raises:
        ValueError: The share is larger; the message states how many samples cannot be used, and
            names the first with its reason.
    """
    if len(omitted) > tolerated_share * total:
        sample, reason = next(iter(omitted.items()))
        raise ValueError(
            f"{len(omitted)} of {total} samples cannot be used, and at most {tolerated_share:.1%} "
            f"may be left out (tolerated_share); the first is {sample!r}: {reason}"
        )


@contextmanager
def damaged(sample: str) -> Iterator[None]:
    """Turn errors in the ``with`` block into the damage of one sample.

    Args:
        sample: Id of the sample.

    Raises:
        DamagedSampleError: The block raised a ValueError or an OSError.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise DamagedSampleError(sample, str(error)) from error
