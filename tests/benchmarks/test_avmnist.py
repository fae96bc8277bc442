"""Tests of AV-MNIST from the raw files and from MultiBench's, on real data and on tiny files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mst_distill.benchmarks.avmnist import AVMNIST, MultiBenchAVMNIST
from mst_distill.benchmarks.source import DamagedSampleError
from mst_distill.benchmarks.splits import check_splits
from mst_distill.media.sound import read_sound
from mst_distill.media.spoken_digits import LENGTH
from raw_sets import write_avmnist, write_idx, write_mnist, write_multibench, write_tone

TONE = 8000 / 222
"""Distance between two rows of a spectrogram in Hz."""


@pytest.fixture(scope="module")
def real(shared_data: Path) -> AVMNIST:
    folders = {
        "mnist": shared_data / "mnist",
        "speech": shared_data / "fsdd" / "recordings",
        "noise": shared_data / "esc50_noise" / "audio_8k_flac",
    }
    for folder in folders.values():
        if not folder.is_dir():
            pytest.skip(f"{folder} is absent")
    source = AVMNIST("heldout", **{name: str(folder) for name, folder in folders.items()})
    source.fit(Path())
    return source


def test_every_mnist_image_has_one_pair(real: AVMNIST) -> None:
    check_splits(real.index)
    assert real.index["split"].value_counts().to_dict() == {
        "train": 48_000,
        "valid": 12_000,
        "test": 10_000,
    }
    assert sorted(real.index["image"]) == list(range(70_000))
    assert set(real.index.loc[real.index["split"] == "test", "image"]) == set(range(60_000, 70_000))


def test_no_speaker_recording_clip_or_image_is_in_two_splits(real: AVMNIST) -> None:
    for column in ("group", "recording", "noise", "image"):
        assert (real.index.groupby(column)["split"].nunique() == 1).all(), column
    speakers = real.index.groupby("split")["group"].nunique()
    assert speakers.to_dict() == {"train": 4, "valid": 1, "test": 1}
    clips = real.index.groupby("split")["noise"].nunique()
    assert clips.to_dict() == {"train": 150, "valid": 50, "test": 50}


def test_recording_and_image_have_the_same_digit(real: AVMNIST) -> None:
    recordings = [real.files[4 + row].name.split("_") for row in real.index["recording"]]
    assert [int(digit) for digit, _, _ in recordings] == real.index["label"].tolist()
    assert [speaker for _, speaker, _ in recordings] == real.index["group"].tolist()


def test_real_samples_have_the_shapes_of_the_networks_inputs(real: AVMNIST) -> None:
    samples = real.read(real.index.iloc[::3500])
    assert samples["image"].shape == (20, 1, 28, 28)
    assert samples["audio"].shape == (20, 1, 112, 112)
    for values in samples.values():
        assert values.dtype == np.float32
        assert (values.min(axis=(1, 2, 3)) == 0).all()
        assert (values.max(axis=(1, 2, 3)) == 1).all()


def test_a_sample_does_not_depend_on_the_samples_read_with_it(real: AVMNIST) -> None:
    five, two = real.read(real.index[:5]), real.read(real.index[3:5])
    for name in five:
        np.testing.assert_array_equal(five[name][3:5], two[name])


def test_images_keep_a_quarter_of_their_energy(real: AVMNIST) -> None:
    reduced = real.read(real.index[:300])["image"].reshape(300, -1)
    values = np.linalg.svd(reduced, compute_uv=False)
    # The mean image and the offset from the scaling of each image span two more directions.
    components = (values > 1e-4 * values[0]).sum() - 2
    raw = np.frombuffer(gzip.decompress(real.files[0].read_bytes()), np.uint8, offset=16)
    energy = np.linalg.eigvalsh(np.cov(raw.reshape(-1, 784)[:10_000].T))[::-1]
    assert energy[:components].sum() / energy.sum() == pytest.approx(0.25, abs=0.03)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with 30 + 10 images, three speakers, and three noise clips at twice the rate."""
    write_avmnist(tmp_path, hertz=(28 * TONE, 56 * TONE))
    return tmp_path


