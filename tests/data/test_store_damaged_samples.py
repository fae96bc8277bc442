"""Samples that a source cannot read, and the notes that it takes while reading."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from array_sources import (
    SAMPLE_BYTES,
    ArraySource,
    DamagedSource,
    NotedSource,
    build_until_stop,
    digest_of_store,
    make_damaged_source,
    make_source,
    remaining_entries,
)
from mst_distill.benchmarks.source import DamagedSampleError
from mst_distill.data.store import open_store, write_store

SLICE_BYTES = [1, 2 * SAMPLE_BYTES, 10**6]


@pytest.mark.parametrize("slice_bytes", SLICE_BYTES)
@pytest.mark.parametrize("rows", [(2, 5), (0,), (0, 1), (6,), (3, 4)])
def test_damaged_samples_are_omitted_and_listed(
    monkeypatch: pytest.MonkeyPatch,
    raw: Path,
    folder: Path,
    rows: tuple[int, ...],
    slice_bytes: int,
) -> None:
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", slice_bytes)
    source = make_damaged_source(raw, rows, tolerated_share=0.3)
    write_store(source, folder)
    samples = open_store(folder)
    intact = [row for row in range(7) if row not in rows]
    assert samples.index["id"].tolist() == [f"s{row}" for row in intact]
    assert samples.index["group"].tolist() == [f"g{row // 2}" for row in intact]
    assert samples.labels.tolist() == [row % 3 for row in intact]
    for name, array in source.arrays.items():
        np.testing.assert_array_equal(samples.modalities[name], array[intact])
    assert samples.omitted == {f"s{row}": f"row {row} of raw.bin is torn" for row in rows}


@pytest.mark.parametrize("slice_bytes", [1, 10**6])
def test_more_damaged_samples_than_tolerated_are_an_error(
    monkeypatch: pytest.MonkeyPatch, raw: Path, folder: Path, slice_bytes: int
) -> None:
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", slice_bytes)
    message = (
        "2 of 7 samples cannot be used, and at most 20.0% may be left out (tolerated_share); the "
        "first is 's2': row 2 of raw.bin is torn"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        write_store(make_damaged_source(raw, (2, 5), tolerated_share=0.2), folder)
    assert remaining_entries(folder) == []


def test_by_default_no_damaged_sample_is_tolerated(raw: Path, folder: Path) -> None:
    source = make_source(raw, kind=DamagedSource)
    source.damaged = (6,)
    with pytest.raises(ValueError, match=r"1 of 7 samples cannot be used, and at most 0\.0%"):
        write_store(source, folder)


@pytest.mark.parametrize("tolerated_share", [0.99, 1.0])
def test_a_source_without_any_readable_sample_is_rejected(
    raw: Path, folder: Path, tolerated_share: float
) -> None:
    with pytest.raises(ValueError, match=r"row 0 of raw\.bin is torn"):
        write_store(make_damaged_source(raw, tuple(range(7)), tolerated_share), folder)
    assert remaining_entries(folder) == []


@pytest.mark.usefixtures("slices_of_two")
def test_damaged_samples_are_remembered_after_a_stop(raw: Path, folder: Path) -> None:
    first = make_damaged_source(raw, (0, 4), tolerated_share=0.3)
    # The slices are row 0; row 1; rows 2 and 3; rows 4 and 5; row 6. Row 0 is never read.
    build_until_stop(first, folder, stop_at=3)
    source = make_damaged_source(raw, (0, 4), tolerated_share=0.3)
    write_store(source, folder)
    assert first.rows == [1, 2, 3]
    assert source.rows == [5, 6]
    samples = open_store(folder)
    assert samples.index["id"].tolist() == ["s1", "s2", "s3", "s5", "s6"]
    assert list(samples.omitted) == ["s0", "s4"]


def test_incomplete_samples_are_listed_together_with_damaged_ones(raw: Path, folder: Path) -> None:
    source = make_damaged_source(raw, (3,), tolerated_share=0.3)
    source.omitted = {"s99": "it has no sound"}
    write_store(source, folder)
    omitted = {"s99": "it has no sound", "s3": "row 3 of raw.bin is torn"}
    assert open_store(folder).omitted == omitted


def test_incomplete_and_damaged_samples_count_together(raw: Path, folder: Path) -> None:
    source = make_damaged_source(raw, (3,), tolerated_share=0.15)
    source.omitted = {"s99": "it has no sound"}
    with pytest.raises(ValueError, match="2 of 8 samples cannot be used"):
        write_store(source, folder)


def test_damage_of_a_sample_that_was_not_requested_is_an_error(raw: Path, folder: Path) -> None:
    class Stranger(ArraySource):
        def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
            super().read(part)
            if len(self.reads) > 20:
                raise RuntimeError("the same samples are read again and again")
            raise DamagedSampleError("nobody", "is torn")

    with pytest.raises(ValueError, match="nobody"):
        write_store(make_source(raw, kind=Stranger), folder)


@pytest.mark.parametrize("slice_bytes", SLICE_BYTES)
def test_notes_become_columns_of_the_index(
    monkeypatch: pytest.MonkeyPatch, raw: Path, folder: Path, slice_bytes: int
) -> None:
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", slice_bytes)
    write_store(make_damaged_source(raw, (2, 5), 0.3, NotedSource), folder)
    samples = open_store(folder)
    assert samples.notes == ("seconds", "repaired")
    assert samples.index["seconds"].tolist() == [0, 0.25, 0.75, 1, 1.5]
    assert samples.index["repaired"].tolist() == [0, 10, 30, 40, 60]
    assert list(samples.modalities) == ["image", "audio"]
    without_notes = make_damaged_source(raw, (2, 5), 0.3)
    assert samples.digest == digest_of_store(without_notes, folder.with_name("bare"))


@pytest.mark.usefixtures("slices_of_two")
def test_notes_from_before_a_stop_are_in_the_index(raw: Path, folder: Path) -> None:
    build_until_stop(make_damaged_source(raw, (0,), 0.3, NotedSource), folder, stop_at=3)
    write_store(make_damaged_source(raw, (0,), 0.3, NotedSource), folder)
    samples = open_store(folder)
    assert samples.index["repaired"].tolist() == [10, 20, 30, 40, 50, 60]
    assert pd.api.types.is_integer_dtype(samples.index["repaired"])


@pytest.mark.usefixtures("slices_of_two")
@pytest.mark.parametrize(
    ("first", "note", "message"),
    [
        (0, None, r"the note 'repaired' of the samples from 's0' on is missing: .* \['image', 'a"),
        (5, None, "the note 'repaired' of the samples from 's5' on is missing"),
        (3, np.zeros(3), r"'repaired' of the samples from 's3' on has shape \(3,\).*must be 2 num"),
        (3, np.zeros((2, 1)), r"'s3' on has shape \(2, 1\)"),
        (3, np.array(["x", "y"]), "'s3' on has shape .* and type <U1; it must be 2 numbers"),
    ],
)
def test_a_note_must_be_one_number_for_each_sample(
    raw: Path, folder: Path, first: int, note: np.ndarray | None, message: str
) -> None:
    class WrongNote(NotedSource):
        def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
            read = super().read(part)
            if first in part["row"].to_numpy():
                del read["repaired"]
                read |= {} if note is None else {"repaired": note}
            return read

    with pytest.raises(ValueError, match=message):
        write_store(make_source(raw, kind=WrongNote), folder)
    assert remaining_entries(folder) == []


def test_a_source_without_notes_has_none(raw: Path, folder: Path) -> None:
    write_store(make_source(raw), folder)
    assert open_store(folder).notes == ()
    assert open_store(folder).omitted == {}
