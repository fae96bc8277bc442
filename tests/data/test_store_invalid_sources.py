"""Building a sample store: which sources are rejected, and what stays on the disk after that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from array_sources import (
    SAMPLE_BYTES,
    ArraySource,
    Change,
    digest_of_store,
    file_contents,
    make_source,
    remaining_entries,
)
from mst_distill.data.store import open_store, write_store


@pytest.mark.parametrize("name", ["", "all", "(dense)", 3])
def test_a_class_name_with_another_meaning_is_rejected(raw: Path, folder: Path, name: Any) -> None:
    source = make_source(raw)
    source.classes = ("a", name, "c")
    with pytest.raises(ValueError, match=re.escape(f"the class name {name!r} is not allowed")):
        write_store(source, folder)


def set_nan(source: ArraySource) -> None:
    source.arrays["image"][5, 0, 1, 1] = np.nan


def set_infinity(source: ArraySource) -> None:
    source.arrays["audio"][0, 1] = -np.inf


def set_label_too_large(source: ArraySource) -> None:
    source.index.loc[4, "label"] = 3


def set_negative_label(source: ArraySource) -> None:
    source.index.loc[4, "label"] = -2


def set_dense_mark(source: ArraySource) -> None:
    source.index.loc[4, "label"] = -1


def set_dense_label_too_large(source: ArraySource) -> None:
    source.index["label"] = -1
    source.arrays["label"] = np.zeros((7, 2, 2), np.int64)
    source.arrays["label"][3, 1, 0] = 3


def drop_column(source: ArraySource) -> None:
    source.index = source.index.drop(columns="group")


def repeat_class_name(source: ArraySource) -> None:
    source.classes = ("a", "b", "a")


def drop_label(source: ArraySource) -> None:
    source.index["label"] = source.index["label"].where(source.index["row"] != 4)


def repeat_id(source: ArraySource) -> None:
    source.index.loc[6, "id"] = "s2"


def set_integer_id(source: ArraySource) -> None:
    source.index["id"] = source.index["id"].where(source.index["row"] != 4, 4)


def add_column_of_objects(source: ArraySource) -> None:
    source.index["file"] = [Path("images") / name for name in source.index["id"]]


def drop_all_rows(source: ArraySource) -> None:
    source.index = source.index.iloc[:0]


def change_nothing(_source: ArraySource) -> None:
    pass


class Uneven(ArraySource):
    """Reads a wider array from the sixth sample on."""

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        if (part["row"] >= 5).any():
            read["audio"] = np.zeros((len(part), 4), np.float32)
        return read


class Integral(ArraySource):
    """Reads integers from the sixth sample on."""

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        if (part["row"] >= 5).any():
            read["audio"] = read["audio"].astype(np.int32)
        return read


class MissingModality(ArraySource):
    """Reads no sound from the sixth sample on."""

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        if (part["row"] >= 5).any():
            del read["audio"]
        return read


class Empty(ArraySource):
    """Reads no modality from the sample `first` on."""

    first = 5

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        return {} if (part["row"] >= self.first).any() else read


class AllEmpty(Empty):
    first = 0


class Shrinking(ArraySource):
    """Removes a sample from its index while it is read."""

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        self.index = self.index[self.index["row"] != 3]
        return super().read(part)


class Short(ArraySource):
    """Leaves out samples without reporting it."""

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        return {name: array[:2] for name, array in read.items()}


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        (ArraySource, set_nan, "modality 'image' of sample 's5' holds NaN or infinity"),
        (ArraySource, set_infinity, "modality 'audio' of sample 's0' holds NaN or infinity"),
        (ArraySource, set_label_too_large, "'s4' has label 3, but there are only the 3 classes 0 "),
        (ArraySource, set_negative_label, "sample 's4' has label -2"),
        (ArraySource, drop_label, "row 4 of the index of ArraySource .* has no 'label'"),
        (ArraySource, set_dense_mark, "sample 's4' has label -1"),
        (ArraySource, set_dense_label_too_large, "'s3' has label 3, but .* only the 3 classes"),
        (ArraySource, drop_column, "index of ArraySource .*raw.bin.* lacks the column 'group'"),
        (ArraySource, repeat_class_name, r"class names must be unique: \['a', 'b', 'a'\]"),
        (Integral, change_nothing, "'audio' of the samples 's5' to 's6' is of type int32; .* is f"),
        (
            MissingModality,
            change_nothing,
            r"'s5' has the modalities \['image'\], but the first sam",
        ),
        (ArraySource, repeat_id, "sample id 's2' of ArraySource .* appears twice"),
        (Empty, change_nothing, r"sample 's5' has the modalities \[\], but .* has \['image', 'aud"),
        (AllEmpty, change_nothing, r"sample 's0' has the modalities \[\]"),
        (Shrinking, change_nothing, "index of Shrinking has 6 samples that can be read, but 7 wer"),
        (ArraySource, drop_all_rows, "ArraySource found no samples in .*raw.bin"),
        (
            Uneven,
            change_nothing,
            r"'audio' of the samples 's5' to 's6' has shape \(2, 4\); it must be \(2, 3\)",
        ),
        (
            Short,
            change_nothing,
            r"'image' of the samples 's1' to 's4' has shape \(2, 1, 4, 4\); it must be \(4, 1",
        ),
    ],
)
def test_invalid_samples_are_named_and_the_old_store_stays(
    monkeypatch: pytest.MonkeyPatch,
    raw: Path,
    folder: Path,
    kind: type[ArraySource],
    damage: Change,
    message: str,
) -> None:
    length = 4 if kind is Short else 2
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", length * SAMPLE_BYTES)
    before = digest_of_store(make_source(raw, count=3, seed=8), folder)
    files = file_contents(folder)
    source = make_source(raw, kind=kind)
    damage(source)
    with pytest.raises(ValueError, match=message):
        write_store(source, folder)
    assert open_store(folder).digest == before
    assert file_contents(folder) == files
    assert remaining_entries(folder) == ["samples"]


class NotedRow(ArraySource):
    notes = ("row",)


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        (ArraySource, set_integer_id, "row 4 of the index of ArraySource has the id 4; an id must"),
        (
            ArraySource,
            add_column_of_objects,
            "the column 'file' of the index of ArraySource cannot be",
        ),
        (
            NotedRow,
            change_nothing,
            "NotedRow has a note 'row', but its index has a column of the same",
        ),
    ],
)
def test_an_invalid_index_is_rejected_before_anything_is_read(
    raw: Path, folder: Path, kind: type[ArraySource], damage: Change, message: str
) -> None:
    source = make_source(raw, kind=kind)
    damage(source)
    with pytest.raises(ValueError, match=message):
        write_store(source, folder)
    assert source.reads == []


def test_a_failed_first_build_leaves_no_files(raw: Path, folder: Path) -> None:
    source = make_source(raw)
    set_nan(source)
    with pytest.raises(ValueError, match="holds NaN"):
        write_store(source, folder)
    assert remaining_entries(folder) == []
    with pytest.raises(FileNotFoundError):
        open_store(folder)


def test_a_full_disk_does_not_discard_the_samples_already_written(raw: Path, folder: Path) -> None:
    class Full(ArraySource):
        def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_store(make_source(raw, kind=Full), folder)
    assert remaining_entries(folder) == [".samples.partial"]