def open_raw(root: Path, protocol: str = "heldout", **arguments: float) -> AVMNIST:
    source = AVMNIST(
        protocol, str(root / "mnist"), str(root / "speech"), str(root / "noise"), **arguments
    )
    source.fit(root)
    return source


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_is_resampled_and_mixed_at_the_requested_ratio(raw: Path, snr_db: float) -> None:
    source = open_raw(raw, snr_db=snr_db)
    frame = source.read(source.index[:1])["audio"][0, 0, :, 56]
    assert frame[28] == pytest.approx(1, abs=1e-6)
    # Spectrograms of pure tones reach the level of clipping, so that the range [0, 1] is 80 dB.
    assert 80 * (frame[28] - frame[56]) == pytest.approx(snr_db, abs=0.5)


def test_a_quiet_recording_is_not_clipped_at_the_peak_of_a_loud_one(raw: Path) -> None:
    for path in (raw / "speech").glob("0_*"):
        write_tone(path, 28 * TONE, 1, 8000, peak=0.001, subtype="FLOAT")
    source = open_raw(raw)
    ten, one = source.read(source.index[:10]), source.read(source.index[:1])
    np.testing.assert_array_equal(ten["audio"][:1], one["audio"])


def test_the_projection_is_fitted_on_test_images_under_random_only(raw: Path) -> None:
    before = {protocol: open_raw(raw, protocol) for protocol in ("heldout", "random")}
    write_mnist(raw / "mnist", test_images=2)
    train = before["heldout"].index.query("split == 'train'")
    for protocol, equal in (("heldout", True), ("random", False)):
        after = open_raw(raw, protocol)
        assert after.index.equals(before["heldout"].index)
        images = [source.read(train)["image"] for source in (before[protocol], after)]
        assert np.allclose(*images, atol=1e-5) == equal


def test_the_pair_seed_determines_the_pairs(raw: Path) -> None:
    assert open_raw(raw).index.equals(open_raw(raw).index)
    assert not open_raw(raw).index.equals(open_raw(raw, pair_seed=1).index)


def test_hidden_files_are_ignored(raw: Path) -> None:
    before = open_raw(raw).index
    for name in ("speech/._0_ann_0.wav", "noise/._0.wav"):
        (raw / name).write_bytes(b"left by an archive")
    assert open_raw(raw).index.equals(before)


def write_gaps(raw: Path, start: int, end: int) -> None:
    """Write noise clips of 2 s with digital silence between the samples `start` and `end`."""
    for clip in range(3):
        wave = np.random.default_rng(clip).uniform(0.1, 0.3, 16_000)
        wave[start:end] = 0
        soundfile.write(raw / "noise" / f"{clip}.wav", wave, 8000)


def test_no_offset_makes_the_noise_silent(raw: Path) -> None:
    """The offsets at which the noise is audible stay as they are without the gap."""
    gap = (2000, 15_000)
    write_gaps(raw, 0, 0)
    without_gap = open_raw(raw).index
    write_gaps(raw, *gap)
    index = open_raw(raw).index
    silent = (without_gap["offset"] >= gap[0]) & (without_gap["offset"] + LENGTH <= gap[1])
    assert 0 < silent.sum() < len(without_gap)
    assert index[~silent].equals(without_gap[~silent])
    offset = index["offset"]
    assert not ((offset >= gap[0]) & (offset + LENGTH <= gap[1])).any()
    assert offset.between(0, 16_000 - LENGTH).all()
    assert index.drop(columns="offset").equals(without_gap.drop(columns="offset"))
    assert open_raw(raw).index.equals(index)


