"""The sample store: what is written, what is kept, and what is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mst_distill.benchmarks.source import SampleSource
from mst_distill.store import open_store, write_store


class Arrays(SampleSource):
    """Samples from arrays in memory, that counts what is read of it."""

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


class Dense(Arrays):
    ignored_label = 2


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw.bin").write_bytes(b"raw")
    return tmp_path / "raw.bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "stores" / "samples"


def make(raw: Path, count: int = 7, seed: int = 0, kind: type[Arrays] = Arrays) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = {"image": (1, 4, 4), "audio": (3,)}
    arrays = {
        name: rng.normal(size=(count, *shape)).astype(np.float32) for name, shape in shapes.items()
    }
    return kind(arrays, count, raw)


def digest(source: Arrays, folder: Path) -> str:
    write_store(source, folder)
    return open_store(folder).digest


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []


def test_what_is_written_is_read_back(raw: Path, folder: Path) -> None:
    source = make(raw)
    write_store(source, folder)
    samples = open_store(folder)
    assert len(samples) == 7
    assert list(samples.modalities) == ["image", "audio"]
    for name, array in source.arrays.items():
        assert samples.modalities[name].dtype == np.float32
        np.testing.assert_array_equal(samples.modalities[name], array)
    columns = ["id", "group", "split", "label"]
    pd.testing.assert_frame_equal(samples.index[columns], source.index[columns])
    assert samples.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert samples.classes == ("a", "b", "c")
    assert samples.ignored_label is None
    assert not samples.dense
    assert left(folder) == ["samples"]


def test_the_arrays_stay_on_disk(raw: Path, folder: Path) -> None:
    write_store(make(raw), folder)
    for array in open_store(folder).modalities.values():
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    ("slice_bytes", "reads"),
    # A sample has 16 + 3 numbers of 4 bytes.
    [(1, [1] * 7), (3 * 76, [3, 3, 1]), (6 * 76 - 1, [5, 2]), (6 * 76, [6, 1]), (10**6, [7])],
)
def test_slices_as_large_as_allowed_make_the_same_store(
    monkeypatch: pytest.MonkeyPatch, raw: Path, folder: Path, slice_bytes: int, reads: list[int]
) -> None:
    monkeypatch.setattr("mst_distill.store.SLICE_BYTES", slice_bytes)
    source = make(raw)
    write_store(source, folder)
    # The first read is of one sample, for the shapes.
    assert source.reads == [1, *reads]
    for name, array in source.arrays.items():
        np.testing.assert_array_equal(open_store(folder).modalities[name], array)


@pytest.mark.parametrize("slice_bytes", [1, 150])
def test_the_digest_of_one_modality_does_not_hang_on_the_slices(
    monkeypatch: pytest.MonkeyPatch, raw: Path, tmp_path: Path, slice_bytes: int
) -> None:
    source = make(raw)
    del source.arrays["audio"]
    whole = digest(source, tmp_path / "whole")
    monkeypatch.setattr("mst_distill.store.SLICE_BYTES", slice_bytes)
    assert digest(source, tmp_path / "slices") == whole


def test_equal_data_has_an_equal_digest_wherever_it_is_from(raw: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.bin"
    other.write_bytes(b"something else")
    assert digest(make(raw), tmp_path / "one") == digest(make(other), tmp_path / "two")


def change_number(source: Arrays) -> None:
    source.arrays["audio"][6, 2] += 1e-3


def change_label(source: Arrays) -> None:
    source.index.loc[3, "label"] = 1


def change_split(source: Arrays) -> None:
    source.index.loc[3, "split"] = "train"


def change_group(source: Arrays) -> None:
    source.index.loc[3, "group"] = "g9"


def change_id(source: Arrays) -> None:
    source.index.loc[3, "id"] = "another"


def change_classes(source: Arrays) -> None:
    source.classes = ("a", "b", "d")


CHANGES = [change_number, change_label, change_split, change_group, change_id, change_classes]


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_the_data_changes_the_digest(change: Any, raw: Path, tmp_path: Path) -> None:
    before = digest(make(raw), tmp_path / "before")
    source = make(raw)
    change(source)
    assert digest(source, tmp_path / "after") != before


def test_a_store_of_the_same_source_is_kept(raw: Path, folder: Path) -> None:
    write_store(make(raw), folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = make(raw)
    write_store(again, folder)
    assert again.reads == []
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def drop_rows(source: Arrays) -> None:
    source.index = source.index.iloc[:5]


def rewrite_file(source: Arrays) -> None:
    source.files[0].write_bytes(b"raw files that have changed")


def touch_file(source: Arrays) -> None:
    os.utime(source.files[0], ns=(1, 1))


def open_otherwise(source: Arrays) -> None:
    source.opened_with = {"protocol": "heldout", "arguments": {"kept_energy": 0.9}}


OTHER = [*CHANGES[1:], drop_rows, rewrite_file, touch_file, open_otherwise]


@pytest.mark.parametrize("change", OTHER)
def test_a_store_of_another_source_is_replaced(change: Any, raw: Path, folder: Path) -> None:
    write_store(make(raw, seed=1), folder)
    (folder / "stray.txt").write_text("left by someone")
    source = make(raw, seed=2)
    change(source)
    write_store(source, folder)
    expected = source.arrays["image"][: len(source.index)]
    np.testing.assert_array_equal(open_store(folder).modalities["image"], expected)
    assert not (folder / "stray.txt").exists()
    assert left(folder) == ["samples"]


def test_a_folder_that_is_no_store_is_replaced(raw: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    write_store(make(raw), folder)
    assert len(open_store(folder)) == 7


def test_a_missing_store_says_which_pipeline_makes_it(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="samples holds no samples: run the pipeline `inge"):
        open_store(folder)


def test_floats_of_any_precision_are_kept_as_float32(raw: Path, folder: Path) -> None:
    source = make(raw)
    source.arrays["audio"] = source.arrays["audio"].astype(np.float64)
    write_store(source, folder)
    samples = open_store(folder)
    assert samples.modalities["audio"].dtype == np.float32
    assert samples.digest == digest(make(raw), folder.with_name("single"))


@pytest.mark.parametrize("name", ["", "all", "(dense)", 3])
def test_a_class_may_not_be_named_like_something_else(raw: Path, folder: Path, name: Any) -> None:
    source = make(raw)
    source.classes = ("a", name, "c")
    with pytest.raises(ValueError, match=re.escape(f"no class may be named {name!r}")):
        write_store(source, folder)


def test_exchanged_modalities_have_another_digest(raw: Path, tmp_path: Path) -> None:
    digests = []
    for place, names in enumerate((("one", "two"), ("two", "one"))):
        source = make(raw)
        source.arrays = dict(zip(names, source.arrays.values(), strict=True))
        digests.append(digest(source, tmp_path / str(place)))
    assert digests[0] != digests[1]


def test_an_ignored_label_need_not_be_a_class(raw: Path, folder: Path) -> None:
    class Void(Dense):
        ignored_label = 255

    source = make(raw, kind=Void)
    source.index["label"] = -1
    source.arrays["label"] = np.full((7, 4, 4), 255, np.uint8)
    write_store(source, folder)
    assert open_store(folder).ignored_label == 255
    assert (open_store(folder).labels == 255).all()


def dense(raw: Path, dtype: Any = np.int64) -> Dense:
    source = make(raw, kind=Dense)
    source.index["label"] = -1
    source.arrays["label"] = np.random.default_rng(5).integers(0, 3, (7, 4, 4)).astype(dtype)
    return source


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_dense_labels_are_labels_and_no_modality(raw: Path, folder: Path, dtype: Any) -> None:
    source = dense(raw, dtype)
    write_store(source, folder)
    samples = open_store(folder)
    assert samples.dense
    assert list(samples.modalities) == ["image", "audio"]
    assert samples.labels.dtype == dtype
    assert samples.ignored_label == 2
    np.testing.assert_array_equal(samples.labels, source.arrays["label"])


def test_dense_labels_count_in_the_digest(raw: Path, tmp_path: Path) -> None:
    before = digest(dense(raw), tmp_path / "before")
    source = dense(raw)
    source.arrays["label"][2, 1, 1] = (source.arrays["label"][2, 1, 1] + 1) % 3
    assert digest(source, tmp_path / "after") != before


def break_nan(source: Arrays) -> None:
    source.arrays["image"][5, 0, 1, 1] = np.nan


def break_infinity(source: Arrays) -> None:
    source.arrays["audio"][0, 1] = -np.inf


def break_label(source: Arrays) -> None:
    source.index.loc[4, "label"] = 3


def break_negative_label(source: Arrays) -> None:
    source.index.loc[4, "label"] = -2


def break_not_dense(source: Arrays) -> None:
    source.index.loc[4, "label"] = -1


def break_dense_label(source: Arrays) -> None:
    source.index["label"] = -1
    source.arrays["label"] = np.zeros((7, 2, 2), np.int64)
    source.arrays["label"][3, 1, 0] = 3


def break_column(source: Arrays) -> None:
    source.index = source.index.drop(columns="group")


def break_class_names(source: Arrays) -> None:
    source.classes = ("a", "b", "a")


def break_missing_label(source: Arrays) -> None:
    source.index["label"] = source.index["label"].where(source.index["row"] != 4)


def break_id(source: Arrays) -> None:
    source.index.loc[6, "id"] = "s2"


def break_everything(source: Arrays) -> None:
    source.index = source.index.iloc[:0]


class Uneven(Arrays):
    """Reads a wider array from the sixth sample on."""

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        if (part["row"] >= 5).any():
            read["audio"] = np.zeros((len(part), 4), np.float32)
        return read


class Integral(Arrays):
    """Reads whole numbers from the sixth sample on."""

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        if (part["row"] >= 5).any():
            read["audio"] = read["audio"].astype(np.int32)
        return read


class Silent(Arrays):
    """Has no sound from the sixth sample on."""

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        if (part["row"] >= 5).any():
            del read["audio"]
        return read


class Short(Arrays):
    """Leaves samples out without a word."""

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        return {name: array[:2] for name, array in read.items()}


def nothing(_source: Arrays) -> None:
    pass


@pytest.mark.parametrize(
    ("kind", "damage", "rule"),
    [
        (Arrays, break_nan, "modality 'image' of sample 's5' holds NaN or infinity"),
        (Arrays, break_infinity, "modality 'audio' of sample 's0' holds NaN or infinity"),
        (Arrays, break_label, "sample 's4' has label 3, but there are only the 3 classes 0 to 2"),
        (Arrays, break_negative_label, "sample 's4' has label -2"),
        (Arrays, break_missing_label, "row 4 of the index of Arrays has no 'label'"),
        (Arrays, break_not_dense, "sample 's4' has label -1"),
        (Arrays, break_dense_label, "sample 's3' has label 3, but there are only the 3 classes"),
        (Arrays, break_column, "index of Arrays lacks the column 'group'"),
        (Arrays, break_class_names, r"class names must be unique: \['a', 'b', 'a'\]"),
        (Integral, nothing, "'audio' of the samples 's4' to 's5' is int32; .* is float32"),
        (Silent, nothing, r"'s4' has the modalities \['image'\], the first one \['image', 'audio"),
        (Arrays, break_id, "sample id 's2' appears twice"),
        (Arrays, break_everything, "Arrays found no samples in .*raw.bin"),
        (
            Uneven,
            nothing,
            r"'audio' of the samples 's4' to 's5' has shape \(2, 4\); \(2, 3\)",
        ),
        (Short, nothing, r"'image' of the samples 's0' to 's3' has shape \(2, 1, 4, 4\); \(4, 1"),
    ],
)
def test_damaged_samples_are_named_and_leave_the_old_store_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
    raw: Path,
    folder: Path,
    kind: type[Arrays],
    damage: Any,
    rule: str,
) -> None:
    step = 4 if kind is Short else 2
    monkeypatch.setattr("mst_distill.store.SLICE_BYTES", step * (16 + 3) * 4)
    before = digest(make(raw, count=3, seed=8), folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    source = make(raw, kind=kind)
    damage(source)
    with pytest.raises(ValueError, match=rule):
        write_store(source, folder)
    assert open_store(folder).digest == before
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert left(folder) == ["samples"]


def test_a_failure_leaves_nothing_where_there_was_nothing(raw: Path, folder: Path) -> None:
    source = make(raw)
    break_nan(source)
    with pytest.raises(ValueError, match="holds NaN"):
        write_store(source, folder)
    assert left(folder) == []
    with pytest.raises(FileNotFoundError):
        open_store(folder)


def test_what_a_killed_run_left_behind_does_not_matter(raw: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "image.npy").write_bytes(b"half")
    write_store(make(raw), folder)
    assert len(open_store(folder)) == 7
    assert left(folder) == ["samples"]
