"""NYU-Depth-V2: rooms in colour and depth, a class for every pixel (Silberman et al., 2012)."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mst_distill.benchmarks.nyudepthv2_mat import LabelledMat, read_official_split
from mst_distill.benchmarks.raw_files import find_files, read_text
from mst_distill.benchmarks.source import Protocol, SampleSource, damaged, refuse_too_many
from mst_distill.benchmarks.splits import SHARES
from mst_distill.media.images import (
    check_lossless,
    decode_image,
    format_of,
    is_plain,
    orientation_of,
    to_depth,
    to_labels,
    to_rgb,
)
from mst_distill.media.unit_scale import scale_to_unit

CLASSES = (
    *("void", "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window"),
    *("bookshelf", "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser"),
    *("pillow", "mirror", "floor mat", "clothes", "ceiling", "books", "refrigerator", "television"),
    *("paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand", "toilet"),
    *("sink", "lamp", "bathtub", "bag", "other structure", "other furniture", "other prop"),
)
"""Gupta, Arbelaez, Malik, "Perceptual Organization and Recognition of Indoor Scenes from RGB-D
Images", CVPR 2013; 0 is a pixel that nobody labelled."""

_MOST_DIGITS = 9
"""Of an image's number."""

SIZE = (480, 640)
"""Height and width of the publisher's images."""

log = logging.getLogger(__name__)


