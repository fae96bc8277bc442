"""A stopped build of a sample store is resumed, also if the stop left damaged files."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from array_sources import (
    SAMPLE_BYTES,
    SOURCE_CHANGES,
    Change,
    StoppableSource,
    build_until_stop,
    digest_of_store,
    file_contents,
    make_dense_source,
    make_source,
    remaining_entries,
)
from mst_distill.data.appendable_npy import GrowingArray
from mst_distill.data.store import open_store, write_store


class StoppableDenseSource(StoppableSource):
    ignored_label = 2


def make_stoppable(raw: Path, dense: bool = False) -> StoppableSource:
    if dense:
        return make_dense_source(raw, np.uint8, StoppableDenseSource)
    return make_source(raw, kind=StoppableSource)


def test_files_in_the_folder_of_the_store_do_not_matter(raw: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "image.npy").write_bytes(b"half")
    write_store(make_source(raw), folder)
    assert len(open_store(folder)) == 7
    assert remaining_entries(folder) == ["samples"]


@pytest.mark.usefixtures("slices_of_two")
@pytest.mark.parametrize("dense", [False, True], ids=["classes", "dense"])
@pytest.mark.parametrize(("stop_at", "written"), [(1, 0), (2, 1), (3, 3), (4, 5)])
def test_a_stopped_build_continues_after_the_written_samples(
    monkeypatch: pytest.MonkeyPatch,
    raw: Path,
    folder: Path,
    dense: bool,
    stop_at: int,
    written: int,
) -> None:
    # The labels of a dense sample are 16 bytes.
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", 2 * (SAMPLE_BYTES + 16 * dense))
    write_store(make_stoppable(raw, dense), folder.with_name("unstopped"))
    expected = file_contents(folder.with_name("unstopped"))
    folder = folder.parent / "other" / "samples"
    build_until_stop(make_stoppable(raw, dense), folder, stop_at)
    assert remaining_entries(folder) == [".samples.partial"]
    with pytest.raises(FileNotFoundError):
        open_store(folder)
    source = make_stoppable(raw, dense)
    write_store(source, folder)
    assert source.rows == list(range(written, 7))
    assert remaining_entries(folder) == ["samples"]
    assert file_contents(folder) == expected
    np.testing.assert_array_equal(open_store(folder).modalities["image"], source.arrays["image"])


@pytest.mark.usefixtures("slices_of_two")
def test_a_build_that_is_stopped_repeatedly_reads_every_sample_once(
    raw: Path, folder: Path
) -> None:
    read = []
    for _ in range(3):
        source = make_stoppable(raw)
        build_until_stop(source, folder, stop_at=2)
        read.append(source.rows)
    source = make_stoppable(raw)
    write_store(source, folder)
    assert [*read, source.rows] == [[0], [1, 2], [3, 4], [5, 6]]
    for name, array in source.arrays.items():
        np.testing.assert_array_equal(open_store(folder).modalities[name], array)


def write_half_of_the_next_line(partial: Path) -> None:
    with (partial / "slices.jsonl").open("a") as file:
        file.write('{"arrays": ["image", "au')


def cut_off_the_last_line(partial: Path) -> None:
    journal = partial / "slices.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])


def append_to_the_arrays(partial: Path) -> None:
    for name in ("image", "audio"):
        with (partial / "store" / f"{name}.npy").open("ab") as file:
            file.write(b"a slice without a line in the journal" * 9)


def flip_a_bit(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def flip_a_bit_of_the_last_row(partial: Path) -> None:
    flip_a_bit(partial / "store" / "audio.npy", -1)


def flip_a_bit_of_the_first_row(partial: Path) -> None:
    flip_a_bit(partial / "store" / "image.npy", 128)  # the first byte after numpy's header


def flip_a_bit_of_the_second_line(partial: Path) -> None:
    journal = partial / "slices.jsonl"
    flip_a_bit(journal, len(journal.read_bytes().splitlines()[0]) + 30)


def write_half_of_the_index(partial: Path) -> None:
    (partial / "store" / "index.parquet").write_bytes(b"half a table")
    (partial / "store" / "store.json").write_text('{"digest": "ha')


@pytest.mark.usefixtures("slices_of_two")
@pytest.mark.parametrize(
    ("damage", "intact"),
    [
        (write_half_of_the_next_line, 3),
        (cut_off_the_last_line, 1),
        (append_to_the_arrays, 3),
        (write_half_of_the_index, 3),
        (flip_a_bit_of_the_last_row, 1),
        (flip_a_bit_of_the_first_row, 0),
        (flip_a_bit_of_the_second_line, 1),
    ],
)
def test_damaged_and_incomplete_slices_are_written_again(
    raw: Path, folder: Path, damage: Callable[[Path], None], intact: int
) -> None:
    write_store(make_stoppable(raw), folder.with_name("unstopped"))
    folder = folder.parent / "other" / "samples"
    build_until_stop(make_stoppable(raw), folder, stop_at=3)
    damage(folder.with_name(".samples.partial"))
    source = make_stoppable(raw)
    write_store(source, folder)
    assert source.rows == list(range(intact, 7))
    assert file_contents(folder) == file_contents(folder.parents[1] / "unstopped")


@pytest.mark.usefixtures("slices_of_two")
@pytest.mark.parametrize("text", ["", '{"sour'])
def test_an_incomplete_fingerprint_starts_the_build_again(
    raw: Path, folder: Path, text: str
) -> None:
    build_until_stop(make_stoppable(raw), folder, stop_at=3)
    (folder.with_name(".samples.partial") / "source.json").write_text(text)
    write_store(make_stoppable(raw), folder)
    assert len(open_store(folder)) == 7


@pytest.mark.usefixtures("slices_of_two")
@pytest.mark.parametrize("change", SOURCE_CHANGES)
def test_another_source_does_not_continue_a_stopped_build(
    raw: Path, folder: Path, change: Change
) -> None:
    build_until_stop(make_stoppable(raw), folder, stop_at=4)
    source = make_stoppable(raw)
    change(source)
    write_store(source, folder)
    assert source.rows == list(range(len(source.index)))
    assert remaining_entries(folder) == ["samples"]


@pytest.mark.usefixtures("slices_of_two")
def test_the_old_store_stays_until_the_new_one_is_complete(raw: Path, folder: Path) -> None:
    before = digest_of_store(make_source(raw, count=3, seed=8), folder)
    build_until_stop(make_stoppable(raw), folder, stop_at=4)
    assert open_store(folder).digest == before
    write_store(make_stoppable(raw), folder)
    assert len(open_store(folder)) == 7


class FittedSource(StoppableSource):
    """Fits the mean of its samples, and records whether it found the files of an earlier fit."""

    resumed = False

    def fit(self, folder: Path) -> None:
        self.resumed = (folder / "mean.json").is_file()
        self.mean = self.arrays["audio"][self.index["row"]].mean()
        (folder / "mean.json").write_text(json.dumps(float(self.mean)))

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        return read | {"audio": read["audio"] - self.mean}


def test_a_source_is_fitted_before_it_is_read_and_finds_its_files_after_a_stop(
    raw: Path, folder: Path
) -> None:
    first, second, third = (make_source(raw, kind=FittedSource) for _ in range(3))
    build_until_stop(first, folder, stop_at=2)
    assert not first.resumed
    write_store(second, folder)
    assert second.resumed
    expected = second.arrays["audio"] - second.arrays["audio"].mean()
    np.testing.assert_array_equal(open_store(folder).modalities["audio"], expected)
    write_store(third, folder)
    assert not hasattr(third, "mean")  # the store stays as it is, so nothing is fitted


@pytest.mark.usefixtures("slices_of_two")
def test_a_full_disk_is_named_and_the_build_continues(
    raw: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = GrowingArray.append

    def fill(self: GrowingArray, rows: np.ndarray) -> None:
        if self.rows >= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(GrowingArray, "append", fill)
        with pytest.raises(OSError, match="repeat the command, which continues") as error:
            write_store(make_source(raw), folder)
    assert error.value.filename == str(folder)
    source = make_source(raw)
    write_store(source, folder)
    assert sum(source.reads) == 7 - 3
    assert len(open_store(folder)) == 7


@pytest.mark.usefixtures("slices_of_two")
def test_a_kill_while_the_journal_is_opened_loses_no_samples(
    raw: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_until_stop(make_stoppable(raw), folder, 4)

    def dying(self: Path, *_: object, **__: object) -> None:
        self.open("w").close()  # a file that was opened for writing is empty at first
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", dying)
        with pytest.raises(KeyboardInterrupt):
            write_store(make_stoppable(raw), folder)
    source = make_stoppable(raw)
    write_store(source, folder)
    assert source.rows == [5, 6]
