"""Tiny raw data sets in the formats of their publishers, for tests that read or damage them."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import h5py
import numpy as np
import pandas as pd
import scipy.io
import soundfile
from PIL import Image

from mst_distill.benchmarks.crisismmd_files import HUMANITARIAN
from mst_distill.media.action_units import UNITS
from mst_distill.media.encoders import ImageEncoder, TextEncoder


def write_tone(
    path: Path, hertz: float, seconds: float, rate: int, peak: float = 0.1, subtype: str = "PCM_16"
) -> Path:
    """Write a sine as wav."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, peak * np.sin(2 * np.pi * hertz * time), rate, subtype=subtype)
    return path


# AV-MNIST


def write_idx(path: Path, values: np.ndarray, magic: int | None = None) -> None:
    header = [0x0800 + values.ndim if magic is None else magic, *values.shape]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        gzip.compress(np.array(header, ">i4").tobytes() + values.astype(np.uint8).tobytes())
    )


def write_mnist(folder: Path, test_images: int = 1) -> None:
    """Write 30 training and 10 test images."""
    rng = np.random.default_rng(test_images)
    train = np.random.default_rng(0).integers(0, 256, (30, 28, 28))
    write_idx(folder / "train-images-idx3-ubyte.gz", train)
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(30) % 10)
    write_idx(folder / "t10k-images-idx3-ubyte.gz", rng.integers(0, 256, (10, 28, 28)))
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.arange(10))


def write_avmnist(root: Path, hertz: tuple[float, float] = (1009, 2018)) -> None:
    """Write MNIST, recordings by three speakers, and three noise clips at twice the rate.

    Args:
        root: Folder of the set.
        hertz: Frequencies of the tones in the recordings and in the noise clips.
    """
    write_mnist(root / "mnist")
    for digit in range(10):
        for speaker in ("ann", "bob", "eve"):
            path = root / "speech" / f"{digit}_{speaker}_0.wav"
            write_tone(path, hertz[0], 1, 8000, subtype="FLOAT")
    for clip in range(3):
        write_tone(root / "noise" / f"{clip}.wav", hertz[1], 2, 16_000, subtype="FLOAT")


def write_multibench(root: Path) -> None:
    """Write 50 training and 10 test samples of random values, so that no two samples are equal."""
    for split, count in (("train", 50), ("test", 10)):
        for name, shape in (("image", (784,)), ("audio", (112, 112))):
            (root / name).mkdir(exist_ok=True, parents=True)
            values = np.random.default_rng(count).integers(0, 256, (count, *shape))
            np.save(root / name / f"{split}_data.npy", values.astype(np.float64))
        np.save(root / f"{split}_labels.npy", np.arange(count, dtype=np.float64) % 10)


# RAVDESS

BITS, BAR = 8, 16
"""Number of bars in a numbered frame, and the width of a bar in pixels. It is that of a macroblock,
so that compression does not blur a bar into the next one."""

RAVDESS_CLIPS = [
    f"01-{emotion:02d}-01-01-01-{actor:02d}" for actor in range(1, 7) for emotion in (1, 4, 8)
]
"""Eighteen clips by six actors."""


def numbered_frame(number: int) -> np.ndarray:
    """Return RGB ``(32, 128, 3)``: one bar for each bit of `number`, red for 1 and black for 0."""
    frame = np.zeros((32, BITS * BAR, 3), np.uint8)
    for bit in range(BITS):
        frame[:, bit * BAR : (bit + 1) * BAR, 0] = 255 * (number >> bit & 1)
    return frame


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    rate: Fraction | int = 30,
    rotation: Mapping[str, Any] = MappingProxyType({}),
    **options: str,
) -> Path:
    """Write H.264 as mp4, with bidirectional frames between the key frames.

    Args:
        path: File to write.
        frames: RGB ``(H, W, 3)`` of bytes, all of the same shape with even sides.
        rate: Frame rate in Hz.
        rotation: How players have to rotate the frames: ``degrees`` counter-clockwise, ``hflip``
            and ``vflip``.
        options: Options of the container.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remaining = iter(frames)
    first = next(remaining)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12"})
        stream.height, stream.width, _ = first.shape
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(**rotation)
        for frame in chain([first], remaining):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_numbered(path: Path, count: int = 108, rate: Fraction | int = 30, **options: str) -> Path:
    return write_video(path, map(numbered_frame, range(count)), rate, **options)


def write_audio_only_mp4(path: Path) -> None:
    """Write an mp4 without a video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=22_050, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 22_050
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_ravdess(root: Path, clips: Sequence[str] = RAVDESS_CLIPS) -> None:
    """Write clips to ``raw``, with one folder for each actor.

    As in the published set, the folders also contain songs and videos without sound.
    """
    for row, clip in enumerate([*clips, "02-04-01-01-01-01"]):
        frames = map(numbered_frame, range(12 * row, 12 * row + 12))
        video = write_video(root / "made.mp4", frames)
        audio = write_tone(root / "made.wav", 440 + 20 * row, 0.5, 8000)
        folder = root / "raw" / f"Actor_{clip[-2:]}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, folder / f"01-{clip}.mp4")
        shutil.copy(video, folder / f"02-{clip}.mp4")
        shutil.copy(audio, folder / f"03-{clip}.wav")
        (folder / f"._03-{clip}.wav").write_bytes(b"left by an archive")


