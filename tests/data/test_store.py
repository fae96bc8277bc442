"""The sample store: what is written, what is kept, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mst_distill.benchmarks.source import DamagedSampleError, SampleSource
from mst_distill.data.store import open_store, write_store


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
    if not folder.parent.is_dir():
        return []
    return sorted({path.name for path in folder.parent.iterdir()} - {".samples.lock"})


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
    [(1, [1] * 6), (3 * 76, [3, 3]), (5 * 76 - 1, [4, 2]), (5 * 76, [5, 1]), (10**6, [6])],
)
def test_slices_as_large_as_allowed_make_the_same_store(
    monkeypatch: pytest.MonkeyPatch, raw: Path, folder: Path, slice_bytes: int, reads: list[int]
) -> None:
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", slice_bytes)
    source = make(raw)
    write_store(source, folder)
    # The first slice is one sample, which says how large they are.
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
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", slice_bytes)
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


def break_whole_id(source: Arrays) -> None:
    source.index["id"] = source.index["id"].where(source.index["row"] != 4, 4)


def break_objects(source: Arrays) -> None:
    source.index["file"] = [Path("images") / name for name in source.index["id"]]


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


class Empty(Arrays):
    """Reads nothing at all from the sixth sample on, or of any."""

    first = 5

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        return {} if (part["row"] >= self.first).any() else read


class AllEmpty(Empty):
    first = 0


class Shrinking(Arrays):
    """Takes a sample out of its index while it is read."""

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        self.index = self.index[self.index["row"] != 3]
        return super().read(part)


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
        (Arrays, break_missing_label, "row 4 of the index of Arrays .* has no 'label'"),
        (Arrays, break_not_dense, "sample 's4' has label -1"),
        (Arrays, break_dense_label, "sample 's3' has label 3, but there are only the 3 classes"),
        (Arrays, break_column, "index of Arrays .*raw.bin.* lacks the column 'group'"),
        (Arrays, break_class_names, r"class names must be unique: \['a', 'b', 'a'\]"),
        (Integral, nothing, "'audio' of the samples 's5' to 's6' is int32; .* is float32"),
        (Silent, nothing, r"'s5' has the modalities \['image'\], the first one \['image', 'audio"),
        (Arrays, break_id, "sample id 's2' of Arrays .* appears twice"),
        (Empty, nothing, r"the sample 's5' has the modalities \[\], the first one \['image', 'a"),
        (AllEmpty, nothing, r"the sample 's0' has the modalities \[\]"),
        (Shrinking, nothing, "index of Shrinking has 6 samples that can be read, but 7 were wri"),
        (Arrays, break_everything, "Arrays found no samples in .*raw.bin"),
        (
            Uneven,
            nothing,
            r"'audio' of the samples 's5' to 's6' has shape \(2, 4\); \(2, 3\)",
        ),
        (Short, nothing, r"'image' of the samples 's1' to 's4' has shape \(2, 1, 4, 4\); \(4, 1"),
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
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", step * (16 + 3) * 4)
    before = digest(make(raw, count=3, seed=8), folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    source = make(raw, kind=kind)
    damage(source)
    with pytest.raises(ValueError, match=rule):
        write_store(source, folder)
    assert open_store(folder).digest == before
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert left(folder) == ["samples"]


class NotedRow(Arrays):
    notes = ("row",)


@pytest.mark.parametrize(
    ("kind", "damage", "rule"),
    [
        (Arrays, break_whole_id, "row 4 of the index of Arrays has the id 4; an id must be a text"),
        (Arrays, break_objects, "the column 'file' of the index of Arrays fits no Parquet file"),
        (NotedRow, nothing, "NotedRow has a note 'row', but its index has such a column"),
    ],
)
def test_what_is_wrong_with_the_index_is_said_before_anything_is_read(
    raw: Path, folder: Path, kind: type[Arrays], damage: Any, rule: str
) -> None:
    source = make(raw, kind=kind)
    damage(source)
    with pytest.raises(ValueError, match=rule):
        write_store(source, folder)
    assert source.reads == []


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


class Stopped(Arrays):
    """Is stopped at its `stop_at`-th read, before anything comes of it; notes the rows it read."""

    stop_at = 10**9

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rows: list[int] = []

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        if len(self.reads) == self.stop_at:
            raise KeyboardInterrupt
        self.rows += part["row"].tolist()
        return read


class StoppedDense(Stopped):
    ignored_label = 2


def stoppable(raw: Path, dense: bool = False, count: int = 7) -> Stopped:
    source = make(raw, count=count, kind=StoppedDense if dense else Stopped)
    if dense:
        source.index["label"] = -1
        labels = np.random.default_rng(5).integers(0, 3, (count, 4, 4))
        source.arrays["label"] = labels.astype(np.uint8)
    return source


def stop(source: Stopped, folder: Path, at: int) -> None:
    source.stop_at = at
    with pytest.raises(KeyboardInterrupt):
        write_store(source, folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of one, two, two and two samples, of seven."""
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", 2 * (16 + 3) * 4)


