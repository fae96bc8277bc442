"""Readers rebuilt from what a store keeps: training and deployment read to the same bits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.test_bad_data_avmnist import AVMNIST, MULTIBENCH
from benchmarks.test_bad_data_crisismmd import CRISISMMD, FEATURES
from benchmarks.test_bad_data_digits import DIGITS
from benchmarks.test_bad_data_nyudepthv2 import NYU_FOLDERS, NYU_MAT
from benchmarks.test_bad_data_ravdess import RAVDESS, RAVDESS_UNITS
from benchmarks.test_bad_data_vggsound50k import VGGSOUND
from benchmarks.test_table import TABLE
from damaged_sets import RawSet
from mst_distill.artifacts.student_input import (
    ReaderRecord,
    StudentInput,
    load_student_input,
    save_student_input,
)
from mst_distill.benchmarks.digits import Digits
from mst_distill.benchmarks.reader_source import ReaderSource
from mst_distill.data.store import open_store, write_store
from mst_distill.media.pca_reduction import ReducedPixels
from mst_distill.media.readers import Reader, UnreadableValueError

SETS = {
    "avmnist": AVMNIST,
    "multibench": MULTIBENCH,
    "crisismmd": CRISISMMD,
    "crisismmd features": FEATURES,
    "digits": DIGITS,
    "nyudepthv2 folders": NYU_FOLDERS,
    "nyudepthv2 mat": NYU_MAT,
    "ravdess": RAVDESS,
    "ravdess units": RAVDESS_UNITS,
    "table": TABLE,
    "vggsound": VGGSOUND,
}


def reopened(record: ReaderRecord, folder: Path) -> Reader:
    """Save a reader as it is saved with a student, and build it from the files."""
    saved = StudentInput("m", (1,), False, ("a", "b"), None, 1.0, "0", record)
    save_student_input(saved, folder / "student_input.json")
    loaded = load_student_input(folder / "student_input.json").reader
    assert loaded
    assert (loaded.type, loaded.arguments) == (record.type, record.arguments)
    return loaded.open("raw_sets")


@pytest.mark.parametrize("name", list(SETS))
def test_a_raw_value_alone_is_read_as_in_the_store_to_the_bit(name: str, tmp_path: Path) -> None:
    raw_set: RawSet = SETS[name]
    raw_set.write(tmp_path)
    source = raw_set.open(tmp_path)
    assert isinstance(source, ReaderSource)
    write_store(source, tmp_path / "store")
    samples = open_store(tmp_path / "store")
    assert list(samples.readers) == list(samples.modalities)
    index = source.index.set_index("id").loc[samples.index["id"]].reset_index()
    for modality, stored in samples.modalities.items():
        reader = reopened(samples.readers[modality], tmp_path)
        for row in range(0, len(index), max(1, len(index) // 5)):
            (value,) = source.values(modality, index.iloc[[row]])
            np.testing.assert_array_equal(reader.read([value])[0], stored[row])


@pytest.mark.parametrize(
    ("raw_set", "modality", "file"),
    [
        (VGGSOUND, "video", "video/{id}.npy"),
        (NYU_FOLDERS, "image", "images/{id}.png"),
        (NYU_FOLDERS, "depth", "depths/{id}.png"),
    ],
)
def test_a_file_is_read_as_in_the_store(
    raw_set: RawSet, modality: str, file: str, tmp_path: Path
) -> None:
    raw_set.write(tmp_path)
    write_store(raw_set.open(tmp_path), tmp_path / "store")
    samples = open_store(tmp_path / "store")
    reader = reopened(samples.readers[modality], tmp_path)
    for row, sample in enumerate(samples.index["id"]):
        path = tmp_path / file.format(id=sample)
        (path,) = path.parent.glob(f"{path.stem}.*")
        np.testing.assert_array_equal(
            reader.read([str(path)])[0], samples.modalities[modality][row]
        )


def test_an_image_file_of_avmnist_is_read_as_in_the_store(tmp_path: Path) -> None:
    AVMNIST.write(tmp_path)
    source = AVMNIST.open(tmp_path)
    assert isinstance(source, ReaderSource)
    write_store(source, tmp_path / "store")
    samples = open_store(tmp_path / "store")
    reader = reopened(samples.readers["image"], tmp_path)
    pixels = np.array(source.values("image", source.index.iloc[:1])[0])
    grey = np.round(pixels * 255).astype(np.uint8).reshape(28, 28)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        reader.read([tmp_path / "a.png"])[0], samples.modalities["image"][0]
    )
    Image.fromarray(grey[:20]).save(tmp_path / "b.png")
    with pytest.raises(UnreadableValueError, match=r"b\.png: is 20 x 28 pixels; .* 28 x 28"):
        reader.read([tmp_path / "a.png", tmp_path / "b.png"])


def test_a_reader_of_another_package_is_not_imported(tmp_path: Path) -> None:
    encoded = ReaderRecord("mst_distill.media.encoded.EncodedText", {"encoder": "this.Reader"})
    for record in (ReaderRecord("this.Reader", {}), encoded):
        with pytest.raises(PermissionError, match=r"names 'this\.Reader', which is neither"):
            record.open("own.Source")
        assert "this" not in sys.modules


def test_the_state_of_a_reader_is_verified(tmp_path: Path) -> None:
    record = ReaderRecord("a.B", {}, {"mean": np.arange(3.0)})
    path = tmp_path / "student_input.json"
    saved = StudentInput("m", (1,), False, ("a", "b"), None, 1.0, "0", record)
    save_student_input(saved, path)
    fitted = path.with_suffix(".safetensors")
    fitted.write_bytes(fitted.read_bytes()[:-8] + bytes(8))
    with pytest.raises(ValueError, match=r"student_input\.safetensors is damaged"):
        load_student_input(path)


class OtherNames(Digits):
    """A source that returns a modality under another name than its reader has."""

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        read = super().read(part)
        return {"picture": read["image"], "audio": read["audio"]}


def test_readers_and_modalities_have_the_same_names(tmp_path: Path) -> None:
    DIGITS.write(tmp_path)
    source = OtherNames("heldout", str(tmp_path / "digits.npz"))
    with pytest.raises(ValueError, match=r"readers of \['audio', 'image'\], but .* 'picture'\]"):
        write_store(source, tmp_path / "store")


def test_an_argument_that_is_no_json_value_is_found_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DIGITS.write(tmp_path)
    source = DIGITS.open(tmp_path)
    image = source.readers["image"]
    assert isinstance(image, ReducedPixels)
    image.kept_energy = np.float32(0.5)
    monkeypatch.setattr(source, "read", lambda part: pytest.fail("read"))
    with pytest.raises(ValueError, match=r"ReducedPixels must be JSON values, .* float32"):
        write_store(source, tmp_path / "store")


def test_a_changed_reader_changes_the_digest_of_the_store(tmp_path: Path) -> None:
    """Two sources with equal arrays but other readers are not the same input."""
    DIGITS.write(tmp_path)
    digests = []
    for name in ("one", "two"):
        source = DIGITS.open(tmp_path)
        if name == "two":
            image = source.readers["image"]
            assert isinstance(image, ReducedPixels)
            image.kept_energy += 1e-9
        write_store(source, tmp_path / name)
        digests.append(open_store(tmp_path / name).digest)
    assert digests[0] != digests[1]
