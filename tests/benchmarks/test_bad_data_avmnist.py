"""Damaged files of AV-MNIST: raw files, and MultiBench's arrays."""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import soundfile

from damaged_sets import (
    BENCHMARKS,
    Case,
    DamageTests,
    RawSet,
    edit_array,
    overwrite,
    replace_by_broken_link,
    replace_by_folder,
    set_values,
    truncate,
    write_opposite_channels,
)
from raw_sets import write_avmnist, write_idx, write_multibench


def change_sampling_rate(path: Path, rate: int) -> None:
    """Write another sampling rate to the header of a wav."""
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(content)


def write_flac_of_years(path: Path) -> None:
    """Replace a sound by a flac whose header states 2^36 - 1 samples, with the suffix flac."""
    path.unlink()
    path = path.with_suffix(".flac")
    soundfile.write(path, np.sin(np.arange(2000.0)), 8000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)


def images_with_one_empty() -> np.ndarray:
    """Return thirty images, of which the fifth is empty."""
    images = np.arange(30 * 28 * 28).reshape(30, 28, 28) % 251
    images[4] = 7
    return images


def write_idx_header(path: Path, *shape: int) -> None:
    """Write an idx file with a header for `shape`, followed by 100 bytes."""
    header = np.array([0x0800 + len(shape), *shape], ">i4").tobytes()
    path.write_bytes(gzip.compress(header + bytes(100)))


AVMNIST = RawSet(
    write_avmnist,
    f"{BENCHMARKS}.avmnist.AVMNIST",
    {name: name for name in ("mnist", "speech", "noise")},
)
MULTIBENCH = RawSet(write_multibench, f"{BENCHMARKS}.avmnist.MultiBenchAVMNIST", {"folder": ""})

PIXELS, LABELS = "mnist/train-images-idx3-ubyte.gz", "mnist/t10k-labels-idx1-ubyte.gz"


SETS = {"avmnist": AVMNIST, "multibench": MULTIBENCH}