@pytest.mark.usefixtures("two_at_a_time")
@pytest.mark.parametrize("dense", [False, True], ids=["classes", "dense"])
@pytest.mark.parametrize(("at", "kept"), [(1, 0), (2, 1), (3, 3), (4, 5)])
def test_a_stopped_build_goes_on_behind_what_is_there(
    monkeypatch: pytest.MonkeyPatch, raw: Path, folder: Path, dense: bool, at: int, kept: int
) -> None:
    # With its labels a dense sample has 16 bytes more.
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", 2 * (76 + 16 * dense))
    unstopped = stoppable(raw, dense)
    write_store(unstopped, folder.with_name("unstopped"))
    expected = contents(folder.with_name("unstopped"))
    folder = folder.parent / "other" / "samples"
    stop(stoppable(raw, dense), folder, at)
    assert left(folder) == [".samples.partial"]
    with pytest.raises(FileNotFoundError):
        open_store(folder)
    source = stoppable(raw, dense)
    write_store(source, folder)
    assert source.rows == list(range(kept, 7))
    assert left(folder) == ["samples"]
    assert contents(folder) == expected
    np.testing.assert_array_equal(open_store(folder).modalities["image"], source.arrays["image"])


@pytest.mark.usefixtures("two_at_a_time")
def test_a_build_that_is_stopped_again_and_again_reads_nothing_twice(
    raw: Path, folder: Path
) -> None:
    read = []
    for _ in range(3):
        source = stoppable(raw)
        stop(source, folder, at=2)
        read.append(source.rows)
    source = stoppable(raw)
    write_store(source, folder)
    assert [*read, source.rows] == [[0], [1, 2], [3, 4], [5, 6]]
    for name, array in source.arrays.items():
        np.testing.assert_array_equal(open_store(folder).modalities[name], array)


def tear_the_next_line(partial: Path) -> None:
    with (partial / "slices.jsonl").open("a") as file:
        file.write('{"arrays": ["image", "au')


def tear_the_last_line(partial: Path) -> None:
    journal = partial / "slices.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])


def write_behind_the_rows(partial: Path) -> None:
    for name in ("image", "audio"):
        with (partial / "store" / f"{name}.npy").open("ab") as file:
            file.write(b"a slice of which no line tells" * 9)


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def flip_the_last_row(partial: Path) -> None:
    flip(partial / "store" / "audio.npy", -1)


def flip_the_first_row(partial: Path) -> None:
    flip(partial / "store" / "image.npy", 128)  # behind numpy's header


def flip_a_line(partial: Path) -> None:
    journal = partial / "slices.jsonl"
    flip(journal, len(journal.read_bytes().splitlines()[0]) + 30)


def leave_a_table(partial: Path) -> None:
    (partial / "store" / "index.parquet").write_bytes(b"half a table")
    (partial / "store" / "store.json").write_text('{"digest": "ha')


