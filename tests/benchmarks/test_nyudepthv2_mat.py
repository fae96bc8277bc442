"""Tests of NYU-Depth-V2 from the publisher's file, on tiny files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io

from mst_distill.benchmarks.nyudepthv2 import NYUDepthV2Mat
from mst_distill.benchmarks.source import DamagedSampleError
from mst_distill.benchmarks.splits import check_splits
from mst_distill.data.store import open_store, write_store
from raw_sets import COUNT, H, W, write_mat, write_nyu_mat
from raw_sets import NYU_RAW_TO_CLASS as RAW_TO_CLASS
from raw_sets import NYU_SCENES as SCENES
from raw_sets import NYU_TEST as TEST
from raw_sets import nyu_arrays as raw_arrays
from raw_sets import write_nyu_mapping as write_mapping
from raw_sets import write_nyu_splits as write_splits


@pytest.fixture
def mat(tmp_path: Path) -> Path:
    """A folder with the three published files, with eleven tiny images."""
    write_nyu_mat(tmp_path)
    return tmp_path


def open_mat(folder: Path, mapping: str | None = "mapping.mat", **arguments: object):
    paths = [str(folder / name) for name in ("labeled.mat", "splits.mat")]
    arguments = {"size": (H, W), **arguments}
    return NYUDepthV2Mat("heldout", *paths, str(folder / mapping) if mapping else None, **arguments)  # type: ignore[call-arg]


def test_the_images_are_upright(mat: Path) -> None:
    """Pixels that are set by hand are where a viewer of the photograph expects them."""
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


def test_raw_labels_are_mapped_to_classes(mat: Path) -> None:
    source = open_mat(mat)
    labels = source.read(source.index)["label"]
    assert labels.dtype == np.uint8
    raw = raw_arrays()["labels"].transpose(0, 2, 1)
    for value, expected in enumerate([0, 40, 3, 1, 1, 7]):
        assert (labels[raw == value] == expected).all(), value


def test_labels40_do_not_need_a_mapping(mat: Path) -> None:
    arrays = raw_arrays()
    arrays["labels40"] = (arrays["labels"] * 8).astype(np.uint8)
    write_mat(mat / "labeled.mat", arrays)
    source = open_mat(mat, mapping=None)
    labels = source.read(source.index)["label"]
    np.testing.assert_array_equal(labels, arrays["labels"].transpose(0, 2, 1) * 8)
    assert labels.max() == 40


def test_images_are_read_correctly_from_all_chunks(mat: Path) -> None:
    source, arrays = open_mat(mat), raw_arrays()
    order = np.random.default_rng(1).permutation(COUNT)
    samples = source.read(source.index.iloc[order])
    for position, row in enumerate(order):
        upright = np.stack([channel.T for channel in arrays["images"][row]])
        np.testing.assert_array_equal(np.rint(samples["image"][position] * 255), upright)
        depth = arrays["depths"][row].T
        scaled = (depth - depth.min()) / (depth.max() - depth.min())
        np.testing.assert_allclose(samples["depth"][position, 0], scaled, atol=1e-6)


def test_the_index_has_the_official_split_and_the_kinds_of_rooms(mat: Path) -> None:
    index = open_mat(mat).index
    check_splits(index)
    assert index["id"].tolist() == [f"{number:04d}" for number in range(1, COUNT + 1)]
    assert index.loc[index["split"] == "test", "number"].tolist() == TEST
    runs = ["0001"] * 2 + ["0003"] * 4 + ["0007"] * 2 + ["0009"] * 3
    assert index["group"].tolist() == [f"from-{first}" for first in runs]
    assert index["source"].tolist() == SCENES


def test_without_kinds_of_rooms_the_index_has_no_source(mat: Path) -> None:
    write_mat(mat / "labeled.mat", raw_arrays())
    assert "source" not in open_mat(mat).index


def test_the_protocol_has_no_effect_on_the_samples(mat: Path) -> None:
    paths = [str(mat / name) for name in ("labeled.mat", "splits.mat", "mapping.mat")]
    heldout, random = (NYUDepthV2Mat(protocol, *paths) for protocol in ("heldout", "random"))
    pd.testing.assert_frame_equal(heldout.index, random.index)
    depths = (source.read(source.index)["depth"] for source in (heldout, random))
    np.testing.assert_array_equal(*depths)


@pytest.mark.parametrize(
    ("array", "value", "rule"),
    [("depths", 2.5, "depth is 2.5"), ("images", 7, r"colour is \[7, 7, 7\]")],
)
def test_an_image_of_equal_pixels_is_damaged(
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


PEAK_MEMORY_SCRIPT = """
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
    """Write compressed zeros and ones of the published size, and return their uncompressed size."""
    shapes = {
        "images": ((count, 3, 640, 480), np.uint8),
        "depths": ((count, 640, 480), np.float32),
        "labels": ((count, 640, 480), np.uint16),
    }
    total = 0
    with h5py.File(path, "w") as file:
        for name, (shape, dtype) in shapes.items():
            chunks = (1, *shape[1:])
            data = file.create_dataset(name, shape, dtype, chunks=chunks, compression="gzip")
            data[0] = np.arange(480) % 2
            _, compressed = data.id.read_direct_chunk((0,) * data.ndim)
            # The other images have the same content; writing compressed chunks is fast.
            for row in range(1, count):
                data.id.write_direct_chunk((row, *(0,) * (data.ndim - 1)), compressed)
            total += data.nbytes
    return total


