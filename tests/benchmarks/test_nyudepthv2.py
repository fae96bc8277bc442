"""NYU-Depth-V2 from folders and from the publisher's file, on the real data and on tiny files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from PIL import ExifTags, Image

from mst_distill.benchmarks.nyudepthv2 import CLASSES, NYUDepthV2Folders, NYUDepthV2Mat
from mst_distill.benchmarks.nyudepthv2_mat import read_mapping
from mst_distill.benchmarks.source import DamagedSampleError
from mst_distill.benchmarks.splits import check_splits
from mst_distill.data.store import open_store, write_store
from raw_sets import COUNT, H, W, write_mat, write_nyu_folders, write_nyu_mat
from raw_sets import NYU_FOLDERS as FOLDERS
from raw_sets import NYU_NUMBERS as NUMBERS
from raw_sets import NYU_RAW_TO_CLASS as RAW_TO_CLASS
from raw_sets import NYU_SCENES as SCENES
from raw_sets import NYU_TEST as TEST
from raw_sets import nyu_arrays as raw_arrays
from raw_sets import write_nyu_mapping as write_mapping
from raw_sets import write_nyu_splits as write_splits

NATIVE = (240, 320)


@pytest.fixture(scope="module")
def nyu(shared_data: Path) -> Path:
    folder = shared_data / "nyu_depth_v2"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


def open_real(nyu: Path, size: tuple[int, int] = NATIVE, **arguments: int) -> NYUDepthV2Folders:
    folders = [str(nyu / f"{name}_320x240") for name in ("rgb", "depth", "label40")]
    return NYUDepthV2Folders("heldout", *folders, str(nyu), size, **arguments)


@pytest.fixture(scope="module")
def real(nyu: Path) -> NYUDepthV2Folders:
    return open_real(nyu)


def official(nyu: Path, part: str) -> set[str]:
    return set((nyu / f"{part}.txt").read_text().split())


def test_the_official_test_images_test_and_a_quarter_of_the_rest_validates(
    real: NYUDepthV2Folders, nyu: Path
) -> None:
    check_splits(real.index)
    assert real.index["id"].tolist() == [f"{number:04d}" for number in range(1, 1450)]
    counts = real.index["split"].value_counts()
    assert counts["test"] == 654
    assert counts["train"] + counts["valid"] == 795
    assert counts["valid"] / 795 == pytest.approx(0.25, abs=0.03)
    where = real.index.set_index("id")["split"]
    assert set(where[where == "test"].index) == official(nyu, "test")
    assert set(where[where != "test"].index) == official(nyu, "train")
    assert real.omitted == {}


def test_a_run_of_images_of_one_kind_is_one_group_and_stands_in_one_split(
    real: NYUDepthV2Folders, nyu: Path
) -> None:
    train = official(nyu, "train")
    kinds = [sample in train for sample in real.index["id"]]
    groups = real.index["group"].tolist()
    for row in range(1, len(kinds)):
        assert (groups[row] == groups[row - 1]) == (kinds[row] == kinds[row - 1]), row
    runs = 1 + sum(kinds[row] != kinds[row - 1] for row in range(1, len(kinds)))
    assert real.index["group"].nunique() == runs
    assert real.index.groupby("group")["split"].nunique().max() == 1


def test_the_seed_of_the_split_decides_who_validates_and_nothing_else(nyu: Path) -> None:
    first, again, other = (open_real(nyu, split_seed=seed).index for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert (first["split"] != other["split"]).any()
    assert ((first["split"] == "test") == (other["split"] == "test")).all()
    pd.testing.assert_frame_equal(first.drop(columns="split"), other.drop(columns="split"))


def test_real_samples_are_scaled_and_labelled_by_class(real: NYUDepthV2Folders) -> None:
    part = real.index.iloc[::60]
    samples = real.read(part)
    assert samples["image"].shape == (25, 3, *NATIVE)
    assert samples["depth"].shape == (25, 1, *NATIVE)
    assert samples["label"].shape == (25, *NATIVE)
    assert samples["image"].dtype == samples["depth"].dtype == np.float32
    assert samples["label"].dtype == np.uint8
    assert samples["image"].min() == 0
    assert samples["image"].max() == 1
    assert (samples["depth"].min(axis=(1, 2, 3)) == 0).all()
    assert (samples["depth"].max(axis=(1, 2, 3)) == 1).all()
    assert set(np.unique(samples["label"])) <= set(range(41))
    assert {0, 1, 2} <= set(np.unique(samples["label"]))


def test_classes_are_named_as_in_the_publisher_s_list(nyu: Path) -> None:
    names = json.loads((nyu / "meta.json").read_text())["class_names"]
    plain = [name.replace(" ", "").replace("refridgerator", "refrigerator") for name in names]
    assert [name.replace(" ", "") for name in CLASSES] == plain
    assert len(CLASSES) == 41


def test_a_size_equal_to_the_files_leaves_every_pixel_as_it_is(nyu: Path) -> None:
    folder = nyu / "full_640x480"
    folders = {name: folder / name for name in ("rgb", "depth", "label40")}
    source = NYUDepthV2Folders("heldout", *map(str, folders.values()), str(nyu))
    assert len(source.index) == len(list(folders["rgb"].iterdir()))
    part = source.index.iloc[[0, -1]]
    samples = source.read(part)
    for row, number in enumerate(part["id"]):
        with Image.open(folders["rgb"] / f"{number}.jpg") as file:
            rgb = np.asarray(file)
        with Image.open(folders["depth"] / f"{number}.png") as file:
            depth = np.asarray(file)
        with Image.open(folders["label40"] / f"{number}.png") as file:
            label = np.asarray(file)
        assert rgb.shape == (480, 640, 3)
        np.testing.assert_array_equal(np.rint(samples["image"][row] * 255), rgb.transpose(2, 0, 1))
        np.testing.assert_array_equal(samples["label"][row], label)
        back = depth.min() + samples["depth"][row, 0] * (int(depth.max()) - int(depth.min()))
        np.testing.assert_array_equal(np.rint(back), depth)


def test_labels_and_depth_are_resized_without_new_values(
    real: NYUDepthV2Folders, nyu: Path
) -> None:
    part = real.index.iloc[[3, 700]]
    native, half = real.read(part), open_real(nyu, (120, 160)).read(part)
    assert half["image"].shape == (2, 3, 120, 160)
    # The centre of two by two pixels falls to the later one.
    np.testing.assert_array_equal(half["label"], native["label"][:, 1::2, 1::2])
    for small, large in zip(half["depth"], native["depth"][:, :, 1::2, 1::2], strict=True):
        span = large.max() - large.min()
        np.testing.assert_allclose(small, (large - large.min()) / span, atol=1e-6)
    odd = open_real(nyu, (96, 224)).read(part)
    for row in range(2):
        assert set(np.unique(odd["label"][row])) <= set(np.unique(native["label"][row]))
    # Colour is a mean over what becomes one pixel, so that means stay.
    means = (odd["image"].mean(axis=(2, 3)), native["image"].mean(axis=(2, 3)))
    np.testing.assert_allclose(*means, atol=0.005)


def test_a_sample_is_the_same_whatever_is_read_with_it(real: NYUDepthV2Folders) -> None:
    whole, part = real.read(real.index[:4]), real.read(real.index[2:4])
    for name in whole:
        np.testing.assert_array_equal(whole[name][2:4], part[name])


def test_the_real_mapping_has_a_class_for_every_raw_label(nyu: Path) -> None:
    classes = read_mapping(nyu / "meta_mat" / "classMapping40.mat", Path("labelled.mat"))
    assert classes.shape == (895,)
    assert classes[0] == 0
    assert set(classes[1:]) == set(range(1, 41))


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    """A folder with the three files, as they are published, of eleven tiny images."""
    write_nyu_mat(tmp_path)
    return tmp_path


def open_mat(folder: Path, mapping: str | None = "mapping.mat", **arguments: object):
    paths = [str(folder / name) for name in ("labeled.mat", "splits.mat")]
    arguments = {"size": (H, W), **arguments}
    return NYUDepthV2Mat("heldout", *paths, str(folder / mapping) if mapping else None, **arguments)


def test_images_of_the_publisher_s_file_stand_upright(mat: Path) -> None:
    """Four pixels are set by hand: each lies where a viewer of the photograph expects it."""
    arrays = raw_arrays()
    for name in arrays:
        arrays[name][2] = 1
    left, right, top, bottom = 0, W - 1, 0, H - 1
    arrays["images"][2, 0, right, top] = 255
    arrays["images"][2, 1, left, bottom] = 255
    arrays["images"][2, 2, 3, bottom] = 255
    arrays["depths"][2, right, bottom] = 9
    arrays["labels"][2, left, 2] = 5
    write_mat(mat / "labeled.mat", arrays)
    source = open_mat(mat)
    samples = source.read(source.index.query("id == '0003'"))
    assert samples["image"].shape == (1, 3, H, W)
    assert samples["depth"].shape == (1, 1, H, W)
    assert samples["label"].shape == (1, H, W)
    bright = np.argwhere(samples["image"][0] == 1).tolist()
    assert bright == [[0, top, right], [1, bottom, left], [2, bottom, 3]]
    assert np.argwhere(samples["depth"][0, 0] == 1).tolist() == [[bottom, right]]
    assert np.argwhere(samples["label"][0] == 7).tolist() == [[2, left]]


def test_raw_labels_are_mapped_to_the_classes_of_the_mapping(mat: Path) -> None:
    source = open_mat(mat)
    labels = source.read(source.index)["label"]
    assert labels.dtype == np.uint8
    raw = raw_arrays()["labels"].transpose(0, 2, 1)
    for value, expected in enumerate([0, 40, 3, 1, 1, 7]):
        assert (labels[raw == value] == expected).all(), value


def test_labels40_need_no_mapping(mat: Path) -> None:
    arrays = raw_arrays()
    arrays["labels40"] = (arrays["labels"] * 8).astype(np.uint8)
    write_mat(mat / "labeled.mat", arrays)
    source = open_mat(mat, mapping=None)
    labels = source.read(source.index)["label"]
    np.testing.assert_array_equal(labels, arrays["labels"].transpose(0, 2, 1) * 8)
    assert labels.max() == 40


def test_every_image_is_its_own_whatever_chunk_it_lies_in(mat: Path) -> None:
    source, arrays = open_mat(mat), raw_arrays()
    order = np.random.default_rng(1).permutation(COUNT)
    samples = source.read(source.index.iloc[order])
    for place, row in enumerate(order):
        upright = np.stack([channel.T for channel in arrays["images"][row]])
        np.testing.assert_array_equal(np.rint(samples["image"][place] * 255), upright)
        depth = arrays["depths"][row].T
        scaled = (depth - depth.min()) / (depth.max() - depth.min())
        np.testing.assert_allclose(samples["depth"][place, 0], scaled, atol=1e-6)


def test_the_official_split_and_the_kinds_of_rooms_reach_the_index(mat: Path) -> None:
    index = open_mat(mat).index
    check_splits(index)
    assert index["id"].tolist() == [f"{number:04d}" for number in range(1, COUNT + 1)]
    assert index.loc[index["split"] == "test", "number"].tolist() == TEST
    runs = ["0001"] * 2 + ["0003"] * 4 + ["0007"] * 2 + ["0009"] * 3
    assert index["group"].tolist() == [f"from-{first}" for first in runs]
    assert index["source"].tolist() == SCENES


def test_rooms_of_no_kind_are_no_source(mat: Path) -> None:
    write_mat(mat / "labeled.mat", raw_arrays())
    assert "source" not in open_mat(mat).index


def test_the_protocol_changes_nothing_that_is_read(mat: Path) -> None:
    paths = [str(mat / name) for name in ("labeled.mat", "splits.mat", "mapping.mat")]
    one, two = (NYUDepthV2Mat(protocol, *paths) for protocol in ("heldout", "random"))
    pd.testing.assert_frame_equal(one.index, two.index)
    np.testing.assert_array_equal(one.read(one.index)["depth"], two.read(two.index)["depth"])


@pytest.mark.parametrize(
    ("array", "value", "rule"),
    [("depths", 2.5, "depth is 2.5"), ("images", 7, r"colour is \[7, 7, 7\]")],
)
def test_an_image_in_which_nothing_differs_is_damaged(
    mat: Path, array: str, value: float, rule: str
) -> None:
    arrays = raw_arrays()
    arrays[array][4] = value
    write_mat(mat / "labeled.mat", arrays)
    source = open_mat(mat)
    with pytest.raises(DamagedSampleError, match=f"mat, image 5: {rule} in all pixels") as error:
        source.read(source.index)
    assert error.value.sample == "0005"
    assert len(source.read(source.index.query("id != '0005'"))["depth"]) == COUNT - 1


PEAK = """
import re, sys
from pathlib import Path
from mst_distill.benchmarks.nyudepthv2 import NYUDepthV2Mat

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