@pytest.mark.usefixtures("two_at_a_time")
@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (tear_the_next_line, 3),
        (tear_the_last_line, 1),
        (write_behind_the_rows, 3),
        (leave_a_table, 3),
        (flip_the_last_row, 1),
        (flip_the_first_row, 0),
        (flip_a_line, 1),
    ],
)
def test_what_was_being_written_at_the_stop_does_not_matter(
    raw: Path, folder: Path, damage: Callable[[Path], None], kept: int
) -> None:
    write_store(stoppable(raw), folder.with_name("unstopped"))
    folder = folder.parent / "other" / "samples"
    stop(stoppable(raw), folder, at=3)
    damage(folder.with_name(".samples.partial"))
    source = stoppable(raw)
    write_store(source, folder)
    assert source.rows == list(range(kept, 7))
    assert contents(folder) == contents(folder.parents[1] / "unstopped")


@pytest.mark.usefixtures("two_at_a_time")
@pytest.mark.parametrize("text", ["", '{"sour'])
def test_a_card_that_was_being_written_at_the_stop_does_not_matter(
    raw: Path, folder: Path, text: str
) -> None:
    stop(stoppable(raw), folder, at=3)
    (folder.with_name(".samples.partial") / "source.json").write_text(text)
    write_store(stoppable(raw), folder)
    assert len(open_store(folder)) == 7


@pytest.mark.usefixtures("two_at_a_time")
@pytest.mark.parametrize("change", OTHER)
def test_another_source_does_not_go_on_with_what_a_stop_left(
    raw: Path, folder: Path, change: Any
) -> None:
    stop(stoppable(raw), folder, at=4)
    source = stoppable(raw)
    change(source)
    write_store(source, folder)
    assert source.rows == list(range(len(source.index)))
    assert left(folder) == ["samples"]


@pytest.mark.usefixtures("two_at_a_time")
def test_the_old_store_stays_until_the_new_one_is_whole(raw: Path, folder: Path) -> None:
    before = digest(make(raw, count=3, seed=8), folder)
    stop(stoppable(raw), folder, at=4)
    assert open_store(folder).digest == before
    write_store(stoppable(raw), folder)
    assert len(open_store(folder)) == 7


def test_a_full_disk_is_no_fault_of_the_data(raw: Path, folder: Path) -> None:
    class Full(Arrays):
        def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_store(make(raw, kind=Full), folder)
    assert left(folder) == [".samples.partial"]


@pytest.mark.parametrize("name", ["image.npy", "audio.npy", "index.parquet"])
def test_any_change_of_a_store_s_file_is_seen(raw: Path, folder: Path, name: str) -> None:
    write_store(make(raw), folder)
    file = folder / name
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 61):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{name} is missing or damaged \(its SHA-256"):
            open_store(folder)
    file.write_bytes(whole)
    open_store(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("classes", ["a", "c", "b"]), ("arrays", ["audio", "image"])]
)
def test_a_card_of_other_classes_or_arrays_is_refused(
    raw: Path, folder: Path, key: str, value: list[str]
) -> None:
    write_store(make(raw), folder)
    card = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps({**card, key: value}))
    with pytest.raises(ValueError, match=r"store\.json is damaged"):
        open_store(folder)