@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="only Linux reports peak memory"
)
def test_a_large_file_is_read_with_less_memory_than_its_size(tmp_path: Path) -> None:
    total = write_large_mat(tmp_path / "labeled.mat", 200)
    write_splits(tmp_path / "splits.mat", test=list(range(51, 151)), count=200)
    write_mapping(tmp_path / "mapping.mat", RAW_TO_CLASS)
    command = [sys.executable, "-c", PEAK_MEMORY_SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    read, grown = map(int, done.stdout.split())
    assert read == 200
    assert total > 550e6
    assert grown < 300e6


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def rewrite(**changes: np.ndarray | None) -> Callable[[Path], None]:
    """Write the file again with other arrays, or without those that are None."""

    def damage(path: Path) -> None:
        arrays = {**raw_arrays(), **changes}
        write_mat(
            path, {name: array for name, array in arrays.items() if array is not None}, SCENES
        )

    return damage


def replace_splits(train: list[int] | None, test: list[int]) -> Callable[[Path], None]:
    columns = {"testNdxs": test} if train is None else {"trainNdxs": train, "testNdxs": test}
    return lambda path: scipy.io.savemat(path, columns)


ZEROS = np.zeros((COUNT, W, H), np.uint16)


@pytest.mark.parametrize(
    ("file", "damage", "rule"),
    [
        ("labeled.mat", Path.unlink, "is missing: put nyu_depth_v2_labeled.mat there"),
        ("labeled.mat", truncate, "not a complete HDF5 file .*truncated"),
        ("labeled.mat", lambda file: file.write_bytes(b""), "not a complete HDF5 file"),
        (
            "labeled.mat",
            lambda file: scipy.io.savemat(file, raw_arrays()),
            "not a complete HDF5 file",
        ),
        ("labeled.mat", rewrite(depths=None), "lacks 'depths'; it contains .*images, labels"),
        ("labeled.mat", rewrite(labels=None), "lacks 'labels'"),
        ("labeled.mat", rewrite(images=ZEROS), r"'images' has shape \(11, 8, 6\), not 4-D"),
        (
            "labeled.mat",
            rewrite(images=np.zeros((COUNT, 4, W, H), np.uint8)),
            "images have 4 channels, not 3",
        ),
        (
            "labeled.mat",
            rewrite(depths=np.zeros((COUNT, H, W), np.float32)),
            r"/depths has shape \(11, 6, 8\), expected \(11, 8, 6\)",
        ),
        ("labeled.mat", rewrite(labels=ZEROS[:9]), r"/labels has shape \(9, 8, 6\), expected"),
        ("mapping.mat", Path.unlink, "its raw labels need classMapping40.mat"),
        (
            "mapping.mat",
            lambda file: write_mapping(file, [1, 41]),
            "has values 1 to 41, not 1 to 40",
        ),
        ("mapping.mat", lambda file: write_mapping(file, [0, 1]), "has values 0 to 1, not 1 to 40"),
        ("mapping.mat", lambda file: write_splits(file), "lacks 'mapClass'"),
        ("mapping.mat", lambda file: file.write_bytes(b""), "not a readable MATLAB 5 file"),
        ("splits.mat", Path.unlink, r"is missing: put splits.mat there \(the official split"),
        ("splits.mat", lambda file: file.write_text("<html>"), "not a readable MATLAB 5 file"),
        ("splits.mat", lambda file: file.write_text("<html>" * 99), "not a readable MATLAB 5 file"),
        (
            "splits.mat",
            lambda file: file.write_bytes(file.read_bytes()[:100]),
            "not a readable MATLAB 5 file",
        ),
        ("splits.mat", truncate, "splits.mat: (not a readable MATLAB 5 file|lacks 'testNdxs')"),
        ("splits.mat", rewrite(), "not a readable MATLAB 5 file .*HDF"),
        ("splits.mat", replace_splits(None, TEST), "lacks 'trainNdxs'"),
        ("splits.mat", replace_splits([3, 4, 5], TEST), "3 training and 4 test images must"),
        ("splits.mat", replace_splits(list(range(2, 12)), [1, 2]), "10 training and 2 test images"),
        (
            "splits.mat",
            replace_splits(list(range(12)), []),
            "must be the images 1 to 11, each once",
        ),
    ],
)
def test_the_error_names_the_damaged_file(
    mat: Path, file: str, damage: Callable[[Path], object], rule: str
) -> None:
    damage(mat / file)
    with pytest.raises((ValueError, FileNotFoundError), match=rule) as error:
        open_mat(mat)
    assert file in str(error.value)


def test_a_wrong_number_of_kinds_of_rooms_raises_an_error(mat: Path) -> None:
    write_mat(mat / "labeled.mat", raw_arrays(), SCENES[:3])
    with pytest.raises(ValueError, match=r"labeled\.mat: 'sceneTypes' .*3.*11"):
        open_mat(mat)


def link_to_another_file(file: h5py.File, other: Path) -> None:
    with h5py.File(other, "w") as secret:
        secret["depths"] = np.ones((COUNT, W, H), np.float32)
    file["depths"] = h5py.ExternalLink(other, "depths")


def link_inside(file: h5py.File, _other: Path) -> None:
    file["elsewhere"] = np.ones((COUNT, W, H), np.float32)
    file["depths"] = h5py.SoftLink("/elsewhere")


def store_outside(file: h5py.File, other: Path) -> None:
    np.ones((COUNT, W, H), np.float32).tofile(other)
    size = 4 * COUNT * W * H
    file.create_dataset("depths", (COUNT, W, H), np.float32, external=[(str(other), 0, size)])


def map_another_file(file: h5py.File, other: Path) -> None:
    with h5py.File(other, "w") as secret:
        secret["depths"] = np.ones((COUNT, W, H), np.float32)
    layout = h5py.VirtualLayout((COUNT, W, H), np.float32)
    layout[:] = h5py.VirtualSource(other, "depths", (COUNT, W, H))
    file.create_virtual_dataset("depths", layout)


@pytest.mark.parametrize(
    ("point", "fault"),
    [
        (link_to_another_file, "'depths' is a link"),
        (link_inside, "'depths' is a link"),
        (store_outside, "the values of '/depths' are stored elsewhere"),
        (map_another_file, "the values of '/depths' are stored elsewhere"),
    ],
)
def test_no_other_file_is_read(
    mat: Path, point: Callable[[h5py.File, Path], None], fault: str
) -> None:
    with h5py.File(mat / "labeled.mat", "r+") as file:
        del file["depths"]
        point(file, mat / "secret")
    with pytest.raises(ValueError, match=rf"labeled\.mat: {fault}"):
        open_mat(mat)


def test_kinds_of_rooms_in_another_file_are_not_read(mat: Path) -> None:
    with h5py.File(mat / "labeled.mat", "r+") as file:
        np.full((7, 1), ord("x"), np.uint16).tofile(mat / "secret")
        external = [(str(mat / "secret"), 0, 14)]
        room = file.create_dataset("#refs#/secret", (7, 1), np.uint16, external=external)
        references = np.asarray(file["sceneTypes"])
        references[0, 3] = room.ref
        file["sceneTypes"][...] = references
    with pytest.raises(ValueError, match=r"'sceneTypes' .*are stored elsewhere"):
        open_mat(mat)


def test_the_error_for_a_missing_mapping_states_the_file_that_is_needed(mat: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"labeled.mat has no 'labels40'.*mapping is None"):
        open_mat(mat, mapping=None)


@pytest.mark.parametrize(
    "size", [480, [480], [6, 8, 3], [0, 8], [6, -8], [], ["480", "640"], [6.5, 8]]
)
def test_a_size_that_is_not_a_height_and_a_width_raises_an_error(mat: Path, size: object) -> None:
    with pytest.raises(ValueError, match=r"size is .* it must be a height and a width"):
        open_mat(mat, size=size)


def read_damaged(source: NYUDepthV2Mat) -> DamagedSampleError:
    """Read all samples, of which one is damaged, and return the error."""
    with pytest.raises(DamagedSampleError) as error:
        source.read(source.index)
    return error.value


def test_a_raw_label_without_a_class_in_the_mapping_damages_only_its_image(mat: Path) -> None:
    arrays = raw_arrays()
    arrays["labels"][4, 3, 3] = 6
    write_mat(mat / "labeled.mat", arrays)
    source = open_mat(mat)
    error = read_damaged(source)
    assert error.sample == "0005"
    assert "labeled.mat, image 5: label 6, but the mapping ends at 5" in error.reason
    assert len(source.read(source.index.drop(index=4))["label"]) == COUNT - 1


def test_a_depth_that_is_not_finite_damages_only_its_image(mat: Path) -> None:
    arrays = raw_arrays()
    arrays["depths"][9, 1, 1] = np.nan
    write_mat(mat / "labeled.mat", arrays)
    source = open_mat(mat)
    error = read_damaged(source)
    assert error.sample == "0010"
    assert "NaN" in error.reason


def break_chunk(mat: Path) -> None:
    """Damage a chunk that contains part of the blue channel of images 9 to 11, the last ones."""
    with h5py.File(mat / "labeled.mat", "r+") as file:
        file["images"].id.write_direct_chunk((8, 2, 4, 3), b"no gzip")


def test_images_that_cannot_be_decompressed_are_omitted_up_to_the_tolerated_share(
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


def test_the_store_has_the_ignored_label(mat: Path, tmp_path: Path) -> None:
    write_store(open_mat(mat), tmp_path / "samples")
    samples = open_store(tmp_path / "samples")
    assert samples.dense
    assert samples.ignored_label == 0
    assert samples.labels.dtype == np.uint8
    assert samples.classes[:4] == ("void", "wall", "floor", "cabinet")