UNITS_TABLE = "df_average_AUs_total.csv"


def make_units() -> pd.DataFrame:
    """Return the table of action units of `RAVDESS_CLIPS`; AU28_c is 0 in all rows."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.random((len(RAVDESS_CLIPS), len(UNITS))), columns=list(UNITS))
    table["AU28_c"] = 0.0
    table["name"] = [f"01-{clip}" for clip in RAVDESS_CLIPS]
    return table.assign(path=table["name"], index=0)


def write_units_table(root: Path, table: pd.DataFrame) -> None:
    table.to_csv(root / UNITS_TABLE, sep=";", index=False)


def write_units(root: Path) -> None:
    """Write the recordings and the table, which also lists a song and a video without sound."""
    table = make_units()
    others = table[:2].assign(name=["01-02-04-01-01-01-01", "02-01-04-01-01-01-01"])
    write_units_table(root, pd.concat([table, others]))
    for row, clip in enumerate(RAVDESS_CLIPS):
        write_tone(root / f"03-{clip}.wav", 440 + 20 * row, 0.5, 8000)


# VGGSound

VGGSOUND_CATEGORIES = ("playing zither", "airplane flyby", "dog, barking")
"""The categories in the order of the classes, which is not alphabetical."""

VGGSOUND_CLIPS = [f"{'-_'[row % 2]}YouTube-{row:02d}_0000{row:02d}" for row in range(12)]
VGGSOUND_META, VGGSOUND_TABLE = "metadata.txt", "splits.csv"


def write_vggsound_tables(root: Path) -> None:
    """Write the tables of twelve clips of the classes 0, 1, 2, 0, 1, 2, ...

    The table of splits lists them in reverse order.
    """
    lines = [f"{clip}&{row % 3}" for row, clip in enumerate(VGGSOUND_CLIPS)]
    (root / VGGSOUND_META).write_text("\n".join(lines) + "\n")
    table = pd.DataFrame(
        {
            "category": [VGGSOUND_CATEGORIES[row % 3] for row in range(12)],
            "video_id": VGGSOUND_CLIPS,
            "onset": 0,
            "split": ["train"] * 6 + ["val"] * 3 + ["test"] * 3,
        }
    )
    more = pd.DataFrame({"category": "of no interest", "video_id": ["zzz"], "split": "val"})
    pd.concat([table[::-1], more]).to_csv(root / VGGSOUND_TABLE, index=False)


def vggsound_features(row: int) -> tuple[np.ndarray, np.ndarray]:
    """Return video and audio features of one clip.

    Later clips have larger ranges, so that the test split contains the extreme values.
    """
    rng = np.random.default_rng(row)
    video = (rng.random((10, 7, 7, 512), np.float32) - 0.2) * (row + 1)
    audio = (rng.random((10, 128), np.float32) - 0.6) * (row + 1)
    return video, audio


def write_vggsound(root: Path) -> None:
    """Write the tables and the features."""
    write_vggsound_tables(root)
    for name in ("video", "audio"):
        (root / name).mkdir()
    for row, clip in enumerate(VGGSOUND_CLIPS):
        for name, values in zip(("video", "audio"), vggsound_features(row), strict=True):
            np.save(root / name / f"{clip}.npy", values)


# CrisisMMD

CRISIS_HEADER = (
    "event_name\ttweet_id\timage_id\ttweet_text\timage\tlabel\tlabel_text\tlabel_image"
    "\tlabel_text_image"
)
CRISIS_IMAGES = "images/data_image/storm/1_10_2017"


class Lengths(TextEncoder):
    """Encodes a text as its number of characters."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(text)] for text in texts], np.float32)


class Colours(ImageEncoder):
    """Encodes an image as its mean colour."""

    def encode(self, images: Iterable[Image.Image]) -> np.ndarray:
        return np.array([np.asarray(image).mean(axis=(0, 1)) for image in images], np.float32)


ENCODERS = {"text_encoder": f"{__name__}.Lengths", "image_encoder": f"{__name__}.Colours"}


def tweet_id(tweet: int) -> str:
    return str(9_145_097_570_707_701_000 + tweet)


def tweet_row(tweet: int, photograph: int = 0, **changes: str) -> str:
    label = HUMANITARIAN[tweet % 8]
    fields = {
        "event_name": "hurricane_maria" if tweet % 2 else "srilanka_floods",
        "tweet_id": tweet_id(tweet),
        "image_id": f"{tweet}_{photograph}",
        "tweet_text": f'Tweet "{tweet}" \u2028 https://t.co/{tweet}',
        "image": f"data_image/storm/1_10_2017/{tweet}_{photograph}.jpg",
        "label": label,
        "label_text": label,
        "label_image": label,
        "label_text_image": "Positive",
    }
    return "\t".join({**fields, **changes}.values())


def write_tweets(file: Path, rows: Sequence[str], header: str = CRISIS_HEADER) -> None:
    file.write_text("\n".join([header, *rows, ""]), encoding="utf-8")


