"""Tests of NYU-Depth-V2 from folders of images, on tiny files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image

from mst_distill.benchmarks.nyudepthv2 import NYUDepthV2Folders
from mst_distill.benchmarks.source import DamagedSampleError
from mst_distill.benchmarks.splits import check_splits
from mst_distill.data.store import open_store, write_store
from raw_sets import NYU_FOLDERS as FOLDERS
from raw_sets import NYU_NUMBERS as NUMBERS
from raw_sets import H, W, write_nyu_folders


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A root folder with twelve images of 8 x 6 pixels; the test images are 1, 2, 9 and 10."""
    write_nyu_folders(tmp_path)
    return tmp_path


def open_folders(root: Path, **arguments: object) -> NYUDepthV2Folders:
    paths = [str(root / name) for name in FOLDERS]
    return NYUDepthV2Folders("heldout", *paths, str(root), **{"size": (H, W), **arguments})  # type: ignore[call-arg]


def test_depth_maps_keep_all_sixteen_bits(folders: Path) -> None:
    source = open_folders(folders)
    depth = source.read(source.index[:1])["depth"][0, 0]
    with Image.open(folders / "depths" / "0001.png") as file:
        raw = np.asarray(file).astype(np.float64)
    assert len(np.unique(raw // 256)) < len(np.unique(raw))
    np.testing.assert_allclose(depth, (raw - raw.min()) / (raw.max() - raw.min()), atol=1e-6)


def remove(root: Path, *numbers: int) -> None:
    for name in FOLDERS:
        for number in numbers:
            next((root / name).glob(f"{number:04d}.*")).unlink()


def test_a_gap_in_the_lists_ends_a_group(folders: Path) -> None:
    remove(folders, 5)
    (folders / "train.txt").write_text("3\n4\n6\n7\n8\n11\n12\n")
    groups = open_folders(folders).index["group"].tolist()
    firsts = ["0001"] * 2 + ["0003"] * 2 + ["0006"] * 3 + ["0009"] * 2 + ["0011"] * 2
    assert groups == [f"from-{first}" for first in firsts]


def test_a_missing_image_does_not_divide_its_group(folders: Path) -> None:
    remove(folders, 3, 5)
    for seed in range(8):
        index = open_folders(folders, split_seed=seed).index
        firsts = ["0001"] * 2 + ["0003"] * 4 + ["0009"] * 2 + ["0011"] * 2
        assert index["group"].tolist() == [f"from-{first}" for first in firsts]
        assert index.groupby("group")["split"].nunique().max() == 1
        check_splits(index)


def test_training_images_of_only_one_group_raise_an_error(folders: Path) -> None:
    remove(folders, 11, 12)
    rule = (
        "the 6 available training images .* form 1 groups .*: at least 2 are needed, one for train"
    )
    with pytest.raises(ValueError, match=rule):
        open_folders(folders)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def save_label(values: np.ndarray) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.mark.parametrize(
    ("file", "damage", "rule"),
    [
        ("labels/0003.png", save_label(np.zeros((H, W, 3))), "RGB, not one channel"),
        ("labels/0003.png", save_label(np.full((H, W), 41)), "labels are 41 to 41; .* 0 to 40"),
        ("labels/0003.png", lambda file: file.write_bytes(b""), "no image that can be read"),
        ("depths/0003.png", save_label(np.zeros((H, W, 4))), "RGBA, not one channel"),
        ("depths/0003.png", truncate, "no image that can be read"),
        ("images/0003.jpg", truncate, "no image that can be read .*Truncated"),
        ("images/0003.jpg", lambda file: file.write_text("<html>"), "no image that can be read"),
    ],
)
def test_a_damaged_image_damages_only_its_sample(
    folders: Path, file: str, damage: Callable[[Path], object], rule: str
) -> None:
    damage(folders / file)
    source = open_folders(folders)
    with pytest.raises(DamagedSampleError, match=rule) as error:
        source.read(source.index)
    assert error.value.sample == "0003"
    assert file in error.value.reason
    assert len(source.read(source.index.query("id != '0003'"))["label"]) == 11


def save(file: Path, values: np.ndarray, orientation: int = 1, format_: str | None = None) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(values)).save(file, format_, exif=exif, quality=95)


def test_labels_as_jpeg_raise_an_error_when_the_folders_are_opened(folders: Path) -> None:
    """The format is detected even if the names end in png."""
    for number in NUMBERS:
        file = folders / "labels" / f"{number:04d}.png"
        with Image.open(file) as label:
            pixels = np.asarray(label)
        save(file, pixels, format_="JPEG")
    rule = r"12 of 12 .* '0001': \S+0001.png: is JPEG; labels must be lossless: PNG"
    with pytest.raises(ValueError, match=rule):
        open_folders(folders, tolerated_share=0.9)


def test_one_label_map_as_jpeg_is_omitted_within_the_tolerated_share(folders: Path) -> None:
    (folders / "labels" / "0004.png").unlink()
    save(folders / "labels" / "0004.jpg", np.arange(H * W, dtype=np.uint8).reshape(H, W) % 41)
    with pytest.raises(ValueError, match=r"1 of 12 .*'0004': \S+0004.jpg: is JPEG"):
        open_folders(folders)
    source = open_folders(folders, tolerated_share=0.1)
    assert source.index["number"].tolist() == [n for n in NUMBERS if n != 4]
    assert "lossless" in source.omitted["0004"]


def test_depth_as_jpeg_is_read_with_a_warning(
    folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    smooth = np.add.outer(np.arange(H), np.arange(W)).astype(np.uint8) * 20
    for number in (3, 7):
        save(folders / "depths" / f"{number:04d}.png", smooth, format_="JPEG")
    source = open_folders(folders)
    assert "0003.png and 1 more depth maps are not PNG" in caplog.text
    depth = source.read(source.index.query("number == 3"))["depth"][0, 0]
    np.testing.assert_allclose(depth, smooth / smooth.max(), atol=0.05)


@pytest.mark.parametrize("bits", [4, 8])
def test_palette_indices_are_read_as_classes(folders: Path, bits: int) -> None:
    labels = np.arange(H * W, dtype=np.uint8).reshape(H, W) % min(2**bits, 41)
    image = Image.fromarray(labels).convert("P")
    image.putpalette([200, 100, 50] * 41)
    image.save(folders / "labels" / "0001.png", bits=bits)
    source = open_folders(folders)
    np.testing.assert_array_equal(source.read(source.index[:1])["label"][0], labels)


def upright_scene(folders: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Remove the first image, and return grey, depth and labels ``(W, H)`` to write in its place.

    They are in portrait format, unlike the other images of the set.
    """
    rng = np.random.default_rng(0)
    (folders / "images" / "0001.jpg").unlink()
    grey, depth = rng.integers(0, 256, (W, H), np.uint8), rng.integers(0, 60_000, (W, H))
    return grey, depth.astype(np.uint16), rng.integers(0, 41, (W, H), np.uint8)


@pytest.mark.parametrize("map_orientation", [6, 1])
def test_colour_depth_and_labels_are_rotated_equally(folders: Path, map_orientation: int) -> None:
    """The maps of a rotated photograph may be rotated as well, or stored upright without a tag."""
    grey, depth, label = upright_scene(folders)
    # With orientation 6, the stored image is rotated by 90 degrees counter-clockwise.
    save(folders / "images" / "0001.png", np.rot90(grey), 6)
    quarters = 1 if map_orientation == 6 else 0
    save(folders / "depths" / "0001.png", np.rot90(depth, quarters), map_orientation)
    save(folders / "labels" / "0001.png", np.rot90(label, quarters), map_orientation)
    source = open_folders(folders, size=(W, H))
    samples = source.read(source.index[:1])
    np.testing.assert_array_equal(np.rint(samples["image"][0, 0] * 255), grey)
    np.testing.assert_array_equal(samples["label"][0], label)
    scaled = (depth - depth.min()) / np.float32(depth.max() - depth.min())
    np.testing.assert_allclose(samples["depth"][0, 0], scaled, atol=1e-6)


@pytest.mark.parametrize("orientation", [2, 3, 6])
@pytest.mark.parametrize("rotated", ["images", "depths", "labels"])
def test_one_differing_orientation_raises_an_error_if_the_aspect_ratios_are_equal(
    folders: Path, rotated: str, orientation: int
) -> None:
    """It is unknown which pixels of the three files belong together."""
    arrays = dict(zip(FOLDERS, upright_scene(folders), strict=True))
    for name, pixels in arrays.items():
        save(folders / name / "0001.png", pixels, orientation if name == rotated else 1)
    source = open_folders(folders)
    with pytest.raises(DamagedSampleError, match="has the EXIF orientation") as error:
        source.read(source.index[:1])
    assert f"{rotated if rotated == 'labels' else 'depths'}/0001.png" in error.value.reason


def test_a_photograph_of_sixteen_bits_is_scaled_to_eight(folders: Path) -> None:
    (folders / "images" / "0001.jpg").unlink()
    grey = np.linspace(0, 65_535, H * W).astype(np.uint16).reshape(H, W)
    save(folders / "images" / "0001.png", grey)
    source = open_folders(folders)
    image = source.read(source.index[:1])["image"][0]
    np.testing.assert_allclose(image, np.stack([grey / 65_535] * 3), atol=0.5 / 255 + 1e-6)


def test_a_grey_photograph_is_read_as_three_equal_channels(folders: Path) -> None:
    grey = np.arange(H * W, dtype=np.uint8).reshape(H, W)
    (folders / "images" / "0001.jpg").unlink()
    Image.fromarray(grey).save(folders / "images" / "0001.png")
    source = open_folders(folders)
    image = source.read(source.index[:1])["image"][0]
    np.testing.assert_array_equal(np.rint(image * 255), np.stack([grey] * 3))


def append(file: str, line: str) -> Callable[[Path], object]:
    return lambda root: (root / file).write_text((root / file).read_text() + f"{line}\n")


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (append("train.txt", "9a"), "train.txt, line 9: '9a' is not a number"),
        (append("test.txt", "-3"), "test.txt, line 5: '-3' is not a number"),
        (append("test.txt", "\n-3"), "test.txt, line 6: '-3' is not a number"),
        (append("train.txt", "0004"), "train.txt, line 9: 0004 appears twice"),
        (append("train.txt", "9"), "image 9 is in both train.txt and test.txt"),
        (lambda root: (root / "test.txt").write_text("1\n2\n9\n"), "image 10 of .*neither list"),
        (
            lambda root: (root / "test.txt").unlink(),
            "test.txt is missing: it lists the official split",
        ),
        (lambda root: shutil.rmtree(root / "depths"), "depths is not a folder: put NNNN.jpg"),
        (
            lambda root: (root / "labels" / "0003.png").rename(root / "labels" / "three.png"),
            "three.png: the name is not a number",
        ),
    ],
)
def test_invalid_folders_and_lists_raise_an_error(
    folders: Path, damage: Callable[[Path], object], rule: str
) -> None:
    damage(folders)
    with pytest.raises((ValueError, FileNotFoundError), match=rule):
        open_folders(folders)


def test_hidden_files_and_folders_are_ignored(folders: Path) -> None:
    before = open_folders(folders).index
    (folders / "images" / "._0003.jpg").write_bytes(b"left by an archive")
    (folders / "images" / "more").mkdir()
    (folders / "images" / "more" / "0003.jpg").write_bytes(b"")
    pd.testing.assert_frame_equal(open_folders(folders).index, before)


def test_two_files_of_one_number_raise_an_error(folders: Path) -> None:
    shutil.copy(folders / "images" / "0003.jpg", folders / "images" / "3.jpg")
    with pytest.raises(ValueError, match=r"0003\.jpg.*3\.jpg|3\.jpg.*0003\.jpg"):
        open_folders(folders)


@pytest.mark.parametrize("missing", ["depths/0004.png", "labels/0004.png"])
def test_an_image_without_depth_or_labels_is_omitted_within_the_tolerated_share(
    folders: Path, tmp_path: Path, missing: str
) -> None:
    (folders / missing).unlink()
    store = tmp_path / "stores" / "samples"
    with pytest.raises(ValueError, match=r"1 of 12 samples cannot be used.*0.0%.*'0004'"):
        write_store(open_folders(folders), store)
    source = open_folders(folders, tolerated_share=0.1)
    assert source.index["number"].tolist() == [n for n in NUMBERS if n != 4]
    write_store(source, store)
    samples = open_store(store)
    assert len(samples) == 11
    assert list(samples.omitted) == ["0004"]
    assert "no depth map or no label map" in samples.omitted["0004"]


def test_depth_and_labels_without_an_image_are_ignored(folders: Path) -> None:
    for number in (3, 4, 12):
        (folders / "images" / f"{number:04d}.jpg").unlink()
    assert open_folders(folders).index["number"].tolist() == [1, 2, 5, 6, 7, 8, 9, 10, 11]


def test_a_folder_without_images_raises_an_error(folders: Path) -> None:
    for file in (folders / "images").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"images contains no image: put NNNN.jpg"):
        open_folders(folders)


def test_the_error_for_many_missing_depth_maps_names_the_first(folders: Path) -> None:
    for file in (folders / "depths").iterdir():
        if file.stem != "0001":
            file.unlink()
    with pytest.raises(ValueError, match=r"11 of 12 samples cannot be used.*'0002': .*no depth"):
        open_folders(folders)
