"""What a benchmark is: an index of samples, and how to read some of them."""

from __future__ import annotations

import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from mst_distill.artifacts.code_digest import code_of
from mst_distill.artifacts.provenance import texts_in

Protocol = Literal["heldout", "random"]
"""``heldout``: leak-free, everything fitted on train alone. ``random``: as in the reference."""

NO_CLASS_NAMES = ("", "all", "(dense)", "id", "split", "specialist")
"""What tables of the report call something else than a class."""


class DamagedSampleError(ValueError):
    """One sample cannot be read, or one of its modalities tells nothing; the others are fine.

    Args:
        sample: Its id.
        reason: The file, and what is wrong with it.
    """

    def __init__(self, sample: str, reason: str) -> None:
        super().__init__(f"sample {sample!r}: {reason}")
        self.sample = sample
        self.reason = reason


class SampleSource(ABC):
    """Raw files of one benchmark, seen as samples.

    A subclass opens its files in ``__init__(self, protocol, **arguments)`` (the arguments come from
    the ``benchmark`` block of the parameters), fits there what its preprocessing needs, and sets
    `index`. Nothing large is read before `read` asks for it, so a store larger than memory can be
    built slice by slice.

    Attributes:
        classes: Class names, in the order of the labels.
        ignored_label: The label that is no target (dense tasks), or None.
        notes: Names of what `read` says of a sample beside its modalities: durations, repairs.
        index: One row a sample: ``id`` (a text, unique), ``group``, ``split`` (leak-free),
            ``label``, if the report shall count it ``source`` (an actor, an event, a kind of
            scene), and whatever else `read` needs to find the sample.
        files: The raw files that were opened.
        omitted: Samples that are known to be incomplete without reading them: id to reason. They
            are not in `index`.
        tolerated_share: How much of all samples may be left out, in [0, 1), because they are
            incomplete or `read` finds them damaged.
        opened_with: Class, protocol and arguments, noted by whoever opened the source; with the
            files, the index and the code (see `code_of`) they tell one store from another.
    """

    classes: Sequence[str]
    ignored_label: ClassVar[int | None] = None
    notes: ClassVar[Sequence[str]] = ()
    index: pd.DataFrame
    files: Sequence[Path]
    omitted: Mapping[str, str] = MappingProxyType({})
    tolerated_share: float = 0.0
    opened_with: Mapping[str, Any] = MappingProxyType({})

    def fit(self, folder: Path) -> None:
        """Fit what `read` needs and only a pass over the raw files can tell; nothing by default.

        Called before the first `read`, when `index` has the rows that are wanted and no others.

        Args:
            folder: What is written here is there again when the store's building goes on after a
                stop.
        """
        return

    @abstractmethod
    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Read some samples.

        Args:
            part: n rows of `index`.

        Returns:
            Modality name to ``(n, *shape)`` float32; a dense task adds ``label``, ``(n, H, W)``,
            and every name in `notes` is there with ``(n,)`` numbers.

        Raises:
            DamagedSampleError: One of them cannot be read; it is left out, and the rest asked for
                again.
        """

    def fingerprint(self) -> str:
        """SHA-256 over how it was opened, its code, the rows, the files' names, sizes and times."""
        files = [
            (file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in self.files
        ]
        code = code_of(type(self), *texts_in(self.opened_with))
        how = [dict(self.opened_with), list(self.classes), self.ignored_label, files, code]
        sha = hashlib.sha256(json.dumps(how, sort_keys=True).encode())
        sha.update(pd.util.hash_pandas_object(self.index, index=False).to_numpy().tobytes())
        sha.update(json.dumps(list(self.index.columns)).encode())
        return sha.hexdigest()


def told(source: SampleSource) -> str:
    """A source's class and the first of its files, for errors."""
    files = [str(file) for file in source.files]
    more = [f"{len(files) - 3} more"] if len(files) > 3 else []
    return f"{type(source).__name__} ({', '.join([*files[:3], *more])})"


def check_index(source: SampleSource) -> None:
    """Refuse an index that no store could be built from.

    Raises:
        ValueError: A class name is taken or appears twice, a column is missing or has gaps, there
            are no samples, an id is no text or appears twice, a column fits no Parquet file, or a
            note is named like a column; the message names it.
    """
    index, classes = source.index, list(source.classes)
    if strange := [name for name in classes if not isinstance(name, str) or name in NO_CLASS_NAMES]:
        raise ValueError(
            f"no class may be named {strange[0]!r}: a name is a text and none of {NO_CLASS_NAMES}"
        )
    if len(set(classes)) < len(classes):
        raise ValueError(f"class names must be unique: {classes}")
    for column in ("id", "group", "split", "label"):
        if column not in index:
            raise ValueError(f"the index of {told(source)} lacks the column {column!r}")
        if index[column].isna().any():
            row = int(index[column].isna().argmax())
            raise ValueError(f"row {row} of the index of {told(source)} has no {column!r}")
    refuse_too_many(source.omitted, len(index) + len(source.omitted), source.tolerated_share)
    if index.empty:
        raise ValueError(f"{type(source).__name__} found no samples in {list(source.files)[:3]}")
    for row, name in enumerate(index["id"]):
        if not isinstance(name, str):  # what a build notes of a sample goes through JSON
            raise ValueError(
                f"row {row} of the index of {type(source).__name__} has the id {name!r}; an id "
                f"must be a text"
            )
    if index["id"].duplicated().any():
        twice = index.loc[index["id"].duplicated(), "id"].iloc[0]
        raise ValueError(f"sample id {twice!r} of {told(source)} appears twice; ids must be unique")
    _check_table(source)


def _check_table(source: SampleSource) -> None:
    """Refuse columns that could not be written once everything is read."""
    for column in source.index:
        try:
            source.index[[column]].to_parquet(io.BytesIO(), index=False)
        except Exception as error:  # whatever pandas and Arrow meet in a column
            raise ValueError(
                f"the column {column!r} of the index of {type(source).__name__} fits no Parquet "
                f"file: {error}"
            ) from error
    if taken := [name for name in source.notes if name in source.index]:
        raise ValueError(
            f"{type(source).__name__} has a note {taken[0]!r}, but its index has such a column"
        )


def refuse_too_many(omitted: Mapping[str, str], total: int, tolerated_share: float) -> None:
    """Refuse to go on when more than a share of all samples would be left out.

    Raises:
        ValueError: It is more; the message names how many, and the first with its reason.
    """
    if len(omitted) > tolerated_share * total:
        sample, reason = next(iter(omitted.items()))
        raise ValueError(
            f"{len(omitted)} of {total} samples cannot be used, and at most {tolerated_share:.1%} "
            f"may be left out (tolerated_share); the first is {sample!r}: {reason}"
        )


@contextmanager
def damaged(sample: str) -> Iterator[None]:
    """What cannot be read within is this sample's damage.

    Raises:
        DamagedSampleError: In place of a ValueError or OSError.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise DamagedSampleError(sample, str(error)) from error