def test_a_store_that_was_built_without_sums_is_refused(raw: Path, folder: Path) -> None:
    write_store(make(raw), folder)
    card = json.loads((folder / "store.json").read_text())
    del card["files"]
    (folder / "store.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="was built before stores had a SHA-256 of each file"):
        open_store(folder)


def test_what_is_damaged_is_not_kept_but_built_anew(
    raw: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_store(make(raw), folder)
    before = contents(folder)
    with (folder / "image.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    source = make(raw)
    write_store(source, folder)
    assert sum(source.reads) == 7
    assert contents(folder) == before
    assert "image.npy is missing or damaged" in caplog.text
    assert "built anew" in caplog.text


class Fitted(Stopped):
    """Fits the mean of what is wanted, and says whether it went on with an earlier fit."""

    resumed = False

    def fit(self, folder: Path) -> None:
        self.resumed = (folder / "mean.json").is_file()
        self.mean = self.arrays["audio"][self.index["row"]].mean()
        (folder / "mean.json").write_text(json.dumps(float(self.mean)))

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        return read | {"audio": read["audio"] - self.mean}


def test_a_source_is_fitted_before_it_is_read_and_finds_its_notes_after_a_stop(
    raw: Path, folder: Path
) -> None:
    first, second, third = (make(raw, kind=Fitted) for _ in range(3))
    stop(first, folder, at=2)
    assert not first.resumed
    write_store(second, folder)
    assert second.resumed
    expected = second.arrays["audio"] - second.arrays["audio"].mean()
    np.testing.assert_array_equal(open_store(folder).modalities["audio"], expected)
    write_store(third, folder)
    assert not hasattr(third, "mean")  # the store is kept, so there is nothing to fit


SLOW = """
import logging, os, sys, time
from pathlib import Path
import numpy as np, pandas as pd
from mst_distill.data import store
from mst_distill.benchmarks.source import SampleSource

class Slow(SampleSource):
    classes = ("a", "b")

    def __init__(self):
        self.files = [Path(__file__)]
        rows = np.arange(30)
        self.index = pd.DataFrame({"id": rows.astype(str), "group": rows.astype(str)})
        self.index = self.index.assign(split="train", label=rows % 2, row=rows)

    def read(self, part):
        with open(sys.argv[2], "a") as file:
            file.write(f"{os.getpid()} {part['row'].iloc[0]}\\n")
        while part["row"].iloc[0] == int(sys.argv[3]) and not Path(sys.argv[4]).exists():
            time.sleep(0.01)
        return {"image": part["row"].to_numpy("float32")[:, None] * np.ones(5, np.float32)}

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    store.SLICE_BYTES = 1
    store.write_store(Slow(), Path(sys.argv[1]))
    print(store.open_store(Path(sys.argv[1])).digest)
"""


class Script:
    """Builds a store in a process of its own, row by row, and notes who reads what."""

    def __init__(self, root: Path) -> None:
        self.path, self.log, self.gate = root / "slow.py", root / "reads.txt", root / "go"
        self.path.write_text(SLOW)

    def start(self, folder: Path, hold: int = -1) -> subprocess.Popen[str]:
        """At the row `hold` the process waits until there is a file `gate`."""
        arguments = [self.path, folder, self.log, hold, self.gate]
        return subprocess.Popen(
            [sys.executable, "-u", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def reads(self) -> list[tuple[int, int]]:
        """Process and row of every read, in their order."""
        lines = self.log.read_text().splitlines() if self.log.is_file() else []
        return [(int(pid), int(row)) for pid, row in map(str.split, lines)]

    def wait_for(self, reads: int, process: subprocess.Popen[str]) -> None:
        until = time.monotonic() + 120
        while len(self.reads()) < reads:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def ended(process: subprocess.Popen[str]) -> str:
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    return printed


@pytest.mark.parametrize("at", [1, 5, 12, 20, 29])
def test_a_build_that_was_killed_goes_on(script: Script, folder: Path, at: int) -> None:
    first = script.start(folder, hold=at)
    script.wait_for(at + 1, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert left(folder) == [".samples.partial"]
    second = script.start(folder)
    printed = ended(second)
    assert script.reads()[at + 1 :] == [(second.pid, row) for row in range(at, 30)]
    assert f"{at} samples are there: going on behind them" in printed
    assert left(folder) == ["samples"]
    rows = open_store(folder).modalities["image"]
    np.testing.assert_array_equal(rows, np.arange(30)[:, None] * np.ones(5))
    whole = ended(script.start(folder.parent / "whole" / "samples"))
    assert printed.splitlines()[-1] == whole.splitlines()[-1]


def test_of_two_that_want_the_same_store_one_builds_it_and_one_waits(
    script: Script, folder: Path
) -> None:
    first = script.start(folder, hold=5)
    script.wait_for(6, first)
    second = script.start(folder)
    assert second.stdout is not None
    assert "waiting for it" in second.stdout.readline()
    script.gate.touch()
    printed = [ended(process) for process in (first, second)]
    assert script.reads() == [(first.pid, row) for row in range(30)]
    assert "are those asked for: kept" in printed[1]
    assert printed[0].splitlines()[-1] == printed[1].splitlines()[-1]
    assert left(folder) == ["samples"]


class Damaged(Stopped):
    """Cannot read the rows of `damaged`, of which it says one at a time."""

    damaged: tuple[int, ...] = ()

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        for sample, row in zip(part["id"], part["row"], strict=True):
            if row in self.damaged:
                raise DamagedSampleError(sample, f"row {row} of raw.bin is torn")
        return super().read(part)


class Noted(Damaged):
    """Says how many seconds there were, and how many were repaired."""

    notes = ("seconds", "repaired")

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        row = part["row"].to_numpy()
        return super().read(part) | {"seconds": row / 4, "repaired": row * 10}


def damaged(
    raw: Path, rows: tuple[int, ...], tolerated: float, kind: type[Damaged] = Damaged
) -> Damaged:
    source = make(raw, kind=kind)
    source.damaged, source.tolerated_share = rows, tolerated
    return source


@pytest.mark.parametrize("slice_bytes", [1, 2 * 76, 10**6])
@pytest.mark.parametrize("rows", [(2, 5), (0,), (0, 1), (6,), (3, 4)])
def test_damaged_samples_are_left_out_and_told(
    monkeypatch: pytest.MonkeyPatch,
    raw: Path,
    folder: Path,
    rows: tuple[int, ...],
    slice_bytes: int,
) -> None:
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", slice_bytes)
    source = damaged(raw, rows, tolerated=0.3)
    write_store(source, folder)
    samples = open_store(folder)
    kept = [row for row in range(7) if row not in rows]
    assert samples.index["id"].tolist() == [f"s{row}" for row in kept]
    assert samples.index["group"].tolist() == [f"g{row // 2}" for row in kept]
    assert samples.labels.tolist() == [row % 3 for row in kept]
    for name, array in source.arrays.items():
        np.testing.assert_array_equal(samples.modalities[name], array[kept])
    assert samples.omitted == {f"s{row}": f"row {row} of raw.bin is torn" for row in rows}


@pytest.mark.parametrize("slice_bytes", [1, 10**6])
def test_more_damaged_samples_than_tolerated_are_refused(
    monkeypatch: pytest.MonkeyPatch, raw: Path, folder: Path, slice_bytes: int
) -> None:
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", slice_bytes)
    rule = (
        "2 of 7 samples cannot be used, and at most 20.0% may be left out (tolerated_share); the "
        "first is 's2': row 2 of raw.bin is torn"
    )
    with pytest.raises(ValueError, match=re.escape(rule)):
        write_store(damaged(raw, (2, 5), tolerated=0.2), folder)
    assert left(folder) == []


def test_no_sample_may_be_damaged_unless_it_is_said(raw: Path, folder: Path) -> None:
    source = make(raw, kind=Damaged)
    source.damaged = (6,)
    with pytest.raises(ValueError, match=r"1 of 7 samples cannot be used, and at most 0\.0%"):
        write_store(source, folder)


@pytest.mark.parametrize("tolerated", [0.99, 1.0])
def test_a_source_of_which_nothing_can_be_read_is_refused(
    raw: Path, folder: Path, tolerated: float
) -> None:
    with pytest.raises(ValueError, match=r"row 0 of raw\.bin is torn"):
        write_store(damaged(raw, tuple(range(7)), tolerated), folder)
    assert left(folder) == []


@pytest.mark.usefixtures("two_at_a_time")
def test_what_was_found_damaged_before_a_stop_is_known_after_it(raw: Path, folder: Path) -> None:
    first = damaged(raw, (0, 4), tolerated=0.3)
    stop(first, folder, at=3)  # the slices are 0, 1, 2 and 3, 4 and 5, 6
    source = damaged(raw, (0, 4), tolerated=0.3)
    write_store(source, folder)
    assert first.rows == [1, 2, 3]
    assert source.rows == [5, 6]
    samples = open_store(folder)
    assert samples.index["id"].tolist() == ["s1", "s2", "s3", "s5", "s6"]
    assert list(samples.omitted) == ["s0", "s4"]


def test_samples_that_were_known_to_be_incomplete_are_told_beside_the_damaged(
    raw: Path, folder: Path
) -> None:
    source = damaged(raw, (3,), tolerated=0.3)
    source.omitted = {"s99": "it has no sound"}
    write_store(source, folder)
    omitted = {"s99": "it has no sound", "s3": "row 3 of raw.bin is torn"}
    assert open_store(folder).omitted == omitted


def test_incomplete_and_damaged_samples_count_together(raw: Path, folder: Path) -> None:
    source = damaged(raw, (3,), tolerated=0.15)
    source.omitted = {"s99": "it has no sound"}
    with pytest.raises(ValueError, match="2 of 8 samples cannot be used"):
        write_store(source, folder)


def test_a_damaged_sample_that_was_not_asked_for_is_an_error(raw: Path, folder: Path) -> None:
    class Stranger(Arrays):
        def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
            super().read(part)
            if len(self.reads) > 20:
                raise RuntimeError("asked again and again")
            raise DamagedSampleError("nobody", "is torn")

    with pytest.raises(ValueError, match="nobody"):
        write_store(make(raw, kind=Stranger), folder)


@pytest.mark.parametrize("slice_bytes", [1, 2 * 76, 10**6])
def test_notes_become_columns_of_the_index(
    monkeypatch: pytest.MonkeyPatch, raw: Path, folder: Path, slice_bytes: int
) -> None:
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", slice_bytes)
    write_store(damaged(raw, (2, 5), 0.3, Noted), folder)
    samples = open_store(folder)
    assert samples.notes == ("seconds", "repaired")
    assert samples.index["seconds"].tolist() == [0, 0.25, 0.75, 1, 1.5]
    assert samples.index["repaired"].tolist() == [0, 10, 30, 40, 60]
    assert list(samples.modalities) == ["image", "audio"]
    assert open_store(folder).digest == digest(damaged(raw, (2, 5), 0.3), folder.with_name("bare"))


@pytest.mark.usefixtures("two_at_a_time")
def test_notes_from_before_a_stop_are_there_after_it(raw: Path, folder: Path) -> None:
    stop(damaged(raw, (0,), 0.3, Noted), folder, at=3)
    write_store(damaged(raw, (0,), 0.3, Noted), folder)
    samples = open_store(folder)
    assert samples.index["repaired"].tolist() == [10, 20, 30, 40, 50, 60]
    assert pd.api.types.is_integer_dtype(samples.index["repaired"])


@pytest.mark.usefixtures("two_at_a_time")
@pytest.mark.parametrize(
    ("first", "note", "rule"),
    [
        (0, None, r"the note 'repaired' of the samples from 's0' on is missing: there are \['ima"),
        (5, None, "the note 'repaired' of the samples from 's5' on is missing"),
        (3, np.zeros(3), r"'repaired' of the samples from 's3' on has shape \(3,\).*must be 2 num"),
        (3, np.zeros((2, 1)), r"'s3' on has shape \(2, 1\)"),
        (3, np.array(["x", "y"]), "'s3' on has shape .* and type <U1; it must be 2 numbers"),
    ],
)
def test_a_note_that_is_not_a_number_a_sample_is_refused(
    raw: Path, folder: Path, first: int, note: np.ndarray | None, rule: str
) -> None:
    class Strange(Noted):
        def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
            read = super().read(part)
            if first in part["row"].to_numpy():
                del read["repaired"]
                read |= {} if note is None else {"repaired": note}
            return read

    with pytest.raises(ValueError, match=rule):
        write_store(make(raw, kind=Strange), folder)
    assert left(folder) == []


def test_a_source_without_notes_has_none(raw: Path, folder: Path) -> None:
    write_store(make(raw), folder)
    assert open_store(folder).notes == ()
    assert open_store(folder).omitted == {}


@pytest.mark.parametrize("name", ["store.json", "index.parquet", "audio.npy"])
@pytest.mark.parametrize("left_of_it", [0, 40])
def test_a_damaged_file_of_a_store_is_named(
    raw: Path, folder: Path, name: str, left_of_it: int
) -> None:
    write_store(make(raw), folder)
    with (folder / name).open("r+b") as file:
        file.truncate(left_of_it)
    with pytest.raises(ValueError, match=f"{folder / name} is missing or damaged .* `ingest`"):
        open_store(folder)
