"""NYU-Depth-V2: images of rooms with depth and a class for each pixel (Silberman et al., 2012)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mst_distill.benchmarks.nyudepthv2_folders import (
    find_lossy_labels,
    images_by_number,
    read_numbers,
    warn_of_lossy_depth,
)
from mst_distill.benchmarks.nyudepthv2_mat import LabelledMat, read_official_split
from mst_distill.benchmarks.reader_source import ReaderSource
from mst_distill.benchmarks.source import Protocol, damaged, refuse_too_many
from mst_distill.benchmarks.splits import SHARES
from mst_distill.media.depth_images import ColourImage, DepthMap, resize
from mst_distill.media.images import (
    decode_image,
    orientation_of,
    to_depth,
    to_labels,
    to_rgb,
)

CLASSES = (
    *("void", "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window"),
    *("bookshelf", "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser"),
    *("pillow", "mirror", "floor mat", "clothes", "ceiling", "books", "refrigerator", "television"),
    *("paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand", "toilet"),
    *("sink", "lamp", "bathtub", "bag", "other structure", "other furniture", "other prop"),
)
"""The 40 classes of Gupta, Arbelaez and Malik, "Perceptual Organization and Recognition of Indoor
Scenes from RGB-D Images", CVPR 2013; class 0 marks unlabelled pixels."""

SIZE = (480, 640)
"""Height and width of the publisher's images."""