folder = Path(sys.argv[1])
names = ("labeled.mat", "splits.mat", "mapping.mat")
before = peak()
source = NYUDepthV2Mat("heldout", *(str(folder / name) for name in names), size=(32, 32))
read = 0
for start in range(0, len(source.index), 16):
    read += len(source.read(source.index[start : start + 16])["label"])
print(read, peak() - before)
"""


def write_large_mat(path: Path, count: int) -> int:
    """Zeros and ones of the published size, packed; returns the bytes that they unpack to."""
    shapes = {
        "images": ((count, 3, 640, 480), np.uint8),
        "depths": ((count, 640, 480), np.float32),
        "labels": ((count, 640, 480), np.uint16),
    }
    total = 0
    with h5py.File(path, "w") as file:
        for name, (shape, dtype) in shapes.items():
            chunks = (1, *shape[1:])
            of = file.create_dataset(name, shape, dtype, chunks=chunks, compression="gzip")
            of[0] = np.arange(480) % 2
            _, packed = of.id.read_direct_chunk((0,) * of.ndim)
            for row in range(1, count):
                of.id.write_direct_chunk((row, *(0,) * (of.ndim - 1)), packed)
            total += of.nbytes
    return total


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux alone tells the peak")
def test_a_file_larger_than_the_memory_that_is_used_is_read_image_by_image(tmp_path: Path) -> None:
    total = write_large_mat(tmp_path / "labeled.mat", 200)
    write_splits(tmp_path / "splits.mat", test=list(range(51, 151)), count=200)
    write_mapping(tmp_path / "mapping.mat", RAW_TO_CLASS)
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    read, grown = map(int, done.stdout.split())
    assert read == 200
    assert total > 550e6
    assert grown < 300e6


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def rewritten(**changes: np.ndarray | None) -> Callable[[Path], None]:
    """Write the file again with other arrays, or without those that are None."""

    def rewrite(path: Path) -> None:
        arrays = {**raw_arrays(), **changes}
        write_mat(path, {name: of for name, of in arrays.items() if of is not None}, SCENES)

    return rewrite


def with_splits(train: list[int] | None, test: list[int]) -> Callable[[Path], None]:
    columns = {"testNdxs": test} if train is None else {"trainNdxs": train, "testNdxs": test}
    return lambda path: scipy.io.savemat(path, columns)


ZEROS = np.zeros((COUNT, W, H), np.uint16)


@pytest.mark.parametrize(
    ("file", "damage", "rule"),
    [
        ("labeled.mat", Path.unlink, "is missing: put nyu_depth_v2_labeled.mat there"),
        ("labeled.mat", cut, "no whole HDF5 file .*truncated"),
        ("labeled.mat", lambda file: file.write_bytes(b""), "no whole HDF5 file"),
        ("labeled.mat", lambda file: scipy.io.savemat(file, raw_arrays()), "no whole HDF5 file"),
        ("labeled.mat", rewritten(depths=None), "lacks 'depths'; it holds .*images, labels"),
        ("labeled.mat", rewritten(labels=None), "lacks 'labels'"),
        ("labeled.mat", rewritten(images=ZEROS), r"'images' has shape \(11, 8, 6\), not 4-D"),
        (
            "labeled.mat",
            rewritten(images=np.zeros((COUNT, 4, W, H), np.uint8)),
            "images have 4 channels, not 3",
        ),
        (
            "labeled.mat",
            rewritten(depths=np.zeros((COUNT, H, W), np.float32)),
            r"/depths has shape \(11, 6, 8\); \(11, 8, 6\) would fit",
        ),
        ("labeled.mat", rewritten(labels=ZEROS[:9]), r"/labels has shape \(9, 8, 6\); \(11, 8, 6"),
        ("mapping.mat", Path.unlink, "its raw labels need classMapping40.mat"),
        ("mapping.mat", lambda file: write_mapping(file, [1, 41]), "holds 1 to 41, not 1 to 40"),
        ("mapping.mat", lambda file: write_mapping(file, [0, 1]), "holds 0 to 1, not 1 to 40"),
        ("mapping.mat", lambda file: write_splits(file), "lacks 'mapClass'"),
        ("mapping.mat", lambda file: file.write_bytes(b""), "no MATLAB 5 file"),
        ("splits.mat", Path.unlink, r"is missing: put splits.mat there \(the official split"),
        ("splits.mat", lambda file: file.write_text("<html>"), "no MATLAB 5 file"),
        ("splits.mat", lambda file: file.write_text("<html>" * 99), "no MATLAB 5 file"),
        ("splits.mat", lambda file: file.write_bytes(file.read_bytes()[:100]), "no MATLAB 5 file"),
        ("splits.mat", cut, "splits.mat: (no MATLAB 5 file|lacks 'testNdxs')"),
        ("splits.mat", rewritten(), "no MATLAB 5 file that can be read .*HDF"),
        ("splits.mat", with_splits(None, TEST), "lacks 'trainNdxs'"),
        ("splits.mat", with_splits([3, 4, 5], TEST), "3 training and 4 test images are not"),
        ("splits.mat", with_splits(list(range(2, 12)), [1, 2]), "10 training and 2 test images"),
        ("splits.mat", with_splits(list(range(12)), []), "not the images 1 to 11, each once"),
    ],
)
def test_a_damaged_file_is_named(
    mat: Path, file: str, damage: Callable[[Path], object], rule: str
) -> None:
    damage(mat / file)
    with pytest.raises((ValueError, FileNotFoundError), match=rule) as error:
        open_mat(mat)
    assert file in str(error.value)


def test_kinds_of_rooms_that_are_not_one_an_image_are_refused(mat: Path) -> None:
    write_mat(mat / "labeled.mat", raw_arrays(), SCENES[:3])
    with pytest.raises(ValueError, match=r"labeled\.mat: 'sceneTypes' .*3.*11"):
        open_mat(mat)


def test_raw_labels_without_a_mapping_say_what_is_needed(mat: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"labeled.mat has no 'labels40'.*mapping is None"):
        open_mat(mat, mapping=None)


@pytest.mark.parametrize(
    "size", [480, [480], [6, 8, 3], [0, 8], [6, -8], [], ["480", "640"], [6.5, 8]]
)
def test_a_size_that_is_no_height_and_width_is_refused(mat: Path, size: object) -> None:
    with pytest.raises(ValueError, match=r"size is .* it must be a height and a width"):
        open_mat(mat, size=size)


def damaged(source: NYUDepthV2Mat | NYUDepthV2Folders, part: pd.DataFrame) -> DamagedSampleError:
    with pytest.raises(DamagedSampleError) as error:
        source.read(part)
    return error.value


def test_a_raw_label_behind_the_end_of_the_mapping_damages_its_image_alone(mat: Path) -> None:
    arrays = raw_arrays()
    arrays["labels"][4, 3, 3] = 6
    write_mat(mat / "labeled.mat", arrays)
    source = open_mat(mat)
    error = damaged(source, source.index)
    assert error.sample == "0005"
    assert "labeled.mat, image 5: label 6, but the mapping ends at 5" in error.reason
    assert len(source.read(source.index.drop(index=4))["label"]) == COUNT - 1


def test_a_depth_that_is_not_finite_damages_its_image_alone(mat: Path) -> None:
    arrays = raw_arrays()
    arrays["depths"][9, 1, 1] = np.nan
    write_mat(mat / "labeled.mat", arrays)
    source = open_mat(mat)
    error = damaged(source, source.index)
    assert error.sample == "0010"
    assert "NaN" in error.reason


def break_chunk(mat: Path) -> None:
    """Of the images 9 to 11, the last of the file, part of the blue channel."""
    with h5py.File(mat / "labeled.mat", "r+") as file:
        file["images"].id.write_direct_chunk((8, 2, 4, 3), b"no gzip")


def test_what_cannot_be_unpacked_is_left_out_as_far_as_that_is_tolerated(
    mat: Path, tmp_path: Path
) -> None:
    break_chunk(mat)
    with pytest.raises(ValueError, match=r"3 of 11 samples cannot be used.*'0009'.*image 9: "):
        write_store(open_mat(mat), tmp_path / "stores" / "samples")
    write_store(open_mat(mat, tolerated_share=0.3), tmp_path / "stores" / "samples")
    samples = open_store(tmp_path / "stores" / "samples")
    assert list(samples.omitted) == ["0009", "0010", "0011"]
    assert all("labeled.mat, image" in reason for reason in samples.omitted.values())
    expected = raw_arrays()["images"][:8].transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(np.rint(samples.modalities["image"] * 255), expected)
    assert samples.index["source"].tolist() == SCENES[:8]


def test_a_store_knows_what_is_no_target(mat: Path, tmp_path: Path) -> None:
    write_store(open_mat(mat), tmp_path / "samples")
    samples = open_store(tmp_path / "samples")
    assert samples.dense
    assert samples.ignored_label == 0
    assert samples.labels.dtype == np.uint8
    assert samples.classes[:4] == ("void", "wall", "floor", "cabinet")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Twelve images of 8 x 6 pixels: 1, 2, 9 and 10 test."""
    write_nyu_folders(tmp_path)
    return tmp_path


