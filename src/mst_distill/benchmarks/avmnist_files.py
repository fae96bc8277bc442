"""Reading the raw files of AV-MNIST: MNIST's idx files, sounds and MultiBench's arrays."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mst_distill.benchmarks.raw_files import find_files
from mst_distill.media.sound import read_sound
from mst_distill.media.spoken_digits import RATE

_LARGEST_IDX = 2**30
"""Maximum size of an idx file in bytes; EMNIST, the largest set in this format, has 0.6 of it."""

_MNIST = (
    "MNIST's four files, train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the same two "
    "of t10k (as torchvision's MNIST downloads them),"
)
_SPEECH = (
    "spoken digits named {digit}_{speaker}_{take}.wav (the folder recordings of the Free Spoken "
    "Digit Dataset, github.com/Jakobovski/free-spoken-digit-dataset)"
)
_NOISE = (
    "noise clips as wav, flac, ogg or mp3 (the folder audio of ESC-50, "
    "github.com/karolpiczak/ESC-50)"
)
_MULTIBENCH = (
    "MultiBench's AV-MNIST, image/{train,test}_data.npy, audio/{train,test}_data.npy and "
    "{train,test}_labels.npy (linked from github.com/pliang279/MultiBench),"
)
_RECORDING = re.compile(r"(?P<digit>\d)_(?P<speaker>.+)_\d+")


@dataclass(frozen=True)
class Mnist:
    """All N images of MNIST; the training images come first.

    Attributes:
        files: The four files.
        images: ``(N, 784)`` float32 in [0, 1].
        labels: ``(N,)`` digits.
        train_count: Number of training images.
    """

    files: list[Path]
    images: np.ndarray
    labels: np.ndarray
    train_count: int


@dataclass(frozen=True)
class Recordings:
    """Spoken digits.

    Attributes:
        files: One file for each of the R recordings, sorted.
        waves: One float32 array for each recording, mono, sampled at `RATE`.
        digits: ``(R,)`` spoken digits.
        speakers: ``(R,)`` names of the speakers.
    """

    files: list[Path]
    waves: list[np.ndarray]
    digits: np.ndarray
    speakers: np.ndarray


@dataclass(frozen=True)
class MultiBenchSplit:
    """MultiBench's training or test set.

    Attributes:
        files: The three files.
        image: ``(N, 784)``, memory-mapped.
        audio: ``(N, 112, 112)``, memory-mapped.
        labels: ``(N,)`` digits.
    """

    files: list[Path]
    image: np.ndarray
    audio: np.ndarray
    labels: np.ndarray


def read_mnist(path: str | Path) -> Mnist:
    """Read the four idx .gz files in the folder `path`.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        ValueError: A file is not a complete idx file of images or of labels, the images are not
            28 x 28 or all equal, an image is empty, there are no images, or the numbers of images
            and labels differ; the message names the file.
    """
    folder = _open_folder(path, _MNIST)
    files, images, labels = [], [], []
    for name in ("train", "t10k"):
        image_file = folder / f"{name}-images-idx3-ubyte.gz"
        label_file = folder / f"{name}-labels-idx1-ubyte.gz"
        files += [image_file, label_file]
        images.append(_read_idx(image_file, dimensions=3))
        labels.append(_read_idx(label_file, dimensions=1))
        if images[-1].shape[1:] != (28, 28):
            raise ValueError(f"{image_file}: images are {images[-1].shape[1:]}, expected (28, 28)")
        if (images[-1] == images[-1][:1]).all():
            count = len(images[-1])
            fault = f"all {count} images are equal" if count else "0 images, expected at least 1"
            raise ValueError(f"{image_file}: {fault}")
        if len(empty := np.flatnonzero(np.ptp(images[-1], axis=(1, 2)) == 0)):
            value = images[-1][empty[0], 0, 0]
            raise ValueError(f"{image_file}: image {empty[0]} is empty: all its pixels are {value}")
        _check_labels(label_file, labels[-1], len(images[-1]))
    pixels = np.concatenate(images).reshape(-1, 784) / np.float32(255)
    return Mnist(files, pixels, np.concatenate(labels).astype(np.int64), len(labels[0]))


def read_recordings(path: str | Path) -> Recordings:
    """Read the spoken digits in the folder `path` and its subfolders.

    Raises:
        FileNotFoundError: The folder is missing or contains no wav.
        ValueError: The name of a wav does not match ``{digit}_{speaker}_{take}.wav``, or a wav
            cannot be read or is silent throughout; the message names the file.
    """
    files = _find(path, {".wav"}, _SPEECH)
    names = [_RECORDING.fullmatch(file.stem) for file in files]
    for file, name in zip(files, names, strict=True):
        if name is None:
            raise ValueError(f"{file}: the name does not match {{digit}}_{{speaker}}_{{take}}.wav")
    return Recordings(
        files,
        [read_sound(file, RATE)[0] for file in files],
        np.array([int(name["digit"]) for name in names if name]),
        np.array([name["speaker"] for name in names if name]),
    )


def read_clips(path: str | Path) -> tuple[list[Path], list[np.ndarray]]:
    """Read the noise clips in the folder `path` and its subfolders.

    Returns:
        The files, sorted, and for each file a float32 array, mono, sampled at `RATE`, without the
        digital silence at its start and end.

    Raises:
        FileNotFoundError: The folder is missing or contains no clip.
        ValueError: A clip cannot be read or is silent throughout; the message names the file.
    """
    files = _find(path, {".wav", ".flac", ".ogg", ".mp3"}, _NOISE)
    # ESC-50 pads shorter sounds to 5 s with zeros; mixed in, these would add no noise.
    return files, [np.trim_zeros(read_sound(file, RATE)[0]) for file in files]


def open_multibench(path: str | Path, split: Literal["train", "test"]) -> MultiBenchSplit:
    """Open MultiBench's training or test set in the folder `path`, memory-mapped.

    Raises:
        FileNotFoundError: The folder or a file is missing.
        ValueError: A file is not a complete array, an array has the wrong shape, the arrays differ
            in length, or a label is not a digit; the message names the file.
    """
    folder = _open_folder(path, _MULTIBENCH)
    files = [folder / "image" / f"{split}_data.npy", folder / "audio" / f"{split}_data.npy"]
    files.append(folder / f"{split}_labels.npy")
    image = _open_array(files[0], (784,))
    audio = _open_array(files[1], (112, 112))
    labels = _open_array(files[2], ())
    if len(audio) != len(image):
        raise ValueError(f"{files[1]}: {len(audio)} spectrograms for {len(image)} images")
    _check_labels(files[2], labels, len(image))
    return MultiBenchSplit(files, image, audio, labels.astype(np.int64))


def _find(path: str | Path, suffixes: set[str], contents: str) -> list[Path]:
    folder = _open_folder(path, contents)
    files = find_files(folder, suffixes)
    if not files:
        raise FileNotFoundError(
            f"{folder.absolute()} contains no {sorted(suffixes)}: put {contents} there"
        )
    return files


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the unsigned bytes of an idx file.

    The file starts with the bytes 0, 0, 8 and `dimensions` and with the sizes as big-endian int32;
    the data follow.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} is missing: put {_MNIST} there")
    header = 4 * (1 + dimensions)
    try:
        with gzip.open(path) as file:
            start = file.read(header)
            if len(start) < header:
                raise ValueError(
                    f"{path}: {len(start)} bytes are fewer than the {header} of a header"
                )
            magic, *shape = np.frombuffer(start, ">i4").tolist()
            if magic != 0x0800 + dimensions:
                raise ValueError(
                    f"{path}: magic number {magic}, expected {0x0800 + dimensions} (unsigned bytes "
                    f"in {dimensions} dimensions)"
                )
            size = math.prod(shape)
            if min(shape) < 0 or size > _LARGEST_IDX:
                raise ValueError(
                    f"{path}: the header states the shape {shape}; at most {_LARGEST_IDX} bytes "
                    f"are read"
                )
            # One byte more than is needed shows that the file is too long; reading all of it
            # could fill the memory, because gigabytes of zeros compress to a small file.
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a complete gzip file ({error})") from error
    if len(data) > size:
        raise ValueError(f"{path}: more than the {size} bytes of data that the shape {shape} needs")
    if len(data) < size:
        raise ValueError(f"{path}: {len(data)} bytes of data do not fill the shape {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _open_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} is missing: put {_MULTIBENCH} there")
    try:
        array: np.ndarray = np.load(path, mmap_mode="r")
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive")
    except Exception as error:  # numpy raises errors of many types for a damaged file
        raise ValueError(f"{path}: not a complete .npy file of numbers ({error})") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: contains {array.dtype}, expected numbers")
    if array.ndim != 1 + len(shape) or array.shape[1:] != shape:
        expected = ", ".join(["N", *map(str, shape)])
        raise ValueError(f"{path}: shape {array.shape}, expected ({expected})")
    if not len(array):
        raise ValueError(f"{path}: contains no samples")
    return array


def _check_labels(path: Path, labels: np.ndarray, count: int) -> None:
    if len(labels) != count:
        raise ValueError(f"{path}: {len(labels)} labels for {count} images")
    if len(invalid := np.flatnonzero(~np.isin(labels, range(10)))):
        raise ValueError(f"{path}: label {invalid[0]} is {labels[invalid[0]]}, expected 0 to 9")


def _open_folder(path: str | Path, contents: str) -> Path:
    """Return the folder at `path`.

    Raises:
        FileNotFoundError: The folder does not exist; the message states that `contents` belong
            there.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder.absolute()} is not a folder: put {contents} there")
    return folder
