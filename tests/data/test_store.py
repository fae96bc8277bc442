"""The sample store: reading back what was written, its digest, and when it is built again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from array_sources import (
    CONTENT_CHANGES,
    SAMPLE_BYTES,
    SOURCE_CHANGES,
    Change,
    DenseSource,
    digest_of_store,
    make_dense_source,
    make_source,
    remaining_entries,
)
from mst_distill.data.store import open_store, write_store


@pytest.mark.parametrize("exists", [True, False], ids=["folder", "missing folder"])
def test_a_store_is_built_behind_a_link_which_stays(
    raw: Path, folder: Path, tmp_path: Path, exists: bool
) -> None:
    """As where the samples lie on another disk."""
    target = tmp_path / "other disk" / "samples"
    target.mkdir(parents=True)
    if not exists:
        target.rmdir()
    folder.parent.mkdir()
    folder.symlink_to(target, target_is_directory=True)
    for source in (make_source(raw), make_dense_source(raw)):  # the second one replaces the first
        write_store(source, folder)
        assert folder.is_symlink()
        assert len(open_store(folder)) == len(open_store(target)) == 7


def test_written_samples_are_read_back(raw: Path, folder: Path) -> None:
    source = make_source(raw)
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
    assert remaining_entries(folder) == ["samples"]


def test_arrays_stay_on_disk(raw: Path, folder: Path) -> None:
    write_store(make_source(raw), folder)
    for array in open_store(folder).modalities.values():
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    ("slice_bytes", "reads"),
    [
        (1, [1] * 6),
        (3 * SAMPLE_BYTES, [3, 3]),
        (5 * SAMPLE_BYTES - 1, [4, 2]),
        (5 * SAMPLE_BYTES, [5, 1]),
        (10**6, [6]),
    ],
)
def test_the_size_of_slices_does_not_change_the_store(
    monkeypatch: pytest.MonkeyPatch, raw: Path, folder: Path, slice_bytes: int, reads: list[int]
) -> None:
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", slice_bytes)
    source = make_source(raw)
    write_store(source, folder)
    # The first slice is one sample, which shows the size of a sample.
    assert source.reads == [1, *reads]
    for name, array in source.arrays.items():
        np.testing.assert_array_equal(open_store(folder).modalities[name], array)


@pytest.mark.parametrize("slice_bytes", [1, 150])
def test_the_size_of_slices_does_not_change_the_digest(
    monkeypatch: pytest.MonkeyPatch, raw: Path, tmp_path: Path, slice_bytes: int
) -> None:
    source = make_source(raw)
    del source.arrays["audio"]
    whole = digest_of_store(source, tmp_path / "whole")
    monkeypatch.setattr("mst_distill.data.store.SLICE_BYTES", slice_bytes)
    assert digest_of_store(source, tmp_path / "slices") == whole


def test_equal_data_from_different_files_have_an_equal_digest(raw: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.bin"
    other.write_bytes(b"something else")
    one = digest_of_store(make_source(raw), tmp_path / "one")
    assert one == digest_of_store(make_source(other), tmp_path / "two")


@pytest.mark.parametrize("change", CONTENT_CHANGES)
def test_any_change_of_the_data_changes_the_digest(
    change: Change, raw: Path, tmp_path: Path
) -> None:
    before = digest_of_store(make_source(raw), tmp_path / "before")
    source = make_source(raw)
    change(source)
    assert digest_of_store(source, tmp_path / "after") != before


def test_a_store_of_the_same_source_stays_as_it_is(raw: Path, folder: Path) -> None:
    write_store(make_source(raw), folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = make_source(raw)
    write_store(again, folder)
    assert again.reads == []
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("change", SOURCE_CHANGES)
def test_a_store_of_another_source_is_replaced(change: Change, raw: Path, folder: Path) -> None:
    write_store(make_source(raw, seed=1), folder)
    (folder / "stray.txt").write_text("not a file of the store")
    source = make_source(raw, seed=2)
    change(source)
    write_store(source, folder)
    expected = source.arrays["image"][: len(source.index)]
    np.testing.assert_array_equal(open_store(folder).modalities["image"], expected)
    assert not (folder / "stray.txt").exists()
    assert remaining_entries(folder) == ["samples"]


def test_a_folder_that_is_not_a_store_is_replaced(raw: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    write_store(make_source(raw), folder)
    assert len(open_store(folder)) == 7


def test_the_error_for_a_missing_store_names_the_pipeline(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="samples holds no samples: run the pipeline `inge"):
        open_store(folder)


def test_floats_of_any_precision_are_stored_as_float32(raw: Path, folder: Path) -> None:
    source = make_source(raw)
    source.arrays["audio"] = source.arrays["audio"].astype(np.float64)
    write_store(source, folder)
    samples = open_store(folder)
    assert samples.modalities["audio"].dtype == np.float32
    assert samples.digest == digest_of_store(make_source(raw), folder.with_name("single"))


def test_exchanged_modalities_have_another_digest(raw: Path, tmp_path: Path) -> None:
    digests = []
    for number, names in enumerate((("one", "two"), ("two", "one"))):
        source = make_source(raw)
        source.arrays = dict(zip(names, source.arrays.values(), strict=True))
        digests.append(digest_of_store(source, tmp_path / str(number)))
    assert digests[0] != digests[1]


def test_an_ignored_label_need_not_be_a_class(raw: Path, folder: Path) -> None:
    class Void(DenseSource):
        ignored_label = 255

    source = make_source(raw, kind=Void)
    source.index["label"] = -1
    source.arrays["label"] = np.full((7, 4, 4), 255, np.uint8)
    write_store(source, folder)
    assert open_store(folder).ignored_label == 255
    assert (open_store(folder).labels == 255).all()


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_dense_labels_are_not_a_modality(raw: Path, folder: Path, dtype: Any) -> None:
    source = make_dense_source(raw, dtype)
    write_store(source, folder)
    samples = open_store(folder)
    assert samples.dense
    assert list(samples.modalities) == ["image", "audio"]
    assert samples.labels.dtype == dtype
    assert samples.ignored_label == 2
    np.testing.assert_array_equal(samples.labels, source.arrays["label"])


def test_dense_labels_count_in_the_digest(raw: Path, tmp_path: Path) -> None:
    before = digest_of_store(make_dense_source(raw), tmp_path / "before")
    source = make_dense_source(raw)
    source.arrays["label"][2, 1, 1] = (source.arrays["label"][2, 1, 1] + 1) % 3
    assert digest_of_store(source, tmp_path / "after") != before