def open_folders(root: Path, **arguments: object) -> NYUDepthV2Folders:
    paths = [str(root / name) for name in FOLDERS]
    return NYUDepthV2Folders("heldout", *paths, str(root), **{"size": (H, W), **arguments})


def test_depth_maps_of_sixteen_bits_keep_all_of_them(folders: Path) -> None:
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


def test_an_image_that_is_not_there_does_not_part_its_room(folders: Path) -> None:
    remove(folders, 3, 5)
    for seed in range(8):
        index = open_folders(folders, split_seed=seed).index
        firsts = ["0001"] * 2 + ["0003"] * 4 + ["0009"] * 2 + ["0011"] * 2
        assert index["group"].tolist() == [f"from-{first}" for first in firsts]
        assert index.groupby("group")["split"].nunique().max() == 1
        check_splits(index)


def test_training_images_of_one_group_alone_are_refused(folders: Path) -> None:
    remove(folders, 11, 12)
    rule = "the 6 training images of .* form 1 groups of .*: at least 2 are needed, one to train"
    with pytest.raises(ValueError, match=rule):
        open_folders(folders)


def save_label(values: np.ndarray) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.mark.parametrize(
    ("file", "damage", "rule"),
    [
        ("labels/0003.png", save_label(np.zeros((H, W, 3))), "RGB, not one channel"),
        ("labels/0003.png", save_label(np.full((H, W), 41)), "labels are 41 to 41; .* 0 to 40"),
        ("labels/0003.png", lambda file: file.write_bytes(b""), "no image that can be read"),
        ("depths/0003.png", save_label(np.zeros((H, W, 4))), "RGBA, not one channel"),
        ("depths/0003.png", cut, "no image that can be read"),
        ("images/0003.jpg", cut, "no image that can be read .*Truncated"),
        ("images/0003.jpg", lambda file: file.write_text("<html>"), "no image that can be read"),
    ],
)
def test_a_damaged_image_is_named_and_the_others_are_read(
    folders: Path, file: str, damage: Callable[[Path], object], rule: str
) -> None:
    damage(folders / file)
    source = open_folders(folders)
    with pytest.raises(DamagedSampleError, match=rule) as error:
        source.read(source.index)
    assert error.value.sample == "0003"
    assert file in error.value.reason
    assert len(source.read(source.index.query("id != '0003'"))["label"]) == 11


