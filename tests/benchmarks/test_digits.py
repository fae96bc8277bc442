"""Tests of the embedded benchmark, compared with its raw arrays."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mst_distill.benchmarks.digits import Digits
from mst_distill.benchmarks.opening import open_source
from mst_distill.benchmarks.splits import check_splits
from mst_distill.parameters import Benchmark

RECORDINGS = Path(__file__).parents[2] / "data" / "01_raw" / "digits" / "digits.npz"


@pytest.fixture(scope="module")
def raw() -> dict[str, np.ndarray]:
    with np.load(RECORDINGS) as arrays:
        return dict(arrays)


def fitted_source(protocol: str = "heldout", **arguments: float) -> Digits:
    source = Digits(protocol, str(RECORDINGS), **arguments)
    source.fit(Path())
    return source


@pytest.fixture(scope="module")
def source() -> Digits:
    return fitted_source()


@pytest.fixture(scope="module")
def everything(source: Digits) -> dict[str, np.ndarray]:
    return source.read(source.index)


def recording(raw: dict[str, np.ndarray], row: int) -> np.ndarray:
    """Return the frames of one recording that are used, ``(length, 13)`` with length <= 32."""
    start = raw["lengths"][:row].sum()
    return raw["X"][start : start + raw["lengths"][row]][:32].astype(np.float64)


def test_no_image_or_recording_is_used_twice(source: Digits) -> None:
    check_splits(source.index)
    for column in ("image", "recording", "id", "group"):
        assert source.index[column].is_unique, column
    assert source.index["image"].between(0, 1796).all()
    assert source.index["recording"].between(0, 2999).all()


def test_nearly_every_image_is_paired_within_its_split(source: Digits) -> None:
    assert source.index["split"].value_counts().to_dict() == {
        "train": 1078,
        "valid": 360,
        "test": 359,
    }
    counts = source.index.groupby(["split", "label"]).size().unstack()
    assert counts.loc["train"].between(100, 112).all()
    assert counts.loc[["valid", "test"]].min().min() > 30


def test_image_and_recording_have_the_same_digit(
    source: Digits, raw: dict[str, np.ndarray]
) -> None:
    _, image_labels = load_digits(return_X_y=True)
    label = source.index["label"]
    assert (image_labels[source.index["image"]] == label).all()
    assert (raw["y"][source.index["recording"]] == label).all()
    assert source.classes == tuple("0123456789")


def test_an_id_names_image_and_recording(source: Digits) -> None:
    expected = [
        f"image-{image:04d}_recording-{row:04d}"
        for image, row in source.index[["image", "recording"]].to_numpy()
    ]
    assert source.index["id"].tolist() == expected


def test_pairs_are_drawn_at_random_within_a_digit(source: Digits) -> None:
    part = source.index.query("split == 'train' and label == 3")
    assert abs(np.corrcoef(part["image"], part["recording"])[0, 1]) < 0.35
    assert not part["recording"].is_monotonic_increasing


def test_shapes_and_ranges(everything: dict[str, np.ndarray]) -> None:
    assert {name: array.shape[1:] for name, array in everything.items()} == {
        "image": (1, 8, 8),
        "audio": (13, 32),
    }
    image = everything["image"]
    assert {array.dtype for array in everything.values()} == {np.dtype(np.float32)}
    assert (image.min(axis=(1, 2, 3)) == 0).all()
    assert (image.max(axis=(1, 2, 3)) == 1).all()
    assert np.isfinite(everything["audio"]).all()


@pytest.mark.parametrize(("protocol", "kept_energy"), [("heldout", 0.3), ("random", 0.7)])
def test_images_keep_about_the_requested_share_of_energy(protocol: str, kept_energy: float) -> None:
    source = fitted_source(protocol, kept_energy=kept_energy)
    fit = source.index if protocol == "random" else source.index[source.index["split"] == "train"]
    images, _ = load_digits(return_X_y=True)
    fitted = images[fit["image"]]
    variance, axes = np.linalg.eigh(np.cov(fitted.T))
    share = np.cumsum(variance[::-1]) / variance.sum()
    count = int(np.abs(share - kept_energy).argmin()) + 1
    assert share[count - 1] == pytest.approx(kept_energy, abs=0.03)
    components = axes[:, ::-1][:, :count]
    part = source.index.sample(50, random_state=0)
    centred = images[part["image"]] - fitted.mean(axis=0)
    reduced = centred @ components @ components.T + fitted.mean(axis=0)
    low, high = reduced.min(axis=1, keepdims=True), reduced.max(axis=1, keepdims=True)
    found = source.read(part)["image"].reshape(50, 64)
    np.testing.assert_allclose(found, (reduced - low) / (high - low), atol=1e-5)


@pytest.mark.parametrize("protocol", ["heldout", "random"])
def test_recordings_are_standardised_on_the_samples_of_the_protocol(
    raw: dict[str, np.ndarray], protocol: str
) -> None:
    source = fitted_source(protocol)
    fit = source.index if protocol == "random" else source.index[source.index["split"] == "train"]
    frames = np.concatenate([recording(raw, row) for row in fit["recording"]])
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    part = source.index.groupby("split").sample(20, random_state=1)
    lengths = raw["lengths"][part["recording"]]
    assert lengths.min() < 32
    for audio, row in zip(source.read(part)["audio"], part["recording"], strict=True):
        expected = np.zeros((13, 32))
        scaled = (recording(raw, row) - mean) / deviation
        expected[:, : len(scaled)] = scaled.T
        np.testing.assert_allclose(audio, expected, atol=2e-5)


def test_training_recordings_have_mean_0_and_standard_deviation_1(
    source: Digits, everything: dict[str, np.ndarray], raw: dict[str, np.ndarray]
) -> None:
    train = (source.index["split"] == "train").to_numpy()
    length = np.minimum(raw["lengths"][source.index["recording"]], 32)[train]
    recorded = np.arange(32) < length[:, None]
    audio = np.moveaxis(everything["audio"][train].astype(np.float64), 1, -1)
    np.testing.assert_allclose(audio[recorded].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(audio[recorded].std(axis=0), 1, atol=1e-5)
    assert (audio[~recorded] == 0).all()


def test_both_protocols_have_the_same_pairs(source: Digits) -> None:
    assert Digits("random", str(RECORDINGS)).index.equals(source.index)


def test_equal_arguments_yield_equal_samples(
    source: Digits, everything: dict[str, np.ndarray]
) -> None:
    np.random.default_rng(9)
    again = fitted_source()
    assert again.index.equals(source.index)
    assert again.fingerprint() == source.fingerprint()
    for name, array in again.read(again.index).items():
        np.testing.assert_array_equal(array, everything[name])


def test_the_split_seed_determines_splits_and_pairs(source: Digits) -> None:
    other = Digits("heldout", str(RECORDINGS), split_seed=1)
    check_splits(other.index)
    assert not other.index.equals(source.index)
    assert other.fingerprint() != source.fingerprint()
    for column in ("image", "recording"):
        assert other.index[column].is_unique


def test_a_sample_does_not_depend_on_the_samples_read_with_it(
    source: Digits, everything: dict[str, np.ndarray]
) -> None:
    part = source.read(source.index.iloc[[700, 3]])
    for name, array in part.items():
        np.testing.assert_array_equal(array, everything[name][[700, 3]])


def test_the_error_for_a_missing_file_states_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "digits.npz"
    with pytest.raises(FileNotFoundError, match=re.escape(f"{path} is missing")) as error:
        Digits("heldout", str(path))
    assert "data/01_raw/digits" in str(error.value)
    assert "benchmark.arguments.recordings" in str(error.value)


def remove(name: str) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda arrays: arrays.pop(name)


def shorten(name: str) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda arrays: arrays.update({name: arrays[name][:-1]})


def insert_infinity(arrays: dict[str, np.ndarray]) -> None:
    frames = arrays["X"].copy()
    frames[arrays["lengths"][:7].sum(), 3] = np.inf
    arrays["X"] = frames


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (insert_infinity, "recording 7 in X contains NaN or infinity"),
        (remove("X"), "X is not a file in the archive.*must contain X, y and lengths"),
        (remove("y"), "y is not a file"),
        (remove("lengths"), "lengths is not a file"),
        (shorten("X"), "53998 frames and 3000 labels do not match the lengths, which sum to 53999"),
        (shorten("y"), "53999 frames and 2999 labels do not match .* over 3000 recordings"),
        (shorten("lengths"), "3000 labels do not match .* over 2999 recordings"),
    ],
)
def test_the_error_names_the_damaged_recording(
    tmp_path: Path,
    raw: dict[str, np.ndarray],
    damage: Callable[[dict[str, np.ndarray]], object],
    rule: str,
) -> None:
    arrays = dict(raw)
    damage(arrays)
    path = tmp_path / "digits.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=rule) as error:
        Digits("heldout", str(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_the_error_names_a_truncated_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "digits.npz"
    path.write_bytes(RECORDINGS.read_bytes()[:size])
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a readable .npz file")):
        Digits("heldout", str(path))


def test_the_error_names_a_file_that_cannot_be_decompressed(
    tmp_path: Path, raw: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "digits.npz"
    np.savez_compressed(path, **raw)
    content = bytearray(path.read_bytes())
    content[200:1200] = b"\xff" * 1000
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a readable .npz file")):
        Digits("heldout", str(path))


def test_with_dealt_groups_readers_are_fitted_on_their_training_split(tmp_path: Path) -> None:
    """What the readers make of training samples does not change if all others are spoiled."""
    block = Benchmark(
        type="mst_distill.benchmarks.digits.Digits", arguments={"recordings": str(RECORDINGS)}
    )
    found = []
    for spoiled in (False, True):
        source = open_source(block, "grouped", "all", 0, "2/5")
        assert isinstance(source, Digits)
        others = source.index[source.index["split"] != "train"]
        if spoiled:
            source._images = source._images.copy()
            source._images[others["image"]] = 16 - source._images[others["image"]]
            for row in others["recording"]:
                source._recordings[row] = 100 * source._recordings[row]
        source.fit(tmp_path)
        found.append(source.read(source.index[source.index["split"] == "train"]))
    for modality in ("image", "audio"):
        np.testing.assert_array_equal(found[0][modality], found[1][modality])
    own = open_source(block, "heldout", "all", 0)
    assert own.index["split"].to_numpy().tolist() != source.index["split"].to_numpy().tolist()