def test_the_noise_of_a_real_sample_is_not_silent(real: AVMNIST) -> None:
    files = [file for file in real.files if "esc50_noise" in file.parts]
    used = real.index["noise"].unique()
    clips = {row: np.trim_zeros(read_sound(files[row], 8000)[0]) for row in used}
    for row, offset in real.index[["noise", "offset"]].itertuples(index=False):
        noise = np.resize(clips[row], max(len(clips[row]), LENGTH))[offset : offset + LENGTH]
        assert noise.any(), (files[row], offset)


def silence(seconds: float, tone_samples: int = 0) -> Callable[[Path], None]:
    """Write digital silence, followed by a tone of some samples."""
    wave = np.r_[np.zeros(int(8000 * seconds)), np.sin(np.arange(tone_samples)) / 10]
    return lambda path: soundfile.write(path, wave, 8000)


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (silence(0.5), "the file is silent throughout, all 4000 audio samples are 0"),
        (silence(1, tone_samples=400), r"the part that is used, 0.999 s, is silent throughout"),
    ],
)
def test_a_silent_recording_raises_an_error(
    raw: Path, damage: Callable[[Path], None], rule: str
) -> None:
    damage(raw / "speech" / "7_ann_0.wav")
    with pytest.raises(ValueError, match=rf"7_ann_0\.wav: {rule}"):
        open_raw(raw)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


IMAGES, LABELS = "mnist/train-images-idx3-ubyte.gz", "mnist/t10k-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("file", "damage", "rule"),
    [
        (LABELS, Path.unlink, "is missing: put MNIST's four files"),
        (LABELS, truncate, "not a complete gzip file"),
        (LABELS, lambda file: file.write_bytes(b"<html>"), "not a complete gzip file"),
        (LABELS, lambda file: file.write_bytes(gzip.compress(b"\0\0")), "2 bytes are fewer"),
        (LABELS, lambda file: write_idx(file, np.zeros(10), magic=2051), "magic number 2051"),
        (LABELS, lambda file: write_idx(file, np.zeros(9)), "9 labels for 10 images"),
        (LABELS, lambda file: write_idx(file, np.full(10, 11)), "label 0 is 11, expected 0 to 9"),
        (IMAGES, lambda file: write_idx(file, np.zeros((30, 27, 28))), r"expected \(28, 28\)"),
        (
            IMAGES,
            lambda file: file.write_bytes(
                gzip.compress(np.array([2051, 30, 28, 28], ">i4").tobytes() + b"1234")
            ),
            r"4 bytes of data do not fill the shape \[30, 28, 28\]",
        ),
        (
            "speech/seven_ann_0.wav",
            lambda file: write_tone(file, TONE, 1, 8000),
            "does not match {digit}_",
        ),
        ("speech/7_ann_0.wav", lambda file: file.write_bytes(b"RIFF"), "no audio that soundfile"),
        (
            "speech/7_ann_0.wav",
            lambda file: soundfile.write(file, [], 8000),
            "holds 0 audio samples",
        ),
        ("noise/0.ogg", lambda file: file.write_bytes(b""), "no audio that soundfile"),
        (
            "noise/0.wav",
            lambda file: soundfile.write(file, np.zeros(9), 8000),
            "silent throughout",
        ),
    ],
)
def test_the_error_names_the_damaged_file(
    raw: Path, file: str, damage: Callable[[Path], object], rule: str
) -> None:
    damage(raw / file)
    with pytest.raises((ValueError, FileNotFoundError), match=rule) as error:
        open_raw(raw)
    assert file in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        ("speech/7_*", "speech: there is no wav of digit 7 by the speakers of the split 'train'"),
        ("speech/*_ann_*", "2 speakers in `speech`: at least 3 are needed"),
        ("speech/*", r"speech contains no \['.wav'\]: put spoken digits named"),
        ("noise/0*", "2 clips in `noise`: at least 3 are needed"),
        ("noise/*", "noise contains no .* put noise clips"),
    ],
)
def test_too_few_files_raise_an_error(raw: Path, pattern: str, rule: str) -> None:
    for file in raw.glob(pattern):
        file.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=rule):
        open_raw(raw)