def save(file: Path, values: np.ndarray, orientation: int = 1, name: str | None = None) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.ascontiguousarray(values)).save(file, name, exif=exif, quality=95)


def test_labels_as_jpeg_are_refused_before_anything_is_read(folders: Path) -> None:
    """Whatever their names are."""
    for number in NUMBERS:
        file = folders / "labels" / f"{number:04d}.png"
        with Image.open(file) as label:
            pixels = np.asarray(label)
        save(file, pixels, name="JPEG")
    rule = r"12 of 12 .* '0001': \S+0001.png: is JPEG; labels must be lossless: PNG"
    with pytest.raises(ValueError, match=rule):
        open_folders(folders, tolerated_share=0.9)


def test_one_label_map_as_jpeg_is_left_out_if_that_is_tolerated(folders: Path) -> None:
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
        save(folders / "depths" / f"{number:04d}.png", smooth, name="JPEG")
    source = open_folders(folders)
    assert "0003.png and 1 more depth maps are no PNG" in caplog.text
    depth = source.read(source.index.query("number == 3"))["depth"][0, 0]
    np.testing.assert_allclose(depth, smooth / smooth.max(), atol=0.05)


@pytest.mark.parametrize("bits", [4, 8])
def test_labels_as_palette_indices_are_classes(folders: Path, bits: int) -> None:
    labels = np.arange(H * W, dtype=np.uint8).reshape(H, W) % min(2**bits, 41)
    image = Image.fromarray(labels).convert("P")
    image.putpalette([200, 100, 50] * 41)
    image.save(folders / "labels" / "0001.png", bits=bits)
    source = open_folders(folders)
    np.testing.assert_array_equal(source.read(source.index[:1])["label"][0], labels)


