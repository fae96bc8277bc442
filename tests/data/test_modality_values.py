"""Statistics of a modality, compared with numpy on the whole array, and the warnings on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mst_distill.data.modality_values import measure_values, value_warnings

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 4, 5), (2, 6, 3, 3)])
@pytest.mark.parametrize("size", [1, 10_000])
def test_statistics_are_those_of_the_whole_array(
    shape: tuple[int, ...], size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The means of samples differ far more than the numbers of a sample; chunks may be uneven."""
    offsets = RNG.normal(1000, 300, size=(23, *[1] * len(shape)))
    array = (RNG.normal(size=(23, *shape)) + offsets).astype(np.float32)
    np.save(tmp_path / "array.npy", array)
    monkeypatch.setattr("mst_distill.data.modality_values.CHUNK_BYTES", size)
    found = measure_values("sound", np.load(tmp_path / "array.npy", mmap_mode="r"))
    whole = array.astype(np.float64)
    assert found == {
        "shape": f"{' x '.join(map(str, shape))} float32",
        "minimum": whole.min(),
        "maximum": whole.max(),
        "mean": pytest.approx(whole.mean(), rel=1e-12),
        "standard_deviation": pytest.approx(whole.std(), rel=1e-12),
        "constant_samples": None if shape == (1,) else 0.0,
    }


def test_a_small_deviation_from_a_large_mean_is_not_lost() -> None:
    """In float32 the mean square of 4096 and 4096.5 is off by more than their variance, 1/16."""
    array = np.full((1000, 64), 4096, np.float32)
    array[:, ::2] += 0.5
    found = measure_values("depth", array)
    assert found["mean"] == 4096.25
    assert found["standard_deviation"] == pytest.approx(0.25, rel=1e-12)


def test_constant_samples_are_counted_and_reported() -> None:
    array = RNG.normal(size=(40, 2, 3)).astype(np.float32)
    array[3], array[30] = 0, 0.7
    values = {"sound": measure_values("sound", array)}
    assert values["sound"]["constant_samples"] == pytest.approx(2 / 40)
    (warning,) = value_warnings(values)
    assert warning.startswith("The modality 'sound' is constant in 5.00% of the samples")
    assert "DamagedSampleError" in warning


def test_samples_of_one_number_are_not_called_constant() -> None:
    assert value_warnings({"age": measure_values("age", RNG.normal(size=(9, 1)))}) == []


UNIT = RNG.normal(size=(50, 30))


@pytest.mark.parametrize(
    "array",
    [
        UNIT,
        RNG.random((50, 30)),  # scaled to [0, 1]
        np.maximum(UNIT, 0) * 2,  # after a ReLU
        UNIT / np.linalg.norm(UNIT, axis=1, keepdims=True),  # normalized to length 1
        RNG.uniform(0.7, 10, (50, 30)),  # metres
        (RNG.random((50, 30)) < 0.3).astype(np.int64),
    ],
)
def test_scales_suitable_for_nets_give_no_warning(array: np.ndarray) -> None:
    assert value_warnings({"x": measure_values("x", array)}) == []


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RNG.integers(0, 256, (50, 30)).astype(np.float32), "between 0 and 255, with the mean 1"),
        (RNG.normal(-60, 15, (50, 30)), "with the mean -"),  # decibels
        (UNIT * 1e4, "far from unit scale"),
        (UNIT * 1e-4, "far from unit scale"),
        (UNIT + 300, "with the mean 300"),  # kelvin
    ],
)
def test_raw_scales_are_reported_with_advice(array: np.ndarray, expected: str) -> None:
    (warning,) = value_warnings(
        {"text": measure_values("text", UNIT), "x": measure_values("x", array)}
    )
    assert warning.startswith("The modality 'x' is far from unit scale")
    assert expected in warning
    assert "Scale the modality in the `read` method of its source" in warning