def write_crisismmd(root: Path) -> None:
    """Write eight tweets for each split.

    The first tweet of a split has two photographs; the red of a photograph encodes its tweet.
    """
    (root / "splits").mkdir(parents=True)
    (root / CRISIS_IMAGES).mkdir(parents=True)
    for split, first in (("train", 0), ("dev", 8), ("test", 16)):
        others = [tweet_row(first + tweet) for tweet in range(1, 8)]
        rows = [tweet_row(first), tweet_row(first, photograph=1), *others]
        write_tweets(root / "splits" / f"task_humanitarian_text_img_{split}.tsv", rows)
        for tweet in range(first, first + 8):
            for image in (0, 1):
                colour = (10 * tweet, 100 * image, 0)
                file = root / CRISIS_IMAGES / f"{tweet}_{image}.jpg"
                Image.new("RGB", (20, 10), colour).save(file, quality=95)


def crisis_features(count: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image, text and label, as they are passed to ``torch.save``."""
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(count, 6)), rng.normal(size=(count, 4)).astype(np.float32)
    return image, text, np.arange(count) % 8


# NYU-Depth-V2

W, H, COUNT = 8, 6, 11
"""Width, height and number of the images in the publisher's file."""

NYU_SCENES = ["kitchen", "study", "bedroom", "kitchen", *["office"] * 7]
NYU_TEST = [1, 2, 7, 8]
NYU_RAW_TO_CLASS = [40, 3, 1, 1, 7]
"""The classes of the raw labels 1 to 5."""

NYU_FOLDERS = ("images", "depths", "labels")
NYU_NUMBERS = range(1, 13)
"""Numbers of the images in folders."""


def nyu_arrays() -> dict[str, np.ndarray]:
    """Return transposed arrays as in the file: ``images`` (N, 3, W, H), the others (N, W, H)."""
    rng = np.random.default_rng(0)
    return {
        "images": rng.integers(0, 256, (COUNT, 3, W, H)).astype(np.uint8),
        "depths": rng.uniform(0.7, 10, (COUNT, W, H)).astype(np.float32),
        "labels": rng.integers(0, 6, (COUNT, W, H)).astype(np.uint16),
    }


def write_mat(path: Path, arrays: dict[str, np.ndarray], scenes: list[str] | None = None) -> None:
    """Write a file like those of MATLAB 7.3: HDF5 after a header of 512 bytes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            _write_compressed(file, name, values)
        if scenes:
            _write_scenes(file, scenes)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")


def write_nyu_splits(path: Path, test: list[int] = NYU_TEST, count: int = COUNT) -> None:
    train = [number for number in range(1, count + 1) if number not in test]
    columns = {"trainNdxs": train, "testNdxs": test}
    scipy.io.savemat(path, {key: np.array(numbers)[:, None] for key, numbers in columns.items()})


def write_nyu_mapping(path: Path, classes: list[int]) -> None:
    scipy.io.savemat(path, {"mapClass": np.array([classes]), "className": ["wall"]})


def write_nyu_mat(root: Path) -> None:
    """Write the three published files, with eleven tiny images."""
    write_mat(root / "labeled.mat", nyu_arrays(), NYU_SCENES)
    write_nyu_splits(root / "splits.mat")
    write_nyu_mapping(root / "mapping.mat", NYU_RAW_TO_CLASS)


def write_nyu_folders(root: Path) -> None:
    """Write twelve images of 8 x 6 pixels; the test images are 1, 2, 9 and 10."""
    rng = np.random.default_rng(4)
    for name in NYU_FOLDERS:
        (root / name).mkdir()
    for number in NYU_NUMBERS:
        rgb = rng.integers(0, 256, (H, W, 3)).astype(np.uint8)
        Image.fromarray(rgb).save(root / "images" / f"{number:04d}.jpg")
        depth = rng.integers(0, 60_000, (H, W)).astype(np.uint16)
        Image.fromarray(depth).save(root / "depths" / f"{number:04d}.png")
        label = rng.integers(0, 41, (H, W)).astype(np.uint8)
        Image.fromarray(label).save(root / "labels" / f"{number:04d}.png")
    (root / "train.txt").write_text("3\n4\n5\n6\n7\n8\n11\n12\n")
    (root / "test.txt").write_text("0001\n0002\n0009\n0010\n")


def _write_compressed(file: h5py.File, name: str, values: np.ndarray) -> None:
    """Write a compressed array with chunks like MATLAB's, which contain parts of several images."""
    chunks = (min(4, values.shape[0]), *[1] * (values.ndim - 3), W // 2, H // 2)
    file.create_dataset(name, data=values, chunks=chunks, compression="gzip")


def _write_scenes(file: h5py.File, scenes: list[str]) -> None:
    references = np.empty((1, len(scenes)), h5py.ref_dtype)
    for row, scene in enumerate(scenes):
        text = np.array([[ord(letter)] for letter in scene], np.uint16)
        references[0, row] = file.create_dataset(f"#refs#/{row}", data=text).ref
    file.create_dataset("sceneTypes", data=references, dtype=h5py.ref_dtype)