def upright_scene(folders: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey, depth and labels ``(W, H)``: a portrait, in a set of 6 x 8."""
    rng = np.random.default_rng(0)
    (folders / "images" / "0001.jpg").unlink()
    grey, depth = rng.integers(0, 256, (W, H), np.uint8), rng.integers(0, 60_000, (W, H))
    return grey, depth.astype(np.uint16), rng.integers(0, 41, (W, H), np.uint8)


@pytest.mark.parametrize("of_maps", [6, 1])
def test_colour_depth_and_labels_are_turned_alike(folders: Path, of_maps: int) -> None:
    """Of a phone's photograph the maps may be stored as it is, or upright without a tag."""
    grey, depth, label = upright_scene(folders)
    # Orientation 6: what is upright lies a quarter counter-clockwise in the file.
    save(folders / "images" / "0001.png", np.rot90(grey), 6)
    back = 1 if of_maps == 6 else 0
    save(folders / "depths" / "0001.png", np.rot90(depth, back), of_maps)
    save(folders / "labels" / "0001.png", np.rot90(label, back), of_maps)
    source = open_folders(folders, size=(W, H))
    read = source.read(source.index[:1])
    np.testing.assert_array_equal(np.rint(read["image"][0, 0] * 255), grey)
    np.testing.assert_array_equal(read["label"][0], label)
    scaled = (depth - depth.min()) / np.float32(depth.max() - depth.min())
    np.testing.assert_allclose(read["depth"][0, 0], scaled, atol=1e-6)


@pytest.mark.parametrize("orientation", [2, 3, 6])
@pytest.mark.parametrize("alone", ["images", "depths", "labels"])
def test_one_that_is_turned_alone_is_refused_where_the_sides_do_not_tell(
    folders: Path, alone: str, orientation: int
) -> None:
    """All three are stored alike, and which of their pixels belong together nobody knows."""
    arrays = dict(zip(FOLDERS, upright_scene(folders), strict=True))
    for name, pixels in arrays.items():
        save(folders / name / "0001.png", pixels, orientation if name == alone else 1)
    source = open_folders(folders)
    with pytest.raises(DamagedSampleError, match="has the EXIF orientation") as error:
        source.read(source.index[:1])
    assert f"{alone if alone == 'labels' else 'depths'}/0001.png" in error.value.reason


def test_a_photograph_of_sixteen_bits_keeps_its_levels(folders: Path) -> None:
    (folders / "images" / "0001.jpg").unlink()
    grey = np.linspace(0, 65_535, H * W).astype(np.uint16).reshape(H, W)
    save(folders / "images" / "0001.png", grey)
    source = open_folders(folders)
    image = source.read(source.index[:1])["image"][0]
    np.testing.assert_allclose(image, np.stack([grey / 65_535] * 3), atol=0.5 / 255 + 1e-6)


def test_a_grey_photograph_is_shown_in_three_equal_channels(folders: Path) -> None:
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
        (append("train.txt", "9a"), "train.txt, line 9: '9a' is no number"),
        (append("test.txt", "-3"), "test.txt, line 5: '-3' is no number"),
        (append("test.txt", "\n-3"), "test.txt, line 6: '-3' is no number"),
        (append("train.txt", "0004"), "train.txt, line 9: 0004 stands twice"),
        (append("train.txt", "9"), "image 9 is in train.txt and in test.txt"),
        (lambda root: (root / "test.txt").write_text("1\n2\n9\n"), "image 10 of .*neither list"),
        (lambda root: (root / "test.txt").unlink(), "test.txt is missing: one number a line"),
        (lambda root: shutil.rmtree(root / "depths"), "depths is no folder: put NNNN.jpg"),
        (
            lambda root: (root / "labels" / "0003.png").rename(root / "labels" / "three.png"),
            "three.png: the name is no number",
        ),
    ],
)
def test_folders_and_lists_that_do_not_fit_are_told(
    folders: Path, damage: Callable[[Path], object], rule: str
) -> None:
    damage(folders)
    with pytest.raises((ValueError, FileNotFoundError), match=rule):
        open_folders(folders)


