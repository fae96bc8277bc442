"""Building a sample store: which sources are rejected, and what stays on the disk after that."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

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
    source.index.loc[4, ["label", "split"]] = [-1, "test"]


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


class Wrong(ArraySource):
    """Returns what `wrong` makes of the arrays that were read."""

    wrong: Any

    def read(self, part: pd.DataFrame) -> Any:
        return self.wrong(super().read(part))


def change_audio(change: Any) -> Any:
    return lambda read: {**read, "audio": change(read["audio"])}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda read: list(read.values()), "`read` returned a list; it must return a dict"),
        (lambda _: None, "`read` returned a NoneType; it must return a dict"),
        (change_audio(list), r"'audio' as a list; .*convert it, for example by numpy\.stack"),
        (change_audio(lambda _: None), "'audio' as a NoneType; .*convert it"),
        (change_audio(torch.from_numpy), r"'audio' as a Tensor; .*by its method numpy\(\)"),
        (change_audio(pd.DataFrame), "'audio' as a DataFrame; .*convert it"),
        (change_audio(lambda audio: audio[:, 0]), r"'audio' with shape \(1,\); .*\(n, 1\)"),
        (change_audio(lambda audio: audio.astype(object)), "is of type object; it must be numbers"),
        (change_audio(lambda audio: audio[:0]), r"has shape \(0, 3\); it must be \(1, 3\)"),
        (
            lambda read: {"image": read["image"], "sound": read["audio"]},
            r"the modalities \['image', 'sound'\], but members.modalities .*\['image', 'audio'\]",
        ),
        (
            lambda read: {"image": read["image"]},
            r"the modalities \['image'\], but members.modalities has networks for",
        ),
    ],
)
def test_what_read_must_not_return_is_named_with_the_samples(
    raw: Path, folder: Path, wrong: Any, message: str
) -> None:
    source = make_source(raw, kind=Wrong)
    source.wrong, source.modalities = wrong, ("image", "audio")
    with pytest.raises(ValueError, match=message) as error:
        write_store(source, folder)
    assert "'s0'" in str(error.value)
    assert remaining_entries(folder) == []


def test_an_error_in_read_names_the_samples_and_keeps_its_type(raw: Path, folder: Path) -> None:
    source = make_source(raw, kind=Wrong)
    source.wrong = lambda read: read["tweet_text"]
    with pytest.raises(KeyError) as error:
        write_store(source, folder)
    assert error.value.__notes__ == [
        "This happened when the samples 's0' to 's0' of Wrong were read."
    ]


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.bool_])
def test_integers_are_stored_as_they_are_with_a_warning(
    raw: Path, folder: Path, caplog: pytest.LogCaptureFixture, kind: Any
) -> None:
    source = make_source(raw)
    source.arrays["audio"] = (source.arrays["audio"] > 0).astype(kind)
    write_store(source, folder)
    assert open_store(folder).modalities["audio"].dtype == kind
    (record,) = caplog.records
    assert f"Modality 'audio' is of type {np.dtype(kind)}" in record.getMessage()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b", "c"], r"of type (object|str), such as 'a' of sample 's0'; .*integers"),
        ([0.0, 1.0, 2.0], r"of type float64, such as .*0\.0.* of sample 's0'; .*from 0 to 2"),
        ([True, False, True], "of type bool, such as .*True.* of sample 's0'"),
    ],
)
def test_labels_of_another_type_are_named_before_anything_is_read(
    raw: Path, folder: Path, labels: Any, message: str
) -> None:
    source = make_source(raw)
    source.index["label"] = (labels * 3)[:7]
    with pytest.raises(ValueError, match=f"labels of ArraySource are {message}"):
        write_store(source, folder)
    assert source.reads == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("classes", "abc", "`classes` of ArraySource is of type str; it must be a list or a tuple"),
        (
            "index",
            None,
            "`index` of ArraySource is of type NoneType; it must be a pandas DataFrame",
        ),
        ("files", "raw.bin", "`files` of ArraySource is of type str; it must be a list or a tuple"),
        ("files", ["raw.bin"], "`files` of ArraySource contains 'raw.bin'; .*pathlib.Path"),
    ],
)
def test_attributes_of_another_type_are_named(
    raw: Path, folder: Path, name: str, value: Any, message: str
) -> None:
    source = make_source(raw)
    setattr(source, name, value)
    with pytest.raises(ValueError, match=message):
        write_store(source, folder)
