"""Tests of NYU-Depth-V2 on the real data, in folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mst_distill.benchmarks.nyudepthv2 import CLASSES, NYUDepthV2Folders
from mst_distill.benchmarks.nyudepthv2_mat import read_mapping
from mst_distill.benchmarks.splits import check_splits

NATIVE = (240, 320)


@pytest.fixture(scope="module")
def nyu(shared_data: Path) -> Path:
    folder = shared_data / "nyu_depth_v2"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


def open_real(nyu: Path, size: tuple[int, int] = NATIVE, **arguments: int) -> NYUDepthV2Folders:
    folders = [str(nyu / f"{name}_320x240") for name in ("rgb", "depth", "label40")]
    return NYUDepthV2Folders("heldout", *folders, str(nyu), size, **arguments)  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def real(nyu: Path) -> NYUDepthV2Folders:
    return open_real(nyu)


def official(nyu: Path, split: str) -> set[str]:
    return set((nyu / f"{split}.txt").read_text().split())


def test_the_official_test_images_are_the_test_split_and_a_quarter_of_the_others_is_valid(
    real: NYUDepthV2Folders, nyu: Path
) -> None:
    check_splits(real.index)
    assert real.index["id"].tolist() == [f"{number:04d}" for number in range(1, 1450)]
    counts = real.index["split"].value_counts()
    assert counts["test"] == 654
    assert counts["train"] + counts["valid"] == 795
    assert counts["valid"] / 795 == pytest.approx(0.25, abs=0.03)
    split = real.index.set_index("id")["split"]
    assert set(split[split == "test"].index) == official(nyu, "test")
    assert set(split[split != "test"].index) == official(nyu, "train")
    assert real.omitted == {}


def test_a_run_of_training_or_test_images_is_one_group_in_one_split(
    real: NYUDepthV2Folders, nyu: Path
) -> None:
    train = official(nyu, "train")
    in_train = [sample in train for sample in real.index["id"]]
    groups = real.index["group"].tolist()
    for row in range(1, len(in_train)):
        assert (groups[row] == groups[row - 1]) == (in_train[row] == in_train[row - 1]), row
    runs = 1 + sum(in_train[row] != in_train[row - 1] for row in range(1, len(in_train)))
    assert real.index["group"].nunique() == runs
    assert real.index.groupby("group")["split"].nunique().max() == 1


def test_the_split_seed_determines_only_the_validation_images(nyu: Path) -> None:
    first, again, other = (open_real(nyu, split_seed=seed).index for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert (first["split"] != other["split"]).any()
    assert ((first["split"] == "test") == (other["split"] == "test")).all()
    pd.testing.assert_frame_equal(first.drop(columns="split"), other.drop(columns="split"))


def test_real_samples_are_scaled_and_have_labels_of_the_classes(real: NYUDepthV2Folders) -> None:
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


def test_the_class_names_are_those_of_the_publisher(nyu: Path) -> None:
    names = json.loads((nyu / "meta.json").read_text())["class_names"]
    plain = [name.replace(" ", "").replace("refridgerator", "refrigerator") for name in names]
    assert [name.replace(" ", "") for name in CLASSES] == plain
    assert len(CLASSES) == 41


def test_with_the_size_of_the_files_all_pixels_are_unchanged(nyu: Path) -> None:
    folder = nyu / "full_640x480"
    folders = {name: folder / name for name in ("rgb", "depth", "label40")}
    source = NYUDepthV2Folders("heldout", *map(str, folders.values()), str(nyu))  # type: ignore[call-arg]
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
        restored = depth.min() + samples["depth"][row, 0] * (int(depth.max()) - int(depth.min()))
        np.testing.assert_array_equal(np.rint(restored), depth)


def test_labels_and_depth_are_resized_without_new_values(
    real: NYUDepthV2Folders, nyu: Path
) -> None:
    part = real.index.iloc[[3, 700]]
    native, half = real.read(part), open_real(nyu, (120, 160)).read(part)
    assert half["image"].shape == (2, 3, 120, 160)
    # The centre of 2 x 2 pixels is rounded to the last of them.
    np.testing.assert_array_equal(half["label"], native["label"][:, 1::2, 1::2])
    for small, large in zip(half["depth"], native["depth"][:, :, 1::2, 1::2], strict=True):
        span = large.max() - large.min()
        np.testing.assert_allclose(small, (large - large.min()) / span, atol=1e-6)
    odd = open_real(nyu, (96, 224)).read(part)
    for row in range(2):
        assert set(np.unique(odd["label"][row])) <= set(np.unique(native["label"][row]))
    # Colour is averaged over the pixels that become one, so that the means are unchanged.
    means = (odd["image"].mean(axis=(2, 3)), native["image"].mean(axis=(2, 3)))
    np.testing.assert_allclose(*means, atol=0.005)


def test_a_sample_does_not_depend_on_the_samples_read_with_it(real: NYUDepthV2Folders) -> None:
    four, two = real.read(real.index[:4]), real.read(real.index[2:4])
    for name in four:
        np.testing.assert_array_equal(four[name][2:4], two[name])


def test_the_real_mapping_has_a_class_for_each_raw_label(nyu: Path) -> None:
    classes = read_mapping(nyu / "meta_mat" / "classMapping40.mat", Path("labelled.mat"))
    assert classes.shape == (895,)
    assert classes[0] == 0
    assert set(classes[1:]) == set(range(1, 41))