def test_hidden_files_and_folders_are_passed_by(folders: Path) -> None:
    before = open_folders(folders).index
    (folders / "images" / "._0003.jpg").write_bytes(b"left by an archive")
    (folders / "images" / "more").mkdir()
    (folders / "images" / "more" / "0003.jpg").write_bytes(b"")
    pd.testing.assert_frame_equal(open_folders(folders).index, before)


def test_two_files_of_one_number_are_refused(folders: Path) -> None:
    shutil.copy(folders / "images" / "0003.jpg", folders / "images" / "3.jpg")
    with pytest.raises(ValueError, match=r"0003\.jpg.*3\.jpg|3\.jpg.*0003\.jpg"):
        open_folders(folders)


@pytest.mark.parametrize("lost", ["depths/0004.png", "labels/0004.png"])
def test_an_image_without_depth_or_labels_is_left_out_if_that_is_tolerated(
    folders: Path, tmp_path: Path, lost: str
) -> None:
    (folders / lost).unlink()
    store = tmp_path / "stores" / "samples"
    with pytest.raises(ValueError, match=r"1 of 12 samples cannot be used.*0.0%.*'0004'"):
        write_store(open_folders(folders), store)
    source = open_folders(folders, tolerated_share=0.1)
    assert source.index["number"].tolist() == [n for n in NUMBERS if n != 4]
    write_store(source, store)
    samples = open_store(store)
    assert len(samples) == 11
    assert list(samples.omitted) == ["0004"]
    assert "no depth or no labels" in samples.omitted["0004"]


def test_depth_and_labels_of_more_images_than_there_are_do_not_matter(folders: Path) -> None:
    for number in (3, 4, 12):
        (folders / "images" / f"{number:04d}.jpg").unlink()
    assert open_folders(folders).index["number"].tolist() == [1, 2, 5, 6, 7, 8, 9, 10, 11]


def test_no_images_at_all_are_told(folders: Path) -> None:
    for file in (folders / "images").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"images holds no image: put NNNN.jpg"):
        open_folders(folders)


def test_when_every_image_lacks_its_depth_that_is_what_is_told(folders: Path) -> None:
    for file in (folders / "depths").iterdir():
        if file.stem != "0001":
            file.unlink()
    with pytest.raises(ValueError, match=r"11 of 12 samples cannot be used.*'0002': .*no depth"):
        open_folders(folders)
