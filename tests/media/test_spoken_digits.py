"""Recordings of spoken digits, compared with the embedded file of their MFCC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from mst_distill.media.spoken_digits import DigitFrames, DigitSpectrogram, digit_mfcc

EMBEDDED = Path(__file__).parents[2] / "data" / "01_raw" / "digits" / "digits.npz"


@pytest.fixture(scope="module")
def recordings(shared_data: Path) -> Path:
    folder = shared_data / "fsdd" / "recordings"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


def test_the_frames_of_a_recording_are_those_of_the_embedded_file(recordings: Path) -> None:
    """The file does not name its recordings: each wav must be one of those of its digit."""
    with np.load(EMBEDDED) as arrays:
        frames, labels, lengths = arrays["X"], arrays["y"], arrays["lengths"]
    embedded = np.split(frames, np.cumsum(lengths)[:-1])
    for file in sorted(recordings.glob("*.wav"))[::100]:
        found = digit_mfcc(file)
        same = [
            row for row in np.flatnonzero(labels == int(file.name[0])) if lengths[row] == len(found)
        ]
        differences = [np.abs(embedded[row] - found).max() for row in same]
        assert min(differences) < 1e-3, file
        assert sorted(differences)[1:2] == [] or sorted(differences)[1] > 1, file


def test_a_recording_and_its_frames_give_the_same_tensor(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / "a.wav"
    soundfile.write(file, rng.normal(size=3000) / 9, 8000)
    frames = digit_mfcc(file)
    assert frames.shape == (16, 13)
    reader = DigitFrames()
    reader.fit([frames, rng.normal(size=(50, 13))])
    np.testing.assert_array_equal(*(reader.read([value])[0] for value in (file, frames)))


def test_a_recording_of_another_rate_is_resampled(tmp_path: Path) -> None:
    time = np.arange(16_000) / 16_000
    for rate, step in ((16_000, 1), (8000, 2)):
        tone = np.sin(2 * np.pi * 700 * time[::step])
        soundfile.write(tmp_path / f"{rate}.wav", tone / 2, rate)
    fast, slow = (digit_mfcc(tmp_path / f"{rate}.wav") for rate in (16_000, 8000))
    assert fast.shape == slow.shape == (41, 13)
    np.testing.assert_allclose(fast[5:35, 0], slow[5:35, 0], atol=1.0)


def test_a_recording_that_is_too_short_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, np.random.default_rng(0).normal(size=200) / 9, 8000)
    with pytest.raises(ValueError, match=r"a\.wav: lasts 0\.025 s; more than 0\.025 s"):
        digit_mfcc(file)


def test_a_spectrogram_of_a_file_is_that_of_its_audio(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).normal(size=9000).astype(np.float32) / 9
    soundfile.write(tmp_path / "a.wav", wave, 8000, "FLOAT")
    reader = DigitSpectrogram()
    np.testing.assert_array_equal(*(reader.read([v])[0] for v in (tmp_path / "a.wav", wave)))