class NYUDepthV2(SampleSource):
    """1,449 images of rooms; what their two forms on disk have in common.

    Colour is scaled from 8 bits to [0, 1]: in any part of the set each channel's minimum and
    maximum are 0 and 255, so nothing has to be fitted. Depth is scaled to [0, 1] for each image.

    The leak-free split keeps the publisher's test images and takes a quarter of its training images
    for validation. Images of one room follow one another, so runs of images of one kind without a
    gap, the groups, are dealt as a whole.

    Args:
        numbers: The numbers of all images of the official split, ascending.
        train: Whether each is one of the publisher's training images.
        there: Whether each is to be a sample. Groups are counted over all: an image that is not
            there does not part the room that it shows.
        size: Height and width that all is brought to, multiples of 32 for FuseNet.
        split_seed: Decides which training images validate; fixed, so that seeds of a run share it.
        tolerated_share: How much of all images may be damaged or incomplete, in [0, 1).

    Raises:
        ValueError: `size` is no pair of numbers above 0, or there are fewer than two groups of
            training images.
    """

    classes = CLASSES
    ignored_label = 0

    def __init__(
        self,
        numbers: np.ndarray,
        train: np.ndarray,
        there: np.ndarray,
        size: Sequence[int],
        split_seed: int,
        tolerated_share: float,
    ) -> None:
        whole = isinstance(size, Sequence) and all(isinstance(n, int) and n > 0 for n in size)
        if not whole or len(size) != 2:
            raise ValueError(f"size is {size}; it must be a height and a width, such as {SIZE}")
        self._size = (size[0], size[1])
        self.tolerated_share = tolerated_share
        groups = _first_of_run(numbers, train)[there]
        rng = np.random.default_rng(split_seed)
        self.index = pd.DataFrame(
            {
                "id": [f"{number:04d}" for number in numbers[there]],
                "group": [f"from-{first:04d}" for first in groups],
                "split": _hold_out_valid(groups, train[there], rng),
                "label": -1,
                "number": numbers[there],
            }
        )

    @abstractmethod
    def frame(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Colour ``(H, W, 3)`` bytes, depth ``(H, W)``, classes ``(H, W)`` bytes, of one image.

        Raises:
            OSError, ValueError: It cannot be read; the message names the file.
        """

    @abstractmethod
    def places(self, number: int) -> tuple[str, str, str]:
        """Where colour, depth and classes of one image are, for errors."""

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Image ``(n, 3, H, W)`` and depth ``(n, 1, H, W)`` in [0, 1], label ``(n, H, W)``."""
        frames = [self._resized(*sample) for sample in zip(part["id"], part["number"], strict=True)]
        image, depth, label = map(np.stack, zip(*frames, strict=True))
        return {
            "image": np.moveaxis(image, -1, 1) / np.float32(255),
            "depth": scale_to_unit(depth.astype(np.float32))[:, None],
            "label": label,
        }

    def _resized(self, sample: str, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with damaged(sample):
            image, depth, label = self.frame(number)
            of_image, of_depth, of_label = self.places(number)
            for where, map_ in ((of_depth, depth), (of_label, label)):
                _check_sides(where, map_, image)
            if not np.isfinite(depth).all():
                raise ValueError(f"{of_depth}: depth holds NaN or infinity")
            if label.min() < 0 or label.max() >= len(CLASSES):
                found = f"{label.min()} to {label.max()}"
                raise ValueError(f"{of_label}: labels are {found}; they must be 0 to 40")
            nearest = Image.Resampling.NEAREST  # between two objects is no depth and no class
            image = _resize(image, self._size, Image.Resampling.BILINEAR)
            depth = _resize(depth.astype(np.float32), self._size, nearest)
            _check_varies(of_image, "colour", image)
            _check_varies(of_depth, "depth", depth)
        return image, depth, _resize(label.astype(np.uint8), self._size, nearest)


class NYUDepthV2Mat(NYUDepthV2):
    """NYU-Depth-V2 from the publisher's labelled file, never in memory as a whole.

    Args:
        protocol: Without effect here: nothing is fitted.
        mat: ``nyu_depth_v2_labeled.mat``.
        splits: ``splits.mat``, the official 795 / 654.
        mapping: ``classMapping40.mat``; not needed where the file has ``labels40``.
        size: As in `NYUDepthV2`.
        split_seed: As in `NYUDepthV2`.
        tolerated_share: As in `NYUDepthV2`.

    Raises:
        FileNotFoundError: A file is missing; says what to put there.
        ValueError: A file is damaged or does not fit; the message names file and key.
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
        """One image of the file."""
        return self._labelled.read(number - 1)

    def places(self, number: int) -> tuple[str, str, str]:
        """The same for all."""
        where = f"{self.files[0]}, image {number}"
        return where, where, where


class NYUDepthV2Folders(NYUDepthV2):
    """NYU-Depth-V2 from folders of images, named ``NNNN`` by their number in the publisher's file.

    All three of an image are brought upright as their EXIF says.

    Args:
        protocol: Without effect here: nothing is fitted.
        images: Folder of colour images, jpg or png.
        depths: Folder of depth maps, one channel of 8 or 16 bits in any unit; png, for jpg, which
            is taken with a warning, blurs depth at edges.
        labels: Folder of label maps as png, the classes 0 to 40 as grey values or palette indices.
            An image whose labels are in another format, whatever their name, is left out.
        lists: Folder of ``train.txt`` and ``test.txt``, a number a line: the official split. Of its
            images those are used whose colour is there.
        size: As in `NYUDepthV2`.
        split_seed: As in `NYUDepthV2`.
        tolerated_share: As in `NYUDepthV2`.

    Raises:
        FileNotFoundError: A folder or list is missing, or a folder holds no image.
        ValueError: A line is no number or stands twice, an image is in no list, or too many images
            lack depth or lossless labels, or those that are there are too few; the message names
            file and line.
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
        self._folders = [_images_in(Path(folder)) for folder in (images, depths)]
        self._folders.append(_images_in(Path(labels), "NNNN.png"))
        train, test = (_read_list(Path(lists) / f"{part}.txt") for part in ("train", "test"))
        if both := sorted(set(train) & set(test)):
            raise ValueError(f"{lists}: image {both[0]} is in train.txt and in test.txt")
        if lost := sorted(set(self._folders[0]) - {*train, *test}):
            raise ValueError(f"{lists}: image {lost[0]} of {images} is in neither list")
        lossy = _lossy_labels(self._folders[2])
        whole = [
            n for n in self._folders[0] if all(n in f for f in self._folders) and n not in lossy
        ]
        self.omitted = {
            f"{number:04d}": lossy.get(
                number, f"it has an image in {images}, but no depth or no labels"
            )
            for number in sorted(set(self._folders[0]) - set(whole))
        }
        refuse_too_many(self.omitted, len(self._folders[0]), tolerated_share)
        numbers = np.array(sorted([*train, *test]))
        in_train, there = np.isin(numbers, train), np.isin(numbers, whole)
        super().__init__(numbers, in_train, there, size, split_seed, tolerated_share)
        self.files = [folder[number] for folder in self._folders for number in whole]
        _warn_of_lossy_depth(self._folders[1][number] for number in whole)

    def frame(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One image, depth map and label map."""
        image, depth, label = (decode_image(folder[number]) for folder in self._folders)
        for where, map_ in zip(self.places(number)[1:], (depth, label), strict=True):
            _check_orientation(where, map_, image)
        return np.asarray(to_rgb(image)), to_depth(depth), to_labels(label)

    def places(self, number: int) -> tuple[str, str, str]:
        """A file each."""
        image, depth, label = (str(folder[number]) for folder in self._folders)
        return image, depth, label


def _check_sides(where: str, map_: np.ndarray, image: np.ndarray) -> None:
    """Refuse a map that could be laid over the image only by distorting it."""
    (height, width), (rows, columns) = image.shape[:2], map_.shape
    if rows * width != columns * height:
        raise ValueError(
            f"{where}: {columns} x {rows} pixels, the image {width} x {height}; their sides must "
            f"have one ratio"
        )


def _check_orientation(where: str, map_: Image.Image, image: Image.Image) -> None:
    """Refuse a map of which nobody can tell which of its pixels shows which of the image's.

    It may be stored upright where the image has to be turned a quarter: the sides tell. They tell
    nothing where both are stored alike and one of them is to be turned alone.
    """
    of_map, of_image = orientation_of(map_), orientation_of(image)
    width, height = image.size
    if of_map != of_image and map_.width * height == map_.height * width:
        raise ValueError(
            f"{where}: has the EXIF orientation {of_map}, the image {of_image}, and their sides do "
            f"not tell which is meant: store both upright, or give both the same orientation"
        )


def _check_varies(where: str, what: str, pixels: np.ndarray) -> None:
    """Refuse a map or image ``(H, W, ...)`` with the same numbers in all its pixels."""
    if is_plain(pixels):
        raise ValueError(
            f"{where}: {what} is {pixels[0, 0].tolist()} in all pixels, which tells nothing of the "
            f"room"
        )


def _lossy_labels(labels: Mapping[int, Path]) -> dict[int, str]:
    """Say of every label map that is in a lossy format what is wrong with it."""
    lossy: dict[int, str] = {}
    for number, file in labels.items():
        try:
            check_lossless(file)
        except ValueError as error:
            lossy[number] = str(error)
    return lossy


def _warn_of_lossy_depth(depths: Iterable[Path]) -> None:
    """Say that depth has lost something, but take it: it is an input, a little noisy, no target.

    Of the publisher's maps, JPEG at quality 75 moves a pixel's depth by 0.3 % of the range on
    average and by up to 15 % at an edge; it changes the class of 11 % of the pixels.
    """
    if lossy := [file for file in depths if format_of(file) not in ("PNG", None)]:
        log.warning(
            "%s and %d more depth maps are no PNG: JPEG has blurred depth at the edges of objects; "
            "take the PNGs that they were made of if there are any",
            lossy[0],
            len(lossy) - 1,
        )


def _first_of_run(numbers: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The first number of each image's run: a run ends at a gap, and where `train` changes."""
    starts = (np.diff(numbers, prepend=-2) != 1) | np.diff(train, prepend=False)
    first: np.ndarray = numbers[starts][np.cumsum(starts) - 1]
    return first


def _hold_out_valid(groups: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Split names: whole training groups validate until they are their share of the images."""
    dealt = rng.permutation(np.unique(groups[train]))
    if len(dealt) < 2:
        raise ValueError(
            f"the {train.sum()} training images of the official split that are there form "
            f"{len(dealt)} groups of adjacent numbers: at least 2 are needed, one to train and one "
            f"to validate"
        )
    split = np.where(train, "train", "test").astype(object)
    # Of what does not test, as much as where there is no official split.
    wanted = SHARES["valid"] / (SHARES["train"] + SHARES["valid"]) * train.sum()
    for group in dealt[:-1]:  # something has to train, however large the last one is
        if (split == "valid").sum() >= wanted:
            break
        split[groups == group] = "valid"
    return split


def _resize(image: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], how))


def _images_in(folder: Path, what: str = "NNNN.jpg or .png") -> dict[int, Path]:
    """The images of a folder by number, in the order of their numbers; `what` belongs there."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.absolute()} is no folder: put {what} there")
    files = [f for f in find_files(folder, (".jpg", ".png")) if f.parent == folder]
    for file in files:
        if not file.stem.isdecimal() or len(file.stem) > _MOST_DIGITS:
            raise ValueError(
                f"{file}: the name is no number of at most {_MOST_DIGITS} digits, as NNNN"
            )
    if not files:
        raise FileNotFoundError(f"{folder.absolute()} holds no image: put {what} there")
    images: dict[int, Path] = {}
    for file in files:
        if (other := images.setdefault(int(file.stem), file)) != file:
            raise ValueError(f"{file} has the number of {other.name}: remove one of them")
    return images


def _read_list(path: Path) -> list[int]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} is missing: one number a line, official split")
    numbers: list[int] = []
    for row, line in enumerate(map(str.strip, read_text(path).splitlines()), start=1):
        if not line:
            continue
        if not line.isdecimal() or len(line) > _MOST_DIGITS:
            raise ValueError(
                f"{path}, line {row}: {line[:40]!r} is no number of at most {_MOST_DIGITS} digits"
            )
        if int(line) in numbers:
            raise ValueError(f"{path}, line {row}: {line} stands twice")
        numbers.append(int(line))
    return numbers
