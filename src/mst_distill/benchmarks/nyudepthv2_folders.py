"""Reading the folder form of NYU-Depth-V2: numbered images, and lists of their numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from mst_distill.benchmarks.raw_files import find_files, read_text
from mst_distill.media.images import check_lossless, format_of

_MOST_DIGITS = 9
"""Maximum number of digits of an image number."""

log = logging.getLogger(__name__)


def images_by_number(folder: Path, contents: str = "NNNN.jpg or .png") -> dict[int, Path]:
    """Return the images in a folder by their number, sorted by file name.

    Args:
        folder: The folder; its subfolders are not searched.
        contents: Files that belong there, for the error.

    Raises:
        FileNotFoundError: The folder is missing or contains no image.
        ValueError: The name of an image is not a number, or two images have the same number; the
            message names the files.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.absolute()} is not a folder: put {contents} there")
    files = [f for f in find_files(folder, (".jpg", ".png")) if f.parent == folder]
    for file in files:
        if not file.stem.isdecimal() or len(file.stem) > _MOST_DIGITS:
            raise ValueError(
                f"{file}: the name is not a number of at most {_MOST_DIGITS} digits, such as 0001"
            )
    if not files:
        raise FileNotFoundError(f"{folder.absolute()} contains no image: put {contents} there")
    images: dict[int, Path] = {}
    for file in files:
        if (other := images.setdefault(int(file.stem), file)) != file:
            raise ValueError(f"{file} has the same number as {other.name}: remove one of them")
    return images


def read_numbers(path: Path) -> list[int]:
    """Read the image numbers from a list of the official split, one number on each line.

    Raises:
        FileNotFoundError: The list is missing.
        ValueError: A line is not a number, or a number appears twice; the message names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.absolute()} is missing: it lists the official split, one number on each line"
        )
    numbers: list[int] = []
    for row, line in enumerate(map(str.strip, read_text(path).splitlines()), start=1):
        if not line:
            continue
        if not line.isdecimal() or len(line) > _MOST_DIGITS:
            raise ValueError(
                f"{path}, line {row}: {line[:40]!r} is not a number of at most {_MOST_DIGITS} "
                f"digits"
            )
        if int(line) in numbers:
            raise ValueError(f"{path}, line {row}: {line} appears twice")
        numbers.append(int(line))
    return numbers


def find_lossy_labels(labels: Mapping[int, Path]) -> dict[int, str]:
    """Return the numbers of the label maps in a lossy format, each with an error message."""
    lossy: dict[int, str] = {}
    for number, file in labels.items():
        try:
            check_lossless(file)
        except ValueError as error:
            lossy[number] = str(error)
    return lossy


def warn_of_lossy_depth(depths: Iterable[Path]) -> None:
    """Warn about depth maps in a lossy format.

    They are accepted, because depth is an input and not a target, and the error is small. On the
    publisher's maps, JPEG at quality 75 changes the depth of a pixel by 0.3 % of the range on
    average and by up to 15 % at an edge. For comparison, it changes the class of 11 % of the pixels
    of the label maps.
    """
    if lossy := [file for file in depths if format_of(file) not in ("PNG", None)]:
        log.warning(
            "%s and %d more depth maps are not PNG: JPEG has blurred the depth at the edges of "
            "objects; use the PNG files from which they were made, if they exist",
            lossy[0],
            len(lossy) - 1,
        )
