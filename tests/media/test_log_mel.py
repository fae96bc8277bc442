"""Log-mel spectrograms, against the definition computed with NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from mst_distill.media.log_mel import LogMel
from mst_distill.media.readers import UnreadableValueError

RATE = 4000
WINDOW, HOP = 256, 128  # 0.064 s and 0.032 s


def spectrogram(wave: np.ndarray) -> np.ndarray:
    """``(64, T)``: Hann windows centred on multiples of the hop, triangles on the mel scale."""
    padded = np.pad(wave, WINDOW // 2)
    starts = range(0, len(padded) - WINDOW + 1, HOP)
    hann = np.sin(np.pi * np.arange(WINDOW) / WINDOW) ** 2
    power = np.stack(
        [np.abs(np.fft.rfft(padded[start : start + WINDOW] * hann)) ** 2 for start in starts], 1
    )
    mels = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), 64 + 2)
    corners = 700 * (10 ** (mels / 2595) - 1)
    hertz = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    bands = np.stack(
        [
            np.clip(np.minimum((hertz - low) / (mid - low), (high - hertz) / (high - mid)), 0, None)
            for low, mid, high in zip(corners, corners[1:], corners[2:], strict=False)
        ]
    )
    return bands @ power


def noise(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    time = np.arange(int(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * 440 * time) + 0.01 * rng.normal(size=len(time))


def test_the_values_are_decibels_below_the_peak(tmp_path: Path) -> None:
    wave = noise(0.5)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    found = LogMel(0.5, RATE).read([tmp_path / "a.wav"])[0]
    power = spectrogram(wave)
    with np.errstate(divide="ignore"):
        decibels = 10 * np.log10(power / power.max())
    assert found.shape == (1, 64, 16)
    np.testing.assert_allclose(found[0], np.clip(1 + decibels / 80, 0, None), atol=2e-4)
    assert found.max() == 1
    loud = found[0, :, 8].argmax()  # of 64 bands up to 2 kHz, 440 Hz is in the one around it
    centre = 2595 * np.log10(1 + 440 / 700) / (2595 * np.log10(1 + 2000 / 700)) * 65 - 1
    assert abs(loud - centre) <= 1


def test_the_middle_of_a_long_file_is_used_and_a_short_one_is_padded(tmp_path: Path) -> None:
    wave = noise(1.0)
    soundfile.write(tmp_path / "long.wav", wave, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "middle.wav", wave[1000:3000], RATE, subtype="FLOAT")
    reader = LogMel(0.5, RATE)
    long, middle = reader.read([tmp_path / "long.wav", tmp_path / "middle.wav"])
    np.testing.assert_array_equal(long, middle)
    padded = LogMel(1.0, RATE).read([tmp_path / "middle.wav"])[0]
    assert padded.shape == (1, 64, 32)
    assert (padded[0, :, 20:] == 0).all()


def test_a_clip_whose_middle_is_silent_is_an_error(tmp_path: Path) -> None:
    wave = noise(1.5)
    wave[1000:5000] = 0
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    with pytest.raises(UnreadableValueError, match=r"a\.wav: the middle 0\.5 s is silent"):
        LogMel(0.5, RATE).read([tmp_path / "a.wav"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0.01,), "seconds is 0.01; it must be at least 0.064"), ((1, 900), "rate is 900; it must")],
)
def test_invalid_arguments_are_errors(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogMel(*arguments)
