"""Bad data, one thing at a time: named with file, row and rule, and nothing is left behind."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import soundfile
import torch
from kedro.io import DatasetError
from PIL import Image

from mst_distill.benchmarks.ravdess_units import UNITS
from mst_distill.benchmarks.source import DamagedSampleError, Protocol, SampleSource
from mst_distill.data.samples import Samples
from mst_distill.datasets.sample_store import SampleStoreDataset
from mst_distill.parameters import Benchmark
from mst_distill.pipelines.ingest.nodes import build_samples
from raw_sets import (
    COUNT,
    CRISIS_IMAGES,
    ENCODERS,
    NYU_SCENES,
    RAVDESS_CLIPS,
    UNITS_TABLE,
    VGGSOUND_CLIPS,
    VGGSOUND_META,
    VGGSOUND_TABLE,
    H,
    W,
    crisis_features,
    make_units,
    nyu_arrays,
    tweet_id,
    tweet_row,
    write_avmnist,
    write_crisismmd,
    write_idx,
    write_mat,
    write_multibench,
    write_numbered,
    write_nyu_folders,
    write_nyu_mapping,
    write_nyu_mat,
    write_nyu_splits,
    write_ravdess,
    write_sound_alone,
    write_units,
    write_units_table,
    write_vggsound,
    write_video,
)

Spoil = Callable[[Path], object]


class Table(SampleSource):
    """Samples of whoever brings their own: ``index.csv`` and an array a modality."""

    classes = ("no", "yes")

    def __init__(self, protocol: Protocol, folder: str, tolerated_share: float = 0.0) -> None:
        self.files = [Path(folder) / "index.csv"]
        self.tolerated_share = tolerated_share
        self.index = pd.read_csv(self.files[0], dtype={"id": str})
        self._arrays = {name: np.load(Path(folder) / f"{name}.npy") for name in ("image", "audio")}

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        rows = part["row"].to_numpy()
        return {name: array[rows] for name, array in self._arrays.items()}


def write_table(root: Path) -> None:
    rng = np.random.default_rng(0)
    splits = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2
    index = pd.DataFrame({"id": [f"s{row}" for row in range(10)], "split": splits})
    index.insert(1, "group", index["id"])
    index.assign(label=np.arange(10) % 2, row=np.arange(10)).to_csv(root / "index.csv", index=False)
    for name in ("image", "audio"):
        np.save(root / f"{name}.npy", rng.random((10, 4), np.float32))


def write_digits(root: Path) -> None:
    """300 recordings of 1 to 4 frames, thirty of each digit."""
    rng = np.random.default_rng(0)
    lengths = np.arange(300) % 4 + 1
    frames = rng.normal(size=(lengths.sum(), 13)).astype(np.float32)
    np.savez(root / "digits.npz", X=frames, y=np.arange(300) % 10, lengths=lengths)


def write_few_ravdess(root: Path) -> None:
    """Three clips of each of three actors: a sample has 9 MB, and a split needs two classes."""
    write_ravdess(root, RAVDESS_CLIPS[:9])


def write_features(root: Path) -> None:
    torch.save(crisis_features(), root / "features.pth")


@dataclass(frozen=True)
class Reader:
    """How a benchmark's files are written and read."""

    write: Callable[[Path], None]
    type: str
    paths: Mapping[str, str]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def source(self, root: Path, **changes: Any) -> SampleSource:
        places = {name: str(root / path) for name, path in self.paths.items()}
        arguments = {**places, **self.arguments, **changes}
        return build_samples(Benchmark(type=self.type, arguments=arguments), "heldout", "all", 0)