class NYUDepthV2(ReaderSource):
    """1,449 images of rooms: what the two forms on disk have in common.

    Colour is scaled from 8 bits to [0, 1]. Nothing has to be fitted, because the minimum and the
    maximum of each channel are 0 and 255 in any subset. Depth is scaled to [0, 1] for each image.

    The leak-free split keeps the publisher's test images and uses a quarter of its training images
    for validation. Images of one room have consecutive numbers. Therefore each run of consecutive
    training or test images is a group, and each group is in one split.

    Args:
        numbers: ``(N,)`` numbers of all images of the official split, ascending.
        train: ``(N,)``, whether each image is one of the publisher's training images.
        available: ``(N,)``, whether each image becomes a sample. The groups are formed over all
            images, so that a missing image does not divide the images of its room.
        size: Height and width to which all images are resized, multiples of 32 for FuseNet.
        split_seed: Seed of the choice of validation images. It does not depend on the seed of the
            run, so that runs with different seeds use the same split.
        tolerated_share: Maximum share of all images that may be damaged or incomplete, in [0, 1).

    Raises:
        ValueError: `size` is not a pair of positive integers, or there are fewer than two groups of
            training images.
    """

    classes = CLASSES
    ignored_label = 0

    def __init__(
        self,
        numbers: np.ndarray,
        train: np.ndarray,
        available: np.ndarray,
        size: Sequence[int],
        split_seed: int,
        tolerated_share: float,
    ) -> None:
        # Image (3, H, W) and depth (1, H, W), both in [0, 1].
        self.readers = {"image": ColourImage(size), "depth": DepthMap(size)}
        self.tolerated_share = tolerated_share
        groups = _first_of_run(numbers, train)[available]
        rng = np.random.default_rng(split_seed)
        self.index = pd.DataFrame(
            {
                "id": [f"{number:04d}" for number in numbers[available]],
                "group": [f"from-{first:04d}" for first in groups],
                "split": _hold_out_valid(groups, train[available], rng),
                "label": -1,
                "number": numbers[available],
            }
        )

    @abstractmethod
    def frame(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read one image: colour ``(H, W, 3)`` bytes, depth ``(H, W)``, classes ``(H, W)`` bytes.

        Args:
            number: The number of the image.

        Raises:
            OSError, ValueError: The image cannot be read; the message names the file.
        """

    @abstractmethod
    def locations(self, number: int) -> tuple[str, str, str]:
        """Return where the colour, depth and classes of one image are, for errors."""

    def values(self, modality: str, part: pd.DataFrame) -> Sequence[np.ndarray]:
        """Return the colours ``(H, W, 3)`` or the depths ``(H, W)`` of some images."""
        position = list(self.readers).index(modality)
        return [self.frame(number)[position] for number in part["number"]]

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return image ``(n, 3, H, W)``, depth ``(n, 1, H, W)`` and label ``(n, H, W)``."""
        frames = [self._read(*sample) for sample in zip(part["id"], part["number"], strict=True)]
        return {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}

    def _read(self, sample: str, number: int) -> dict[str, np.ndarray]:
        """Read one image with its labels, which must belong to one another."""
        with damaged(sample):
            image, depth, label = self.frame(number)
            where = self.locations(number)
            for at, map_ in ((where[1], depth), (where[2], label)):
                _check_aspect_ratio(at, map_, image)
            if label.min() < 0 or label.max() >= len(CLASSES):
                found = f"{label.min()} to {label.max()}"
                raise ValueError(f"{where[2]}: labels are {found}; they must be 0 to 40")
            read = {}
            for name, value, at in zip(("image", "depth"), (image, depth), where, strict=False):
                try:
                    read[name], _ = self.readers[name].read_one(value)
                except ValueError as error:
                    raise ValueError(f"{at}: {error}") from error
            size = read["depth"].shape[1:]
            labels = resize(label.astype(np.uint8), size, Image.Resampling.NEAREST)
        return {**read, "label": labels}


class NYUDepthV2Mat(NYUDepthV2):
    """NYU-Depth-V2 from the publisher's labelled file, which is read image by image.

    Args:
        protocol: Has no effect, because nothing is fitted.
        mat: ``nyu_depth_v2_labeled.mat``.
        splits: ``splits.mat``, the official split of 795 training and 654 test images.
        mapping: ``classMapping40.mat``; not needed if `mat` contains ``labels40``.
        size: See `NYUDepthV2`.
        split_seed: See `NYUDepthV2`.
        tolerated_share: See `NYUDepthV2`.

    Raises:
        FileNotFoundError: A file is missing; the message states which file belongs there.
        ValueError: A file is damaged or invalid; the message names the file and the key.
    """

    def __init__(
        self,
        protocol: Protocol,
        mat: str,
        splits: str,
        mapping: str | None = None,
        size: Sequence[int] = SIZE,
        split_seed: int = 0,
        tolerated_share: float = 0.0,
    ) -> None:
        self._labelled = LabelledMat(Path(mat), Path(mapping) if mapping else None)
        train = read_official_split(Path(splits), len(self._labelled))
        numbers = np.arange(1, len(train) + 1)
        super().__init__(numbers, train, np.ones_like(train), size, split_seed, tolerated_share)
        self.files = [Path(mat), Path(splits), *([Path(mapping)] if mapping else [])]
        if any(scenes := self._labelled.scene_types()):
            self.index["source"] = scenes

    def frame(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read one image from the file."""
        return self._labelled.read(number - 1)

    def locations(self, number: int) -> tuple[str, str, str]:
        """Return the same location three times, because one file contains all arrays."""
        where = f"{self.files[0]}, image {number}"
        return where, where, where


class NYUDepthV2Folders(NYUDepthV2):
    """NYU-Depth-V2 from folders of images; a file is named ``NNNN``, its number in `NYUDepthV2Mat`.

    Image, depth map and label map are rotated upright by their EXIF orientation.

    Args:
        protocol: Has no effect, because nothing is fitted.
        images: Folder of colour images, jpg or png.
        depths: Folder of depth maps with one channel of 8 or 16 bits in any unit. They should be
            png: jpg blurs the depth at edges and is accepted with a warning.
        labels: Folder of label maps as png, with the classes 0 to 40 as grey values or palette
            indices. An image whose label map has another format, whatever its file name, is
            omitted.
        lists: Folder of ``train.txt`` and ``test.txt``, the official split with one number on each
            line. The images in this split that have a colour image are used.
        size: See `NYUDepthV2`.
        split_seed: See `NYUDepthV2`.
        tolerated_share: See `NYUDepthV2`.

    Raises:
        FileNotFoundError: A folder or list is missing, or a folder contains no image.
        ValueError: A line is not a number or appears twice, an image is in no list or in both, too
            many images lack depth or lossless labels, or too few training images remain; the
            message names the file and the line.
    """

    def __init__(
        self,
        protocol: Protocol,
        images: str,
        depths: str,
        labels: str,
        lists: str,
        size: Sequence[int] = SIZE,
        split_seed: int = 0,
        tolerated_share: float = 0.0,
    ) -> None:
        self._folders = [images_by_number(Path(folder)) for folder in (images, depths)]
        self._folders.append(images_by_number(Path(labels), "NNNN.png"))
        train, test = (read_numbers(Path(lists) / f"{split}.txt") for split in ("train", "test"))
        if both := sorted(set(train) & set(test)):
            raise ValueError(f"{lists}: image {both[0]} is in both train.txt and test.txt")
        if unlisted := sorted(set(self._folders[0]) - {*train, *test}):
            raise ValueError(f"{lists}: image {unlisted[0]} of {images} is in neither list")
        lossy = find_lossy_labels(self._folders[2])
        complete = [
            n for n in self._folders[0] if all(n in f for f in self._folders) and n not in lossy
        ]
        self.omitted = {
            f"{number:04d}": lossy.get(
                number, f"it has an image in {images}, but no depth map or no label map"
            )
            for number in sorted(set(self._folders[0]) - set(complete))
        }
        refuse_too_many(self.omitted, len(self._folders[0]), tolerated_share)
        numbers = np.array(sorted([*train, *test]))
        in_train, available = np.isin(numbers, train), np.isin(numbers, complete)
        super().__init__(numbers, in_train, available, size, split_seed, tolerated_share)
        self.files = [folder[number] for folder in self._folders for number in complete]
        warn_of_lossy_depth(self._folders[1][number] for number in complete)

    def frame(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read one image with its depth map and label map."""
        image, depth, label = (decode_image(folder[number]) for folder in self._folders)
        for where, map_ in zip(self.locations(number)[1:], (depth, label), strict=True):
            _check_orientation(where, map_, image)
        return np.asarray(to_rgb(image)), to_depth(depth), to_labels(label)

    def locations(self, number: int) -> tuple[str, str, str]:
        """Return the three files of an image."""
        image, depth, label = (str(folder[number]) for folder in self._folders)
        return image, depth, label


def _check_aspect_ratio(where: str, map_: np.ndarray, image: np.ndarray) -> None:
    """Raise an error for a map that would have to be distorted to cover the image."""
    (height, width), (rows, columns) = image.shape[:2], map_.shape
    if rows * width != columns * height:
        raise ValueError(
            f"{where}: {columns} x {rows} pixels, but the image has {width} x {height}; their "
            f"aspect ratios must be equal"
        )


def _check_orientation(where: str, map_: Image.Image, image: Image.Image) -> None:
    """Raise an error if it is unclear which pixel of the map belongs to which pixel of the image.

    A map may be stored upright although its image has to be rotated by 90 degrees: the aspect
    ratios differ then, which shows that the orientations are correct. If the stored aspect ratios
    are equal and the orientations are not, either of the two may be wrong.
    """
    map_orientation, image_orientation = orientation_of(map_), orientation_of(image)
    width, height = image.size
    if map_orientation != image_orientation and map_.width * height == map_.height * width:
        raise ValueError(
            f"{where}: has the EXIF orientation {map_orientation}, but the image has "
            f"{image_orientation}, and their equal aspect ratios do not show which is correct: "
            f"store both upright, or give both the same orientation"
        )


def _first_of_run(numbers: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return for each image the first number of its run.

    A run ends at a gap in the numbers and where `train` changes.
    """
    starts = (np.diff(numbers, prepend=-2) != 1) | np.diff(train, prepend=False)
    first: np.ndarray = numbers[starts][np.cumsum(starts) - 1]
    return first


def _hold_out_valid(groups: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return split names: whole training groups become ``valid`` until they reach their share.

    Args:
        groups: ``(n,)`` group of each image.
        train: ``(n,)``, whether each image is one of the publisher's training images.
        rng: Generator of the order in which the groups are taken.
    """
    order = rng.permutation(np.unique(groups[train]))
    if len(order) < 2:
        raise ValueError(
            f"the {train.sum()} available training images of the official split form {len(order)} "
            f"groups of consecutive numbers: at least 2 are needed, one for training and one for "
            f"validation"
        )
    split = np.where(train, "train", "test").astype(object)
    # The same share of the training images as in a split 60 / 20 / 20.
    target = SHARES["valid"] / (SHARES["train"] + SHARES["valid"]) * train.sum()
    for group in order[:-1]:  # the last group always remains for training
        if (split == "valid").sum() >= target:
            break
        split[groups == group] = "valid"
    return split