CASES: Mapping[str, Case] = MappingProxyType(
    {
        "avmnist: empty labels": Case(AVMNIST, LABELS, overwrite(""), ["0 bytes are fewer"]),
        "avmnist: truncated images": Case(AVMNIST, PIXELS, truncate, ["not a complete gzip file"]),
        "avmnist: HTML in place of images": Case(
            AVMNIST, PIXELS, overwrite("<html>not found</html>"), ["not a complete gzip file"]
        ),
        "avmnist: images of another size": Case(
            AVMNIST, PIXELS, lambda path: write_idx(path, np.zeros((30, 27, 28))), ["28, 28"]
        ),
        "avmnist: terabytes in the header": Case(
            AVMNIST,
            PIXELS,
            lambda path: write_idx_header(path, 2**31 - 1, 28, 28),
            ["2147483647, 28, 28", "at most"],
        ),
        "avmnist: more data than in the header": Case(
            AVMNIST,
            LABELS,
            lambda path: path.write_bytes(
                gzip.compress(np.array([0x0801, 10], ">i4").tobytes() + bytes(10**7))
            ),
            ["more than the 10 bytes of data", "shape"],
        ),
        "avmnist: no images": Case(
            AVMNIST,
            "mnist/t10k-images-idx3-ubyte.gz",
            lambda path: (
                write_idx(path, np.zeros((0, 28, 28))),
                write_idx(path.parent / "t10k-labels-idx1-ubyte.gz", np.zeros(0)),
            ),
            ["0 images", "at least 1"],
        ),
        "avmnist: label out of range": Case(
            AVMNIST,
            LABELS,
            lambda path: write_idx(path, np.r_[np.arange(9), 10]),
            ["label 9 is 10", "0 to 9"],
        ),
        "avmnist: constant images": Case(
            AVMNIST,
            PIXELS,
            lambda path: write_idx(path, np.full((30, 28, 28), 7)),
            ["all 30 images are equal"],
        ),
        "avmnist: wav without samples": Case(
            AVMNIST,
            "speech/7_ann_0.wav",
            lambda path: soundfile.write(path, [], 8000),
            ["holds 0 audio samples"],
        ),
        "avmnist: wav of NaN": Case(
            AVMNIST,
            "speech/7_ann_0.wav",
            lambda path: soundfile.write(path, np.full(99, np.nan), 8000, subtype="FLOAT"),
            ["NaN or infinite"],
        ),
        "avmnist: wav with an unusual rate": Case(
            AVMNIST,
            "speech/7_ann_0.wav",
            lambda path: change_sampling_rate(path, 1_999_993),
            ["1999993 samples a second", "8000"],
        ),
        "avmnist: years in the header of a flac": Case(
            AVMNIST,
            "noise/0.wav",
            write_flac_of_years,
            [r"68719476735|687194\d+", "at most"],
            named="noise/0.flac",
        ),
        "avmnist: silent noise": Case(
            AVMNIST,
            "noise/0.wav",
            lambda path: soundfile.write(path, np.zeros(9), 8000),
            ["silent throughout"],
        ),
        "avmnist: silent recording": Case(
            AVMNIST,
            "speech/7_ann_0.wav",
            lambda path: soundfile.write(path, np.full(900, 0.25), 8000),
            ["silent throughout", "0.25"],
        ),
        "avmnist: opposite channels": Case(
            AVMNIST,
            "noise/2.wav",
            write_opposite_channels,
            ["2 channels cancel", "keep one of them"],
        ),
        "avmnist: empty image": Case(
            AVMNIST,
            PIXELS,
            lambda path: write_idx(path, images_with_one_empty()),
            ["image 4 is empty", "7"],
        ),
        "avmnist: broken link": Case(
            AVMNIST, "noise/2.wav", replace_by_broken_link, ["broken link"]
        ),
        "avmnist: pipe in place of a file": Case(
            AVMNIST,
            "noise/2.wav",
            lambda path: (path.unlink(), os.mkfifo(path)),
            ["not a file", "remove it"],
        ),
        "avmnist: folder in place of a file": Case(
            AVMNIST, "noise/2.wav", replace_by_folder, ["2 clips", "at least 3"], named="noise"
        ),
        "avmnist: name that is not UTF-8": Case(
            AVMNIST,
            "speech/7_ann_0.wav",
            lambda path: path.rename(str(path).replace("ann", "caf\udce9")),
            ["the name is not UTF-8", "rename"],
            named=r"speech/7_caf\udce9_0.wav",
        ),
        "multibench: truncated": Case(
            MULTIBENCH, "image/train_data.npy", truncate, ["not a complete .npy"]
        ),
        "multibench: empty array": Case(
            MULTIBENCH,
            "test_labels.npy",
            edit_array(lambda values: values[:0]),
            ["contains no samples"],
        ),
        "multibench: archive": Case(
            MULTIBENCH,
            "audio/train_data.npy",
            lambda path: np.savez(path.open("wb"), np.ones(3)),
            ["not a complete .npy"],
        ),
        "multibench: text": Case(
            MULTIBENCH,
            "image/train_data.npy",
            edit_array(lambda values: values.astype("U4")),
            ["<U4", "numbers"],
        ),
        "multibench: wrong shape": Case(
            MULTIBENCH,
            "audio/test_data.npy",
            edit_array(lambda values: values[:, :28]),
            [r"\(10, 28, 112\), expected \(N, 112, 112\)"],
        ),
        "multibench: missing spectrogram": Case(
            MULTIBENCH,
            "audio/train_data.npy",
            edit_array(lambda values: values[1:]),
            ["49 .* for 50 images"],
        ),
        "multibench: NaN": Case(
            MULTIBENCH,
            "audio/test_data.npy",
            edit_array(set_values((4, 50, 50), np.nan)),
            ["test-00004", "row 4", "NaN or infinity"],
        ),
        "multibench: label out of range": Case(
            MULTIBENCH,
            "train_labels.npy",
            edit_array(set_values(8, 10)),
            ["label 8 is 10.0", "0 to 9"],
        ),
        "multibench: constant": Case(
            MULTIBENCH,
            "audio/train_data.npy",
            lambda path: [
                np.save(
                    path.parent / f"{split}_data.npy",
                    np.tile(np.arange(112.0), (count, 112, 1)),
                )
                for split, count in (("train", 50), ("test", 10))
            ],
            ["modality 'audio'", "the same in all 60 samples"],
            named="train_data.npy",
        ),
        "multibench: silence": Case(
            MULTIBENCH,
            "audio/test_data.npy",
            edit_array(set_values(4, -80)),
            ["test-00004", "row 4", "the same value throughout"],
        ),
    }
)


class TestDamage(DamageTests):
    cases = CASES
    sets = SETS
