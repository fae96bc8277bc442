"""Sound files: damaged or silent files are an error, and all others are read completely."""

from __future__ import annotations

from collections.abc import Callable
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
def test_an_intact_file_is_read_completely(tmp_path: Path, name: str) -> None:
    wave, seconds = read_sound(write(tmp_path / name), RATE)
    assert len(wave) == 4 * RATE
    assert seconds == 4


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@pytest.mark.parametrize("left", [0.3, 0.5, 0.9, -1])
def test_a_file_that_is_cut_short_is_an_error(tmp_path: Path, name: str, left: float) -> None:
    file = write(tmp_path / name)
    content = file.read_bytes()
    file.write_bytes(content[: -1 if left == -1 else int(left * len(content))])
    with pytest.raises(ValueError, match=name):
        read_sound(file, RATE)


def test_a_wav_from_a_pipe_is_read_completely(tmp_path: Path) -> None:
    """Its length is unknown when its header is written."""
    file = write(tmp_path / "a.wav")
    content = bytearray(file.read_bytes())
    offset = content.index(b"data") + 4
    content[4:8] = content[offset : offset + 4] = b"\xff" * 4
    file.write_bytes(content)
    wave, seconds = read_sound(file, RATE)
    assert len(wave) == 4 * RATE
    assert seconds == 4


def patch_sizes(file: Path, riff: int | None = None, data: int | None = None) -> Path:
    """Change the sizes that the header of a wav states, of the file and of its audio."""
    content = bytearray(file.read_bytes())
    offset = content.index(b"data") + 4
    for start, size in ((4, riff), (offset, data)):
        if size is not None:
            content[start : start + 4] = size.to_bytes(4, "little")
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("riff", "data"),
    [(0x7FFFF024, 0x7FFFF000), (0xFFFFFFFF, 0xFFFFFFFF), (2 * 4 * RATE + 44, None), (0, None)],
    ids=["sox to a pipe", "ffmpeg to a pipe", "8 bytes too many", "size of the file missing"],
)
def test_a_wav_with_a_wrong_header_is_read_completely(
    tmp_path: Path, riff: int, data: int | None
) -> None:
    expected, _ = read_sound(write(tmp_path / "a.wav"), RATE)
    wave, seconds = read_sound(patch_sizes(write(tmp_path / "b.wav"), riff, data), RATE)
    np.testing.assert_array_equal(wave, expected)
    assert seconds == 4


def test_a_wav_whose_header_states_no_audio_is_an_error_that_says_so(tmp_path: Path) -> None:
    file = patch_sizes(write(tmp_path / "a.wav"), data=0)
    with pytest.raises(ValueError, match=r"a\.wav: .* no audio, but 64000 bytes follow"):
        read_sound(file, RATE)


def test_a_wav_is_searched_for_its_chunk_of_audio(tmp_path: Path) -> None:
    """Other chunks may precede it, some of odd sizes; without it the file is cut short."""
    file = write(tmp_path / "a.wav")
    content = file.read_bytes()
    at = content.index(b"data")
    chunk = b"LIST" + (5).to_bytes(4, "little") + b"12345" + b"\0"
    file.write_bytes(content[:at] + chunk + content[at:])
    wave, _ = read_sound(file, RATE)
    assert len(wave) == 4 * RATE
    file.write_bytes(content[:at])
    with pytest.raises(ValueError, match=r"a\.wav: is cut short, there is no chunk of audio"):
        read_sound(file, RATE)


def test_telephone_audio_is_read(tmp_path: Path) -> None:
    wave = np.sin(np.arange(2 * RATE) / 5) / 2
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="GSM610")
    found, _ = read_sound(tmp_path / "a.wav", RATE)
    assert 2 * RATE <= len(found) < 2 * RATE + 640  # whole blocks
    assert np.corrcoef(found[:1000], wave[:1000])[0, 1] > 0.9


@pytest.mark.parametrize("name", ["sox_pipe.wav", "riff8.wav"])
def test_the_shared_recordings_equal_the_plain_one(shared_faults: Path, name: str) -> None:
    expected, _ = read_sound(shared_faults / "plain.wav", RATE)
    np.testing.assert_array_equal(read_sound(shared_faults / name, RATE)[0], expected)


def test_the_shared_recording_without_a_length_says_so(shared_faults: Path) -> None:
    with pytest.raises(ValueError, match="no audio, but 8000 bytes follow"):
        read_sound(shared_faults / "riff0_data0.wav", RATE)


def test_the_shared_telephone_recording_is_read(shared_faults: Path) -> None:
    wave, seconds = read_sound(shared_faults / "gsm.wav", RATE)
    assert len(wave) == seconds * RATE > 0


@pytest.mark.parametrize("rate", [RATE, 22_050])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(f"a.{suffix}", 0.0) for suffix in ("wav", "flac", "ogg", "mp3")],
        ("a.wav", 0.25),
        ("a.flac", -0.5),
    ],
)
def test_digital_silence_is_an_error(
    tmp_path: Path, name: str, value: float, channels: int, rate: int
) -> None:
    """The file holds zeros, or a constant offset without sound."""
    file = tmp_path / name
    soundfile.write(file, np.full((RATE, channels), value), 16_000)
    with pytest.raises(ValueError, match="the file is silent throughout") as error:
        read_sound(file, rate)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_channels_that_cancel_each_other_out_are_an_error(tmp_path: Path, name: str) -> None:
    """Their mean is zero, except for errors of rounding."""
    tone = np.sin(np.arange(2 * RATE)) / 3
    file = tmp_path / name
    soundfile.write(file, np.stack([tone, -tone], axis=1), RATE)
    with pytest.raises(ValueError, match=r"its 2 channels cancel .* keep one of them") as error:
        read_sound(file, RATE)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    "channels",
    [
        lambda tone: [tone, 0 * tone],
        lambda tone: [tone, -0.9 * tone],
        lambda tone: [0.001 * tone],
        lambda tone: [np.where(np.arange(len(tone)) < 100, tone, 0)],
        lambda tone: [0.5 + 0.001 * tone],
    ],
    ids=["one channel", "nearly opposite", "faint", "a click", "on a constant"],
)
def test_faint_or_short_sounds_are_read(
    tmp_path: Path, channels: Callable[[np.ndarray], list[np.ndarray]]
) -> None:
    wave = np.stack(channels(np.sin(np.arange(2 * RATE)) / 3), axis=1)
    soundfile.write(tmp_path / "a.wav", wave, RATE)
    read, _ = read_sound(tmp_path / "a.wav", RATE)
    np.testing.assert_allclose(read, wave.mean(axis=1), atol=2**-15)


def test_every_real_recording_is_read(shared_data: Path) -> None:
    folders = ("ravdess/audio_ogg_22k/Actor_01", "esc50_noise/esc10_original_ogg")
    files = [file for folder in folders for file in sorted((shared_data / folder).rglob("*.ogg"))]
    if not files:
        pytest.skip(f"{shared_data} has neither RAVDESS nor ESC-10")
    for file in files:
        assert read_sound(file, 22_050)[1] > 0