BENCHMARKS = "mst_distill.benchmarks"
READERS = {
    "digits": Reader(write_digits, f"{BENCHMARKS}.digits.Digits", {"recordings": "digits.npz"}),
    "avmnist": Reader(
        write_avmnist,
        f"{BENCHMARKS}.avmnist.AVMNIST",
        {name: name for name in ("mnist", "speech", "noise")},
    ),
    "multibench": Reader(
        write_multibench, f"{BENCHMARKS}.avmnist.MultiBenchAVMNIST", {"folder": ""}
    ),
    "ravdess": Reader(
        write_few_ravdess,
        f"{BENCHMARKS}.ravdess.RAVDESS",
        {"audio": "raw", "video": "raw"},
        {"face_finder": "mst_distill.media.faces.CentreCrop"},
    ),
    "ravdess_units": Reader(
        write_units,
        f"{BENCHMARKS}.ravdess_units.RAVDESSUnits",
        {"units": UNITS_TABLE, "audio": ""},
    ),
    "vggsound50k": Reader(
        write_vggsound,
        f"{BENCHMARKS}.vggsound50k.VGGSound50k",
        {"video": "video", "audio": "audio", "metadata": VGGSOUND_META, "splits": VGGSOUND_TABLE},
    ),
    "crisismmd": Reader(
        write_crisismmd,
        f"{BENCHMARKS}.crisismmd.CrisisMMD",
        {"images": "images", "splits": "splits"},
        ENCODERS,
    ),
    "crisismmd_features": Reader(
        write_features, f"{BENCHMARKS}.crisismmd.CrisisMMDFeatures", {"file": "features.pth"}
    ),
    "nyudepthv2_mat": Reader(
        write_nyu_mat,
        f"{BENCHMARKS}.nyudepthv2.NYUDepthV2Mat",
        {"mat": "labeled.mat", "splits": "splits.mat", "mapping": "mapping.mat"},
        {"size": (H, W)},
    ),
    "nyudepthv2_folders": Reader(
        write_nyu_folders,
        f"{BENCHMARKS}.nyudepthv2.NYUDepthV2Folders",
        {"images": "images", "depths": "depths", "labels": "labels", "lists": ""},
        {"size": (H, W)},
    ),
    "own": Reader(write_table, f"{__name__}.Table", {"folder": ""}),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each reader's unspoilt files, written once."""
    written: dict[str, Path] = {}

    def write(reader: str) -> Path:
        if reader not in written:
            written[reader] = tmp_path_factory.mktemp(reader)
            READERS[reader].write(written[reader])
        return written[reader]

    return write


def ingest(reader: str, root: Path, folder: Path, **changes: Any) -> Samples:
    """What the pipeline's first node and the catalog's entry do."""
    dataset = SampleStoreDataset(filepath=str(folder))
    dataset.save(READERS[reader].source(root, **changes))
    return dataset.load()


def refusal(reader: str, root: Path, folder: Path, **changes: Any) -> Exception:
    """The error that a user sees, and that nothing is left of the store."""
    with pytest.raises(Exception, match=r".") as caught:
        ingest(reader, root, folder, **changes)
    error = caught.value.__cause__ if caught.type is DatasetError else caught.value
    kept = list(folder.parent.rglob("*")) if folder.parent.is_dir() else []
    assert not kept, f"{error!r} left {kept}"
    return error


# Ways to spoil a file


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(content: str | bytes) -> Spoil:
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda path: path.write_bytes(raw)


def replace(old: str, new: str) -> Spoil:
    def change(path: Path) -> None:
        content = path.read_bytes()
        assert old.encode() in content
        path.write_bytes(content.replace(old.encode(), new.encode(), 1))

    return change


def append(line: str | bytes) -> Spoil:
    raw = line if isinstance(line, bytes) else line.encode()
    return lambda path: path.write_bytes(path.read_bytes() + raw + b"\n")


def array(change: Callable[[np.ndarray], np.ndarray | None]) -> Spoil:
    """Save what `change` returns, or what it did to the array."""

    def spoil(path: Path) -> None:
        values = np.load(path)
        changed = change(values)
        np.save(path, values if changed is None else changed)

    return spoil


def put(where: Any, value: Any) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[where] = value

    return change


def digits(**changes: Callable[[np.ndarray], np.ndarray | None]) -> Spoil:
    """Change arrays in the npz."""

    def spoil(path: Path) -> None:
        with np.load(path) as file:
            arrays = dict(file)
        for name, change in changes.items():
            changed = change(arrays[name])
            arrays[name] = arrays[name] if changed is None else changed
        np.savez(path, **arrays)

    return spoil


def units(column: str | list[str], value: object, row: int = 3) -> Spoil:
    def spoil(path: Path) -> None:
        table = make_units().astype(object)
        table.loc[row, column] = value
        write_units_table(path.parent, table)

    return spoil


def features(change: Callable[..., tuple[np.ndarray, ...]]) -> Spoil:
    return lambda path: torch.save(change(*crisis_features()), path)


def mat(**changes: np.ndarray | None) -> Spoil:
    def spoil(path: Path) -> None:
        arrays = {**nyu_arrays(), **changes}
        write_mat(path, {name: of for name, of in arrays.items() if of is not None}, NYU_SCENES)

    return spoil


def changed(name: str, where: Any, value: Any, dtype: Any = None) -> np.ndarray:
    """One of the labelled file's arrays with something else in it."""
    values = nyu_arrays()[name].astype(dtype) if dtype else nyu_arrays()[name]
    values[where] = value
    return values


def hdf5(change: Callable[[h5py.File], object]) -> Spoil:
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return spoil


def image(values: np.ndarray) -> Spoil:
    return lambda path: Image.fromarray(values).save(path)


def png_bomb(path: Path) -> None:
    """A file of 12 kB that has a hundred million pixels."""
    Image.new("1", (10_000, 10_000)).save(path, "PNG")


def gif_header(path: Path) -> None:
    """Nothing behind a header that says 65,535 x 65,535."""
    path.write_bytes(b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00")


def link_out(path: Path) -> None:
    """A link in the file's place, to the same file outside of the set."""
    outside = path.parents[len(path.parts) - 4].parent / f"outside{path.suffix}"
    shutil.move(path, outside)
    path.symlink_to(outside)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def wav_header(path: Path, rate: int) -> None:
    """Another sampling rate in the header."""
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(content)


def opposite(path: Path) -> None:
    """Two channels of which one is the other with its sign turned."""
    tone = np.sin(np.arange(9000)) / 3
    soundfile.write(path, np.stack([tone, -tone], axis=1), 8000)


def long_flac(path: Path) -> None:
    """A header that says 2^36 - 1 samples."""
    path.unlink()
    path = path.with_suffix(".flac")
    soundfile.write(path, np.sin(np.arange(2000.0)), 8000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)


def huge_video(path: Path) -> None:
    """One black frame, of a few kilobytes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 8192, 4352, "yuv420p"
        black = np.zeros((4352 * 3 // 2, 8192), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(black, format="yuv420p")))
        container.mux(stream.encode(None))


def one_empty() -> np.ndarray:
    """Thirty images, and in the fifth nothing."""
    images = np.arange(30 * 28 * 28).reshape(30, 28, 28) % 251
    images[4] = 7
    return images


def idx_header(path: Path, *shape: int) -> None:
    header = np.array([0x0800 + len(shape), *shape], ">i4").tobytes()
    path.write_bytes(gzip.compress(header + bytes(100)))


@dataclass(frozen=True)
class Case:
    """One thing that is wrong.

    Attributes:
        reader: Whose set it is.
        file: What is spoilt, below the set's folder; the message names it.
        spoil: How; it is given the file.
        rule: What the message says besides, as regular expressions: the row, and the rule.
        sample: The one that this costs where the reader tolerates some; None: always refused.
        named: What the message calls the file, where it is not `file`.
    """

    reader: str
    file: str
    spoil: Spoil
    rule: Sequence[str]
    sample: str | None = None
    named: str = ""


TRAIN, DEV, TEST = (f"splits/task_humanitarian_text_img_{p}.tsv" for p in ("train", "dev", "test"))
PHOTO = f"{CRISIS_IMAGES}/21_0.jpg"
PIXELS, LABELS = "mnist/train-images-idx3-ubyte.gz", "mnist/t10k-labels-idx1-ubyte.gz"
CLIP, ACTED = VGGSOUND_CLIPS[2], "01-01-01-01-01-03"
VIDEO, AUDIO = f"video/{CLIP}.npy", f"audio/{CLIP}.npy"
MP4, WAV = f"raw/Actor_03/01-{ACTED}.mp4", f"raw/Actor_03/03-{ACTED}.wav"
SPOKEN = f"03-{RAVDESS_CLIPS[4]}.wav"

CASES: Mapping[str, Case] = MappingProxyType(
    {
        # digits
        "digits: empty file": Case(
            "digits", "digits.npz", text(""), ["no .npz file that can be read"]
        ),
        "digits: truncated": Case("digits", "digits.npz", cut, ["no .npz file that can be read"]),
        "digits: an array alone": Case(
            "digits", "digits.npz", lambda path: np.save(path.open("wb"), np.ones(3)), ["X, y and"]
        ),
        "digits: missing array": Case(
            "digits", "digits.npz", lambda path: np.savez(path, X=np.ones((3, 13))), ["y is not"]
        ),
        "digits: label out of range": Case(
            "digits", "digits.npz", digits(y=put(7, 10)), ["recording 7", "label 10", "0 to 9"]
        ),
        "digits: labels of text": Case(
            "digits", "digits.npz", digits(y=lambda y: y.astype(str)), ["y is <U", "whole numbers"]
        ),
        "digits: frames of text": Case(
            "digits", "digits.npz", digits(X=lambda x: x.astype(str)), ["X is <U", "numbers"]
        ),
        "digits: twelve coefficients": Case(
            "digits", "digits.npz", digits(X=lambda x: x[:, 1:]), [r"\(\d+, 12\)", r"frames, 13"]
        ),
        "digits: flat frames": Case(
            "digits", "digits.npz", digits(X=np.ravel), [r"X is .*\(\d+,\)", "frames, 13"]
        ),
        "digits: recording without frames": Case(
            "digits",
            "digits.npz",
            digits(lengths=lambda n: np.r_[0, n[0] + n[1], n[2:]]),
            ["recording 0", "0 frames", "at least 1"],
        ),
        "digits: negative length": Case(
            "digits",
            "digits.npz",
            digits(lengths=lambda n: np.r_[-1, n[0] + n[1] + 1, n[2:]]),
            ["recording 0", "-1 frames", "at least 1"],
        ),
        "digits: NaN": Case(
            "digits", "digits.npz", digits(X=put(5, np.nan)), ["recording 2 in X holds NaN"]
        ),
        "digits: constant coefficient": Case(
            "digits",
            "digits.npz",
            digits(X=put((slice(None), 4), 1)),
            ["coefficient 4", "the same in every frame"],
        ),
        "digits: a digit that nobody says": Case(
            "digits",
            "digits.npz",
            digits(y=lambda y: np.where(y == 3, 4, y)),
            ["no recording of digit 3"],
        ),
        "digits: a recording of silence": Case(
            "digits", "digits.npz", digits(X=put(slice(3, 6), 1.5)), ["recording 2", "all its 3 fr"]
        ),
        # AV-MNIST, raw
        "avmnist: empty labels": Case("avmnist", LABELS, text(""), ["0 bytes are less"]),
        "avmnist: truncated images": Case("avmnist", PIXELS, cut, ["no whole gzip file"]),
        "avmnist: HTML for images": Case(
            "avmnist", PIXELS, text("<html>not found</html>"), ["no whole gzip file"]
        ),
        "avmnist: images of another size": Case(
            "avmnist", PIXELS, lambda path: write_idx(path, np.zeros((30, 27, 28))), ["28, 28"]
        ),
        "avmnist: header of a terabyte": Case(
            "avmnist",
            PIXELS,
            lambda path: idx_header(path, 2**31 - 1, 28, 28),
            ["2147483647, 28, 28", "at most"],
        ),
        "avmnist: packed gigabytes": Case(
            "avmnist",
            LABELS,
            lambda path: path.write_bytes(
                gzip.compress(np.array([0x0801, 10], ">i4").tobytes() + bytes(10**7))
            ),
            [r"more than 10 bytes of data", "10"],
        ),
        "avmnist: no images": Case(
            "avmnist",
            "mnist/t10k-images-idx3-ubyte.gz",
            lambda path: (
                write_idx(path, np.zeros((0, 28, 28))),
                write_idx(path.parent / "t10k-labels-idx1-ubyte.gz", np.zeros(0)),
            ),
            ["0 images", "at least 1"],
        ),
        "avmnist: label out of range": Case(
            "avmnist",
            LABELS,
            lambda path: write_idx(path, np.r_[np.arange(9), 10]),
            ["label 9 is 10", "0 to 9"],
        ),
        "avmnist: constant images": Case(
            "avmnist",
            PIXELS,
            lambda path: write_idx(path, np.full((30, 28, 28), 7)),
            ["all 30 images are alike"],
        ),
        "avmnist: wav with 0 samples": Case(
            "avmnist",
            "speech/7_ann_0.wav",
            lambda path: soundfile.write(path, [], 8000),
            ["holds 0 audio samples"],
        ),
        "avmnist: wav of NaN": Case(
            "avmnist",
            "speech/7_ann_0.wav",
            lambda path: soundfile.write(path, np.full(99, np.nan), 8000, subtype="FLOAT"),
            ["NaN or infinite"],
        ),
        "avmnist: wav at an odd rate": Case(
            "avmnist",
            "speech/7_ann_0.wav",
            lambda path: wav_header(path, 1_999_993),
            ["1999993 samples a second", "8000"],
        ),
        "avmnist: flac with a header of hours": Case(
            "avmnist",
            "noise/0.wav",
            long_flac,
            [r"68719476735|687194\d+", "at most"],
            named="noise/0.flac",
        ),
        "avmnist: silent noise": Case(
            "avmnist",
            "noise/0.wav",
            lambda path: soundfile.write(path, np.zeros(9), 8000),
            ["silent throughout"],
        ),
        "avmnist: silent recording": Case(
            "avmnist",
            "speech/7_ann_0.wav",
            lambda path: soundfile.write(path, np.full(900, 0.25), 8000),
            ["silent throughout", "0.25"],
        ),
        "avmnist: channels that cancel each other out": Case(
            "avmnist", "noise/2.wav", opposite, ["2 channels cancel", "keep one of them"]
        ),
        "avmnist: an empty image": Case(
            "avmnist",
            PIXELS,
            lambda path: write_idx(path, one_empty()),
            ["image 4 is empty", "7"],
        ),
        "avmnist: dangling link": Case(
            "avmnist", "noise/2.wav", dangling, ["link that leads nowhere"]
        ),
        "avmnist: a pipe for a file": Case(
            "avmnist",
            "noise/2.wav",
            lambda path: (path.unlink(), os.mkfifo(path)),
            ["no file", "remove it"],
        ),
        "avmnist: a folder for a file": Case(
            "avmnist", "noise/2.wav", folder_instead, ["2 clips", "at least 3"], named="noise"
        ),
        "avmnist: a name that is no unicode": Case(
            "avmnist",
            "speech/7_ann_0.wav",
            lambda path: path.rename(str(path).replace("ann", "caf\udce9")),
            ["the name is no UTF-8", "rename"],
            named=r"speech/7_caf\udce9_0.wav",
        ),
        # AV-MNIST, MultiBench's arrays
        "multibench: truncated": Case("multibench", "image/train_data.npy", cut, ["no whole .npy"]),
        "multibench: empty array": Case(
            "multibench", "test_labels.npy", array(lambda of: of[:0]), ["holds no sample|0 labels"]
        ),
        "multibench: an archive": Case(
            "multibench",
            "audio/train_data.npy",
            lambda path: np.savez(path.open("wb"), np.ones(3)),
            ["no whole .npy"],
        ),
        "multibench: text": Case(
            "multibench",
            "image/train_data.npy",
            array(lambda of: of.astype("U4")),
            ["<U4", "numbers"],
        ),
        "multibench: wrong shape": Case(
            "multibench",
            "audio/test_data.npy",
            array(lambda of: of[:, :28]),
            [r"\(10, 28, 112\), expected \(N, 112, 112\)"],
        ),
        "multibench: missing pair": Case(
            "multibench", "audio/train_data.npy", array(lambda of: of[1:]), ["49 .* for 50 images"]
        ),
        "multibench: NaN": Case(
            "multibench",
            "audio/test_data.npy",
            array(put((4, 50, 50), np.nan)),
            ["test-00004", "row 4", "NaN or infinity"],
        ),
        "multibench: label out of range": Case(
            "multibench", "train_labels.npy", array(put(8, 10)), ["label 8 is 10.0", "0 to 9"]
        ),
        "multibench: constant": Case(
            "multibench",
            "audio/train_data.npy",
            lambda path: [
                np.save(
                    path.parent / f"{part}_data.npy",
                    np.tile(np.arange(112.0), (count, 112, 1)),
                )
                for part, count in (("train", 50), ("test", 10))
            ],
            ["modality 'audio'", "alike in all 60 samples"],
            named="train_data.npy",
        ),
        "multibench: silence": Case(
            "multibench",
            "audio/test_data.npy",
            array(put(4, -80)),
            ["test-00004", "row 4", "one number throughout"],
        ),
        # RAVDESS
        "ravdess: empty wav": Case("ravdess", WAV, text(""), ["no audio that"], ACTED),
        "ravdess: wav cut short": Case("ravdess", WAV, cut, ["is cut short"], ACTED),
        "ravdess: video without frames": Case(
            "ravdess", MP4, write_sound_alone, ["has no video stream"], ACTED
        ),
        "ravdess: HTML for a video": Case(
            "ravdess", MP4, text("<html>"), ["no video that can be decoded"], ACTED
        ),
        "ravdess: video of two frames": Case(
            "ravdess", MP4, lambda path: write_numbered(path, 2), ["before the first"], ACTED
        ),
        "ravdess: video of huge frames": Case(
            "ravdess", MP4, huge_video, ["8192 x 4352 pixels", "at most"], ACTED
        ),
        "ravdess: silence": Case(
            "ravdess",
            WAV,
            lambda path: soundfile.write(path, np.zeros(9000), 8000),
            ["silent throughout"],
            ACTED,
        ),
        "ravdess: channels that cancel each other out": Case(
            "ravdess", WAV, opposite, ["2 channels cancel"], ACTED
        ),
        "ravdess: video of one colour": Case(
            "ravdess",
            MP4,
            lambda path: write_video(path, [np.full((32, 64, 3), 99, np.uint8)] * 12),
            ["every frame has one colour"],
            ACTED,
        ),
        "ravdess: missing pair": Case(
            "ravdess", WAV, Path.unlink, ["holds no audio of this clip"], ACTED, named="raw"
        ),
        "ravdess: one clip twice": Case(
            "ravdess",
            WAV,
            lambda path: shutil.copy(path, path.parents[1] / path.name),
            ["is the same clip as", "remove one"],
        ),
        "ravdess: emotion out of range": Case(
            "ravdess",
            WAV,
            lambda path: path.rename(path.with_name("03-01-09-01-01-01-03.wav")),
            ["emotion 09, expected 01 to 08"],
            named="03-01-09-01-01-01-03.wav",
        ),
        # RAVDESS as action units
        "ravdess_units: a column lacks": Case(
            "ravdess_units", UNITS_TABLE, replace("AU04_r", "AU04"), ["lacks the columns AU04_r"]
        ),
        "ravdess_units: commas for semicolons": Case(
            "ravdess_units",
            UNITS_TABLE,
            lambda path: path.write_text(path.read_text().replace(";", ",")),
            ["lacks the columns name", "';' between"],
        ),
        "ravdess_units: no UTF-8": Case(
            "ravdess_units", UNITS_TABLE, append(b"caf\xe9"), ["no table", "utf-8"]
        ),
        "ravdess_units: NaN": Case(
            "ravdess_units",
            UNITS_TABLE,
            units("AU12_r", "NaN"),
            ["line 5", "AU12_r", "a number from 0 to 5"],
            RAVDESS_CLIPS[3],
        ),
        "ravdess_units: out of range": Case(
            "ravdess_units",
            UNITS_TABLE,
            units("AU45_c", 1.5),
            ["line 5", "AU45_c", "'1.5'", "0 to 1"],
            RAVDESS_CLIPS[3],
        ),
        "ravdess_units: no face": Case(
            "ravdess_units",
            UNITS_TABLE,
            units(list(UNITS), 0),
            ["line 5", "all units of .* are 0"],
            RAVDESS_CLIPS[3],
        ),
        "ravdess_units: silence": Case(
            "ravdess_units",
            SPOKEN,
            lambda path: soundfile.write(path, np.zeros(9000), 8000),
            ["silent throughout"],
            RAVDESS_CLIPS[4],
        ),
        "ravdess_units: one clip twice": Case(
            "ravdess_units",
            UNITS_TABLE,
            units("name", f"01-{RAVDESS_CLIPS[2]}"),
            ["line 5", "a second time"],
        ),
        "ravdess_units: a column twice": Case(
            "ravdess_units", UNITS_TABLE, replace("AU45_c", "AU28_c"), ["AU28_c", "twice"]
        ),
        "ravdess_units: wav is a folder": Case(
            "ravdess_units",
            SPOKEN,
            folder_instead,
            ["no audio of this clip"],
            RAVDESS_CLIPS[4],
            named="raw",
        ),
        # VGGSound
        "vggsound50k: truncated features": Case(
            "vggsound50k", VIDEO, cut, ["no whole .npy"], CLIP
        ),
        "vggsound50k: a pickle": Case(
            "vggsound50k",
            AUDIO,
            lambda path: np.save(path, np.array([{}], object), allow_pickle=True),
            ["no whole .npy file of numbers"],
            CLIP,
        ),
        "vggsound50k: wrong shape": Case(
            "vggsound50k", AUDIO, array(lambda of: of[:, 1:]), [r"\(10, 127\)", "10, 128"], CLIP
        ),
        "vggsound50k: NaN": Case(
            "vggsound50k", VIDEO, array(put(3, np.nan)), ["NaN or infinity"], CLIP
        ),
        "vggsound50k: nothing heard": Case(
            "vggsound50k", AUDIO, array(np.zeros_like), ["holds 0 throughout"], CLIP
        ),
        "vggsound50k: nothing seen": Case(
            "vggsound50k", VIDEO, array(np.zeros_like), ["holds 0 throughout"], CLIP
        ),
        "vggsound50k: dangling link": Case("vggsound50k", VIDEO, dangling, ["is missing"], CLIP),
        "vggsound50k: link out of the folder": Case(
            "vggsound50k", VIDEO, link_out, ["line 3", "link .* out of", "the whole folder"]
        ),
        "vggsound50k: path with ..": Case(
            "vggsound50k",
            VGGSOUND_META,
            replace(CLIP, f"../video/{CLIP}"),
            ["line 3", "no plain file name"],
        ),
        "vggsound50k: class of forty digits": Case(
            "vggsound50k", VGGSOUND_META, replace("&2", f"&{'9' * 40}"), ["line 3", "class"]
        ),
        "vggsound50k: class of five thousand digits": Case(
            "vggsound50k", VGGSOUND_META, replace("&2", f"&{'9' * 5000}"), ["line 3", "class"]
        ),
        "vggsound50k: class without a name": Case(
            "vggsound50k",
            VGGSOUND_TABLE,
            lambda path: path.write_text(path.read_text().replace('"dog, barking"', "")),
            ["line", "no category"],
        ),
        "vggsound50k: id in two splits": Case(
            "vggsound50k", VGGSOUND_TABLE, append(f"x,{CLIP},0,test"), ["line 15", "stands twice"]
        ),
        "vggsound50k: unknown split": Case(
            "vggsound50k",
            VGGSOUND_TABLE,
            replace(",val\n", ",vall\n"),
            ["line 5", "'vall'", "did you mean 'val'"],
        ),
        "vggsound50k: no UTF-8": Case(
            "vggsound50k", VGGSOUND_META, append(b"caf\xe9&0"), ["no UTF-8", "line 13"]
        ),
        "vggsound50k: nobody to test": Case(
            "vggsound50k",
            VGGSOUND_TABLE,
            lambda path: path.write_text(path.read_text().replace(",test\n", ",train\n")),
            ["'test' is empty"],
        ),
        # CrisisMMD
        "crisismmd: empty table": Case("crisismmd", DEV, text(""), ["line 1", "unknown column"]),
        "crisismmd: half a line": Case(
            "crisismmd", TRAIN, append("hurricane\t7"), ["line 11 has 2 fields"]
        ),
        "crisismmd: no UTF-8": Case(
            "crisismmd", TRAIN, append(b"caf\xe9"), ["line 11 is no UTF-8"]
        ),
        "crisismmd: unknown label": Case(
            "crisismmd",
            TEST,
            append(tweet_row(30, label="vehicle_damages")),
            ["line 11", "did you mean 'vehicle_damage'"],
        ),
        "crisismmd: rounded id": Case(
            "crisismmd", DEV, append(tweet_row(30, tweet_id="9.14E+18")), ["line 11", "digits"]
        ),
        "crisismmd: path with ..": Case(
            "crisismmd",
            TRAIN,
            append(tweet_row(30, image="data_image/../../../x.jpg")),
            ["line 11", "within"],
        ),
        "crisismmd: absolute path": Case(
            "crisismmd", TRAIN, append(tweet_row(30, image="/etc/hostname")), ["line 11", "within"]
        ),
        "crisismmd: endless path": Case(
            "crisismmd", TRAIN, append(tweet_row(30, image="a" * 5000)), ["line 11", "too long"]
        ),
        "crisismmd: one photograph of two tweets": Case(
            "crisismmd",
            TEST,
            append(tweet_row(30, image=tweet_row(2).split("\t")[4])),
            ["line 11", tweet_id(2), "2_0.jpg", "one tweet"],
        ),
        "crisismmd: missing photograph": Case(
            "crisismmd", PHOTO, Path.unlink, ["is missing"], tweet_id(21)
        ),
        "crisismmd: link out of the folder": Case(
            "crisismmd", PHOTO, link_out, [tweet_id(21), "link .* out of", "the whole folder"]
        ),
        "crisismmd: image bomb": Case(
            "crisismmd", PHOTO, png_bomb, ["100000000 pixels", "limit"], tweet_id(21)
        ),
        "crisismmd: another format": Case(
            "crisismmd",
            PHOTO,
            lambda path: Image.new("RGB", (64, 48)).save(path, "BMP"),
            ["is BMP", "JPEG, PNG, GIF and WebP are read"],
            tweet_id(21),
        ),
        "crisismmd: half an image": Case(
            "crisismmd", PHOTO, cut, ["no image that can be read"], tweet_id(21)
        ),
        # CrisisMMD, ready features
        "crisismmd_features: empty": Case(
            "crisismmd_features", "features.pth", text(""), ["no .pth of numpy"]
        ),
        "crisismmd_features: NaN": Case(
            "crisismmd_features",
            "features.pth",
            features(lambda i, t, y: (i, np.where(np.arange(40)[:, None] == 9, np.inf, t), y)),
            ["text of row 9", "NaN or infinity"],
        ),
        "crisismmd_features: label out of range": Case(
            "crisismmd_features",
            "features.pth",
            features(lambda i, t, y: (i, t, y + 1)),
            ["label of row 7 is 8", "0 to 7"],
        ),
        "crisismmd_features: no columns": Case(
            "crisismmd_features",
            "features.pth",
            features(lambda i, t, y: (torch.from_numpy(i)[:, :0], t, y)),
            [r"\(40, 0\)", "width"],
        ),
        "crisismmd_features: constant": Case(
            "crisismmd_features",
            "features.pth",
            features(lambda i, t, y: (i * 0 + np.arange(6), t, y)),
            ["modality 'image'", "alike in all 40 samples"],
        ),
        "crisismmd_features: no photograph": Case(
            "crisismmd_features",
            "features.pth",
            features(lambda i, t, y: (np.where(np.arange(40)[:, None] == 9, 0, i), t, y)),
            ["image of row 9 is 0 throughout"],
            "row-00009",
        ),
        "crisismmd_features: too few rows": Case(
            "crisismmd_features",
            "features.pth",
            features(lambda i, t, y: (i[:2], t[:2], y[:2])),
            ["is empty"],
        ),
        # NYU-Depth-V2, the publisher's file
        "nyudepthv2_mat: truncated": Case(
            "nyudepthv2_mat", "labeled.mat", cut, ["no whole HDF5 file"]
        ),
        "nyudepthv2_mat: a group for an array": Case(
            "nyudepthv2_mat",
            "labeled.mat",
            hdf5(lambda file: (file.pop("depths"), file.create_group("depths"))),
            ["'depths'", "no array"],
        ),
        "nyudepthv2_mat: colour of two bytes": Case(
            "nyudepthv2_mat",
            "labeled.mat",
            mat(images=nyu_arrays()["images"].astype(np.uint16)),
            ["'images' is uint16", "uint8"],
        ),
        "nyudepthv2_mat: depth of complex numbers": Case(
            "nyudepthv2_mat",
            "labeled.mat",
            mat(depths=nyu_arrays()["depths"].astype(complex)),
            ["'depths' is complex128"],
        ),
        "nyudepthv2_mat: negative label": Case(
            "nyudepthv2_mat",
            "labeled.mat",
            mat(labels=changed("labels", (4, 3, 3), -1, np.int16)),
            ["image 5", "label -1"],
            "0005",
        ),
        "nyudepthv2_mat: label beyond the mapping": Case(
            "nyudepthv2_mat",
            "labeled.mat",
            mat(labels=changed("labels", (4, 3, 3), 6)),
            ["image 5", "label 6", "ends at 5"],
            "0005",
        ),
        "nyudepthv2_mat: half a label": Case(
            "nyudepthv2_mat",
            "labeled.mat",
            mat(labels40=changed("labels", (4, 3, 3), 2.5, np.float64)),
            ["image 5", "label 2.5", "whole number"],
            "0005",
        ),
        "nyudepthv2_mat: NaN in depth": Case(
            "nyudepthv2_mat",
            "labeled.mat",
            mat(depths=changed("depths", (9, 1, 1), np.nan)),
            ["image 10", "depth", "NaN or infinity"],
            "0010",
        ),
        "nyudepthv2_mat: no depth": Case(
            "nyudepthv2_mat",
            "labeled.mat",
            mat(depths=changed("depths", 9, 0)),
            ["image 10", "depth is 0.0 in all pixels"],
            "0010",
        ),
        "nyudepthv2_mat: rooms that are no references": Case(
            "nyudepthv2_mat",
            "labeled.mat",
            hdf5(
                lambda file: (
                    file.pop("sceneTypes"),
                    file.create_dataset("sceneTypes", data=np.arange(COUNT)),
                )
            ),
            ["'sceneTypes'"],
        ),
        "nyudepthv2_mat: an image in two splits": Case(
            "nyudepthv2_mat",
            "splits.mat",
            lambda path: scipy.io.savemat(
                path, {"trainNdxs": np.arange(1, 8), "testNdxs": np.arange(7, 12)}
            ),
            ["image 7", "each once"],
        ),
        "nyudepthv2_mat: a split of text": Case(
            "nyudepthv2_mat",
            "splits.mat",
            lambda path: scipy.io.savemat(path, {"trainNdxs": ["a", "b"], "testNdxs": [1]}),
            ["'trainNdxs'", "whole numbers"],
        ),
        "nyudepthv2_mat: a split of fractions": Case(
            "nyudepthv2_mat",
            "splits.mat",
            lambda path: scipy.io.savemat(
                path, {"trainNdxs": np.arange(1, 8) + 0.5, "testNdxs": np.arange(8, 12)}
            ),
            ["'trainNdxs'", "whole numbers"],
        ),
        "nyudepthv2_mat: a mapping of text": Case(
            "nyudepthv2_mat",
            "mapping.mat",
            lambda path: scipy.io.savemat(path, {"mapClass": ["wall", "bed"]}),
            ["'mapClass'", "whole numbers"],
        ),
        "nyudepthv2_mat: a mapping to class 41": Case(
            "nyudepthv2_mat",
            "mapping.mat",
            lambda path: write_nyu_mapping(path, [1, 41]),
            ["1 to 41, not 1 to 40"],
        ),
        "nyudepthv2_mat: fewer images in the split": Case(
            "nyudepthv2_mat",
            "splits.mat",
            lambda path: write_nyu_splits(path, count=COUNT - 1),
            ["image 11", "each once"],
        ),
        # NYU-Depth-V2, folders
        "nyudepthv2_folders: label out of range": Case(
            "nyudepthv2_folders",
            "labels/0003.png",
            image(np.full((H, W), 41, np.uint8)),
            ["labels are 41 to 41", "0 to 40"],
            "0003",
        ),
        "nyudepthv2_folders: colours for labels": Case(
            "nyudepthv2_folders",
            "labels/0003.png",
            image(np.zeros((H, W, 3), np.uint8)),
            ["RGB, not one channel"],
            "0003",
        ),
        "nyudepthv2_folders: depth of another shape": Case(
            "nyudepthv2_folders",
            "depths/0003.png",
            image(np.zeros((W, H), np.uint16)),
            ["6 x 8", "8 x 6"],
            "0003",
        ),
        "nyudepthv2_folders: labels as JPEG": Case(
            "nyudepthv2_folders",
            "labels/0003.png",
            lambda path: Image.new("L", (W, H), 3).save(path, "JPEG"),
            ["is JPEG", "lossless: PNG"],
            "0003",
        ),
        "nyudepthv2_folders: no depth": Case(
            "nyudepthv2_folders",
            "depths/0003.png",
            image(np.full((H, W), 65_535, np.uint16)),
            ["depth is 65535.0 in all pixels"],
            "0003",
        ),
        "nyudepthv2_folders: colour of one colour": Case(
            "nyudepthv2_folders",
            "images/0003.jpg",
            image(np.full((H, W, 3), 16, np.uint8)),
            [r"colour is \[16, 16, 16\] in all pixels"],
            "0003",
        ),
        "nyudepthv2_folders: depth in colours": Case(
            "nyudepthv2_folders",
            "depths/0003.png",
            lambda path: Image.new("P", (W, H)).save(path),
            ["has a palette", "8 or 16 bits of grey"],
            "0003",
        ),
        "nyudepthv2_folders: image bomb": Case(
            "nyudepthv2_folders", "depths/0003.png", png_bomb, ["100000000 pixels"], "0003"
        ),
        "nyudepthv2_folders: gif of gigapixels": Case(
            "nyudepthv2_folders", "images/0003.jpg", gif_header, ["no image|pixels"], "0003"
        ),
        "nyudepthv2_folders: missing pair": Case(
            "nyudepthv2_folders",
            "depths/0003.png",
            Path.unlink,
            ["no depth or no labels"],
            "0003",
            named="images",
        ),
        "nyudepthv2_folders: dangling link": Case(
            "nyudepthv2_folders", "images/0003.jpg", dangling, ["link that leads nowhere"]
        ),
        "nyudepthv2_folders: id in two splits": Case(
            "nyudepthv2_folders", "train.txt", append("9"), ["image 9", "test.txt"]
        ),
        "nyudepthv2_folders: id twice": Case(
            "nyudepthv2_folders", "train.txt", append("0004"), ["line 9", "stands twice"]
        ),
        "nyudepthv2_folders: no UTF-8": Case(
            "nyudepthv2_folders", "test.txt", append(b"caf\xe9"), ["line 5", "no UTF-8"]
        ),
        "nyudepthv2_folders: number of five thousand digits": Case(
            "nyudepthv2_folders", "test.txt", append("9" * 5000), ["line 5", "no number"]
        ),
        "nyudepthv2_folders: path with ..": Case(
            "nyudepthv2_folders", "train.txt", append("../labels/0003"), ["line 9", "no number"]
        ),
        # Whatever source it is
        "own: id twice": Case(
            "own", "index.csv", replace("s7,s7", "s6,s7"), ["'s6' of Table", "appears twice"]
        ),
        "own: id in two splits": Case(
            "own", "index.csv", append("s0,s0,test,0,0"), ["'s0' of Table", "appears twice"]
        ),
        "own: group in two splits": Case(
            "own", "index.csv", replace("s9,s9", "s9,s0"), ["group 's0'", r"\['test', 'train'\]"]
        ),
        "own: row without a label": Case(
            "own", "index.csv", replace("s3,s3,train,1", "s3,s3,train,"), ["row 3", "'label'"]
        ),
        "own: label out of range": Case(
            "own", "index.csv", replace("s3,s3,train,1", "s3,s3,train,2"), ["'s3' has label 2"]
        ),
        "own: unknown split": Case(
            "own", "index.csv", replace("s9,test", "s9,tset"), ["'tset'", "did you mean 'test'"]
        ),
        "own: a split without samples": Case(
            "own",
            "index.csv",
            lambda path: path.write_text(path.read_text().replace("valid", "train")),
            ["'valid' is empty"],
        ),
        "own: no rows": Case(
            "own",
            "index.csv",
            lambda path: path.write_text(path.read_text().splitlines()[0]),
            ["found no samples"],
        ),
        "own: a column lacks": Case(
            "own", "index.csv", replace("group", "grp"), ["lacks the column 'group'"]
        ),
        "own: NaN": Case(
            "own", "image.npy", array(put((7, 1), np.nan)), ["'image'", "'s7'", "finite"], named=""
        ),
        "own: objects": Case(
            "own", "audio.npy", array(lambda of: of.astype("U9")), ["'audio'", "<U", "number"],
            named="",
        ),
        "own: constant": Case(
            "own", "audio.npy", array(lambda of: of * 0), ["'audio'", "alike in all 10 samples"],
            named="index.csv",
        ),
    }
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", CASES)
def test_bad_data_is_refused_by_name_and_leaves_nothing(
    name: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    case = CASES[name]
    root, store = tmp_path / "raw", tmp_path / "stores" / "samples"
    shutil.copytree(whole(case.reader), root)
    case.spoil(root / case.file)
    error = refusal(case.reader, root, store)
    assert type(error) in {ValueError, FileNotFoundError, TypeError, DamagedSampleError}, repr(
        error
    )
    file = (case.named or case.file) if case.reader != "own" else case.named
    told = [re.escape(file), *case.rule]
    for wanted in told:
        assert re.search(wanted, str(error)), f"{wanted!r} is not in: {error}"
    if case.sample is None:
        return
    samples = ingest(case.reader, root, store, tolerated_share=0.4)
    assert list(samples.omitted) == [case.sample]
    for wanted in (w for w in told if w != case.sample):
        assert re.search(wanted, samples.omitted[case.sample])
    assert case.sample not in set(samples.index["id"])
    assert [path.name for path in store.parent.iterdir()] == ["samples"]


SPOILT = {case.reader: case for case in CASES.values()} | {
    case.reader: case for case in CASES.values() if case.sample
}
"""A case of every reader, found as late as possible."""


@pytest.mark.parametrize("reader", READERS)
def test_a_set_that_was_mended_makes_the_right_store(
    reader: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    root, store, case = tmp_path / "raw", tmp_path / "stores" / "samples", SPOILT[reader]
    shutil.copytree(whole(reader), root)
    case.spoil(root / case.file)
    refusal(reader, root, store)
    shutil.rmtree(root)
    shutil.copytree(whole(reader), root)
    mended = ingest(reader, root, store)
    assert mended.digest == ingest(reader, whole(reader), tmp_path / "plain" / "samples").digest
    assert not mended.omitted


@pytest.mark.parametrize("reader", READERS)
def test_the_same_set_unspoilt_is_read_wherever_a_link_leads_to_it(
    reader: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """Else a refusal would prove nothing; large sets lie on other disks, behind links."""
    plain = ingest(reader, whole(reader), tmp_path / "plain" / "samples")
    (tmp_path / "raw").symlink_to(whole(reader))
    linked = ingest(reader, tmp_path / "raw", tmp_path / "linked" / "samples")
    assert len(plain) > 2
    assert not plain.omitted
    assert linked.digest == plain.digest
