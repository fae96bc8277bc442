"""Sound files: what is cut short is refused, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from mst_distill.media.sound import read_sound

RATE = 8000


def write(path: Path) -> Path:
    wave = np.random.default_rng(0).normal(size=4 * RATE).clip(-3, 3) / 10
    soundfile.write(path, wave, RATE)
    return path


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_a_whole_file_is_read_whole(tmp_path: Path, name: str) -> None:
    wave, seconds = read_sound(write(tmp_path / name), RATE)
    assert len(wave) == 4 * RATE
    assert seconds == 4


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@pytest.mark.parametrize("left", [0.3, 0.5, 0.9, -1])
def test_a_cut_file_is_refused(tmp_path: Path, name: str, left: float) -> None:
    file = write(tmp_path / name)
    whole = file.read_bytes()
    file.write_bytes(whole[: -1 if left == -1 else int(left * len(whole))])
    with pytest.raises(ValueError, match=name):
        read_sound(file, RATE)


def test_a_wav_from_a_pipe_is_read_whole(tmp_path: Path) -> None:
    """It does not know its length when its header is written."""
    file = write(tmp_path / "a.wav")
    content = bytearray(file.read_bytes())
    place = content.index(b"data") + 4
    content[4:8] = content[place : place + 4] = b"\xff" * 4
    file.write_bytes(content)
    wave, seconds = read_sound(file, RATE)
    assert len(wave) == 4 * RATE
    assert seconds == 4


def test_every_real_recording_is_whole(shared_data: Path) -> None:
    folders = ("ravdess/audio_ogg_22k/Actor_01", "esc50_noise/esc10_original_ogg")
    files = [file for folder in folders for file in sorted((shared_data / folder).rglob("*.ogg"))]
    if not files:
        pytest.skip(f"{shared_data} has neither RAVDESS nor ESC-10")
    for file in files:
        assert read_sound(file, 22_050)[1] > 0
