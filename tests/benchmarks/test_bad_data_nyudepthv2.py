"""Damaged files of NYU-Depth-V2: the publisher's files, and folders of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
import scipy.io
from PIL import Image

from damaged_sets import (
    BENCHMARKS,
    Case,
    Damage,
    DamageTests,
    RawSet,
    append,
    replace_by_broken_link,
    truncate,
    write_png_bomb,
)
from raw_sets import (
    COUNT,
    NYU_SCENES,
    H,
    W,
    nyu_arrays,
    write_mat,
    write_nyu_folders,
    write_nyu_mapping,
    write_nyu_mat,
    write_nyu_splits,
)


def rewrite_mat(**changes: np.ndarray) -> Damage:
    """Write the labelled file again with other arrays."""
    return lambda path: write_mat(path, {**nyu_arrays(), **changes}, NYU_SCENES)


def changed_array(name: str, where: Any, value: Any, dtype: Any = None) -> np.ndarray:
    """Return an array of the labelled file in which some values are changed."""
    values = nyu_arrays()[name].astype(dtype) if dtype else nyu_arrays()[name]
    values[where] = value
    return values


def edit_hdf5(change: Callable[[h5py.File], object]) -> Damage:
    """Change an HDF5 file in place."""

    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return damage


def overwrite_image(values: np.ndarray) -> Damage:
    """Replace an image by other pixels, in the format of its name."""
    return lambda path: Image.fromarray(values).save(path)


def write_gif_header(path: Path) -> None:
    """Write a gif whose header states 65,535 x 65,535 pixels, without data."""
    path.write_bytes(b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00")


NYU_MAT = RawSet(
    write_nyu_mat,
    f"{BENCHMARKS}.nyudepthv2.NYUDepthV2Mat",
    {"mat": "labeled.mat", "splits": "splits.mat", "mapping": "mapping.mat"},
    {"size": (H, W)},
)
NYU_FOLDERS = RawSet(
    write_nyu_folders,
    f"{BENCHMARKS}.nyudepthv2.NYUDepthV2Folders",
    {"images": "images", "depths": "depths", "labels": "labels", "lists": ""},
    {"size": (H, W)},
)


SETS = {"nyudepthv2_mat": NYU_MAT, "nyudepthv2_folders": NYU_FOLDERS}

CASES: Mapping[str, Case] = MappingProxyType(
    {
        "nyudepthv2_mat: truncated": Case(
            NYU_MAT, "labeled.mat", truncate, ["not a complete HDF5 file"]
        ),
        "nyudepthv2_mat: group in place of an array": Case(
            NYU_MAT,
            "labeled.mat",
            edit_hdf5(lambda file: (file.pop("depths"), file.create_group("depths"))),
            ["'depths'", "not an array"],
        ),
        "nyudepthv2_mat: colour of two bytes": Case(
            NYU_MAT,
            "labeled.mat",
            rewrite_mat(images=nyu_arrays()["images"].astype(np.uint16)),
            ["'images' is uint16", "uint8"],
        ),
        "nyudepthv2_mat: depth of complex numbers": Case(
            NYU_MAT,
            "labeled.mat",
            rewrite_mat(depths=nyu_arrays()["depths"].astype(complex)),
            ["'depths' is complex128"],
        ),
        "nyudepthv2_mat: negative label": Case(
            NYU_MAT,
            "labeled.mat",
            rewrite_mat(labels=changed_array("labels", (4, 3, 3), -1, np.int16)),
            ["image 5", "label -1"],
            "0005",
        ),
        "nyudepthv2_mat: label beyond the mapping": Case(
            NYU_MAT,
            "labeled.mat",
            rewrite_mat(labels=changed_array("labels", (4, 3, 3), 6)),
            ["image 5", "label 6", "ends at 5"],
            "0005",
        ),
        "nyudepthv2_mat: fractional label": Case(
            NYU_MAT,
            "labeled.mat",
            rewrite_mat(labels40=changed_array("labels", (4, 3, 3), 2.5, np.float64)),
            ["image 5", "label 2.5", "whole number"],
            "0005",
        ),
        "nyudepthv2_mat: NaN in depth": Case(
            NYU_MAT,
            "labeled.mat",
            rewrite_mat(depths=changed_array("depths", (9, 1, 1), np.nan)),
            ["image 10", "depth", "NaN or infinity"],
            "0010",
        ),
        "nyudepthv2_mat: constant depth": Case(
            NYU_MAT,
            "labeled.mat",
            rewrite_mat(depths=changed_array("depths", 9, 0)),
            ["image 10", "depth is 0.0 in all pixels"],
            "0010",
        ),
        "nyudepthv2_mat: kinds of rooms that are not references": Case(
            NYU_MAT,
            "labeled.mat",
            edit_hdf5(
                lambda file: (
                    file.pop("sceneTypes"),
                    file.create_dataset("sceneTypes", data=np.arange(COUNT)),
                )
            ),
            ["'sceneTypes'"],
        ),
        "nyudepthv2_mat: an image in two splits": Case(
            NYU_MAT,
            "splits.mat",
            lambda path: scipy.io.savemat(
                path, {"trainNdxs": np.arange(1, 8), "testNdxs": np.arange(7, 12)}
            ),
            ["image 7", "each once"],
        ),
        "nyudepthv2_mat: a split of text": Case(
            NYU_MAT,
            "splits.mat",
            lambda path: scipy.io.savemat(path, {"trainNdxs": ["a", "b"], "testNdxs": [1]}),
            ["'trainNdxs'", "whole numbers"],
        ),
        "nyudepthv2_mat: a split of fractions": Case(
            NYU_MAT,
            "splits.mat",
            lambda path: scipy.io.savemat(
                path, {"trainNdxs": np.arange(1, 8) + 0.5, "testNdxs": np.arange(8, 12)}
            ),
            ["'trainNdxs'", "whole numbers"],
        ),
        "nyudepthv2_mat: a mapping of text": Case(
            NYU_MAT,
            "mapping.mat",
            lambda path: scipy.io.savemat(path, {"mapClass": ["wall", "bed"]}),
            ["'mapClass'", "whole numbers"],
        ),
        "nyudepthv2_mat: a mapping to class 41": Case(
            NYU_MAT,
            "mapping.mat",
            lambda path: write_nyu_mapping(path, [1, 41]),
            ["1 to 41, not 1 to 40"],
        ),
        "nyudepthv2_mat: fewer images in the split": Case(
            NYU_MAT,
            "splits.mat",
            lambda path: write_nyu_splits(path, count=COUNT - 1),
            ["image 11", "each once"],
        ),
        "nyudepthv2_folders: label out of range": Case(
            NYU_FOLDERS,
            "labels/0003.png",
            overwrite_image(np.full((H, W), 41, np.uint8)),
            ["labels are 41 to 41", "0 to 40"],
            "0003",
        ),
        "nyudepthv2_folders: colours in place of labels": Case(
            NYU_FOLDERS,
            "labels/0003.png",
            overwrite_image(np.zeros((H, W, 3), np.uint8)),
            ["RGB, not one channel"],
            "0003",
        ),
        "nyudepthv2_folders: depth of another shape": Case(
            NYU_FOLDERS,
            "depths/0003.png",
            overwrite_image(np.zeros((W, H), np.uint16)),
            ["6 x 8", "8 x 6"],
            "0003",
        ),
        "nyudepthv2_folders: labels as JPEG": Case(
            NYU_FOLDERS,
            "labels/0003.png",
            lambda path: Image.new("L", (W, H), 3).save(path, "JPEG"),
            ["is JPEG", "lossless: PNG"],
            "0003",
        ),
        "nyudepthv2_folders: constant depth": Case(
            NYU_FOLDERS,
            "depths/0003.png",
            overwrite_image(np.full((H, W), 65_535, np.uint16)),
            ["depth is 65535.0 in all pixels"],
            "0003",
        ),
        "nyudepthv2_folders: constant colour": Case(
            NYU_FOLDERS,
            "images/0003.jpg",
            overwrite_image(np.full((H, W, 3), 16, np.uint8)),
            [r"colour is \[16, 16, 16\] in all pixels"],
            "0003",
        ),
        "nyudepthv2_folders: depth with a palette": Case(
            NYU_FOLDERS,
            "depths/0003.png",
            lambda path: Image.new("P", (W, H)).save(path),
            ["has a palette", "8 or 16 bits of grey"],
            "0003",
        ),
        "nyudepthv2_folders: image bomb": Case(
            NYU_FOLDERS, "depths/0003.png", write_png_bomb, ["100000000 pixels"], "0003"
        ),
        "nyudepthv2_folders: gigapixels in the header of a gif": Case(
            NYU_FOLDERS, "images/0003.jpg", write_gif_header, ["no image|pixels"], "0003"
        ),
        "nyudepthv2_folders: missing depth map": Case(
            NYU_FOLDERS,
            "depths/0003.png",
            Path.unlink,
            ["no depth map or no label map"],
            "0003",
            named="images",
        ),
        "nyudepthv2_folders: broken link": Case(
            NYU_FOLDERS, "images/0003.jpg", replace_by_broken_link, ["broken link"]
        ),
        "nyudepthv2_folders: id in two splits": Case(
            NYU_FOLDERS, "train.txt", append("9"), ["image 9", "test.txt"]
        ),
        "nyudepthv2_folders: repeated id": Case(
            NYU_FOLDERS, "train.txt", append("0004"), ["line 9", "appears twice"]
        ),
        "nyudepthv2_folders: not UTF-8": Case(
            NYU_FOLDERS, "test.txt", append(b"caf\xe9"), ["line 5", "not UTF-8"]
        ),
        "nyudepthv2_folders: number of five thousand digits": Case(
            NYU_FOLDERS, "test.txt", append("9" * 5000), ["line 5", "not a number"]
        ),
        "nyudepthv2_folders: path with ..": Case(
            NYU_FOLDERS, "train.txt", append("../labels/0003"), ["line 9", "not a number"]
        ),
    }
)


class TestDamage(DamageTests):
    cases = CASES
    sets = SETS