def test_the_error_for_a_missing_folder_states_its_contents(raw: Path) -> None:
    for folder, contents in (
        ("noise", "ESC-50"),
        ("speech", "Free Spoken"),
        ("mnist", "torchvision"),
    ):
        (raw / folder).rename(raw / f"no-{folder}")
        with pytest.raises(FileNotFoundError, match=f"{folder} is not a folder: put .*{contents}"):
            open_raw(raw)


@pytest.fixture
def multibench(tmp_path: Path) -> Path:
    """A folder with 50 training and 10 test samples."""
    write_multibench(tmp_path)
    return tmp_path


def test_multibench_keeps_its_test_set(multibench: Path) -> None:
    index = MultiBenchAVMNIST("heldout", str(multibench)).index
    check_splits(index)
    assert index["split"].value_counts().to_dict() == {"train": 40, "valid": 10, "test": 10}
    assert (index["split"] == "test").tolist() == [False] * 50 + [True] * 10
    assert sorted(index.query("split == 'valid'")["label"]) == list(range(10))
    assert index["id"].iloc[[12, 52]].tolist() == ["train-00012", "test-00002"]


def test_multibench_reads_the_requested_rows(multibench: Path) -> None:
    source = MultiBenchAVMNIST("random", str(multibench))
    samples = source.read(source.index.iloc[[52, 3]])
    assert samples["image"].shape == (2, 1, 28, 28)
    assert samples["audio"].shape == (2, 1, 112, 112)
    for name, values in samples.items():
        assert values.dtype == np.float32
        for value, split, row in zip(values, ("test", "train"), (2, 3), strict=True):
            raw = np.load(multibench / name / f"{split}_data.npy")[row]
            scaled = (raw - raw.min()) / (raw.max() - raw.min())
            np.testing.assert_allclose(value.ravel(), scaled.ravel(), atol=1e-6)


@pytest.mark.parametrize(("name", "split"), [("image", "test"), ("audio", "train")])
def test_a_constant_sample_of_multibench_is_damaged(
    multibench: Path, name: str, split: str
) -> None:
    file = multibench / name / f"{split}_data.npy"
    values = np.load(file)
    values[4] = -80.0
    np.save(file, values)
    source = MultiBenchAVMNIST("heldout", str(multibench))
    with pytest.raises(DamagedSampleError, match="row 4 has the same value throughout") as error:
        source.read(source.index)
    assert error.value.sample == f"{split}-00004"
    assert str(file) in error.value.reason


@pytest.mark.parametrize(
    ("file", "damage", "rule"),
    [
        ("audio/test_data.npy", Path.unlink, "is missing: put MultiBench's AV-MNIST"),
        ("image/train_data.npy", truncate, "not a complete .npy file"),
        ("image/train_data.npy", lambda file: file.write_bytes(b""), "not a complete .npy file"),
        ("audio/train_data.npy", lambda file: np.save(file, np.zeros((50, 112, 28))), "N, 112, 11"),
        ("audio/train_data.npy", lambda file: np.save(file, np.zeros((9, 112, 112))), "for 50"),
        ("test_labels.npy", lambda file: np.save(file, np.zeros(9)), "9 labels for 10 images"),
        ("test_labels.npy", lambda file: np.save(file, np.full(10, -1)), "label 0 is -1"),
        ("test_labels.npy", lambda file: np.save(file, np.float64(3)), r"shape \(\), expected"),
    ],
)
def test_the_error_names_the_damaged_multibench_file(
    multibench: Path, file: str, damage: Callable[[Path], object], rule: str
) -> None:
    damage(multibench / file)
    with pytest.raises((ValueError, FileNotFoundError), match=rule) as error:
        MultiBenchAVMNIST("heldout", str(multibench))
    assert file in str(error.value)


def test_the_error_for_a_missing_multibench_folder_states_its_contents(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder: put MultiBench's"):
        MultiBenchAVMNIST("heldout", str(tmp_path / "none"))
