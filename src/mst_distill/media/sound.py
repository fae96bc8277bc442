"""Sound files, read whole and brought to one rate."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile

_UNKNOWN_SIZE = 0xFFFFFFFF
"""What a wav's header says that was written to a pipe (``ffmpeg -f wav -``): the rest is audio."""

_MOST_NUMBERS = 2**28
"""Audio samples in all channels: 46 minutes of stereo at 48 kHz, a gigabyte once it is read."""

_LARGEST_KERNEL = 10**7
"""Numbers, about, of a filter from one rate to another; it is 1.5 million from 47,952 to 8,000 Hz,
and gigabytes from a rate that only a damaged header says."""

_LEAST_SWING = 1e-4
"""Of a sound's peak: what it moves less than that is a constant, of which the change of rate may
have made a ripple. No sound is so small beside its own constant part: in 16 bits it would be 0."""

_LEAST_IN_MONO = 1e-6
"""Of the channels' power, 60 dB: what mixing leaves less of has cancelled itself out, but for what
rounding and coding left."""

_LONGEST_OGG_PAGE = 27 + 255 + 255 * 255
"""Bytes of header, lengths and data."""


def read_sound(path: Path, rate: int) -> tuple[np.ndarray, float]:
    """Read one file in mono.

    A wav, flac or ogg that is cut short is refused. An mp3 does not say where it ends: of one that
    is cut, what there is is read.

    Args:
        path: A wav, flac, ogg or mp3.
        rate: Audio samples a second that are wanted.

    Returns:
        ``(n,)`` float32, and how long the file is in seconds.

    Raises:
        ValueError: The file cannot be read, is cut short, has no samples, has some that are no
            number, is silent throughout (see `refuse_silence`) or once its channels are mixed, or
            its header says a length or a rate that no sound has; the message names it.
    """
    try:
        _refuse_cut(path)
        with soundfile.SoundFile(path) as file:
            _refuse_header(path, file, rate)
            wave, found_rate = file.read(dtype="float32", always_2d=True), file.samplerate
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{path}: no audio that soundfile can read ({error})") from error
    if not len(wave):
        raise ValueError(f"{path}: holds 0 audio samples; remove it or fetch it again")
    if not np.isfinite(wave).all():
        raise ValueError(f"{path}: holds audio samples that are NaN or infinite")
    refuse_silence(path, wave, "the file")
    mono = wave.mean(axis=1)
    if wave.shape[1] > 1 and mono.var() <= _LEAST_IN_MONO * wave.var(axis=0).mean():
        raise ValueError(
            f"{path}: its {wave.shape[1]} channels cancel each other out when they are mixed, one "
            f"being the other with its sign turned: keep one of them alone"
        )
    return mono if found_rate == rate else _resample(mono, found_rate, rate), len(wave) / found_rate


def refuse_silence(path: Path, wave: np.ndarray, what: str) -> None:
    """Refuse audio samples that are all alike: digital silence, or a constant without any sound.

    Args:
        path: Where they are from, for the error.
        wave: ``(n,)`` or ``(n, channels)``.
        what: Which part of the file they are, for the error.

    Raises:
        ValueError: They are alike, in every channel; the message names the file.
    """
    low, high = wave.min(axis=0), wave.max(axis=0)
    if np.all(high - low <= _LEAST_SWING * np.maximum(high, -low)):
        raise ValueError(
            f"{path}: {what} is silent throughout, all {len(wave)} audio samples are "
            f"{wave.flat[0]:g}; fetch it again or remove it"
        )


def _refuse_header(path: Path, file: soundfile.SoundFile, rate: int) -> None:
    """Refuse what would fill the memory: it is asked for before anything is decoded."""
    if file.frames * file.channels > _MOST_NUMBERS:
        raise ValueError(
            f"{path}: its header says {file.frames} audio samples in {file.channels} channels; at "
            f"most {_MOST_NUMBERS} in all are read"
        )
    common = math.gcd(file.samplerate, rate)
    if (file.samplerate // common) * (rate // common) > _LARGEST_KERNEL:
        raise ValueError(
            f"{path}: its header says {file.samplerate} samples a second, which no sound has that "
            f"could be brought to {rate}; fetch it again, or convert it to 48000"
        )


def _resample(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    import torch
    from torchaudio.functional import resample

    resampled: np.ndarray = resample(torch.from_numpy(wave), rate, wanted).numpy()
    return resampled


def _refuse_cut(path: Path) -> None:
    """Refuse a wav or ogg that ends too early: libsndfile would read what there is."""
    with path.open("rb") as file:
        header, size = file.read(8), path.stat().st_size
        if header[:4] == b"RIFF" and len(header) == 8:
            length = int.from_bytes(header[4:], "little")
            if length != _UNKNOWN_SIZE and size < 8 + length:
                raise ValueError(f"{path}: is cut short, {size} of {8 + length} bytes are left")
        elif header[:4] == b"OggS":
            file.seek(max(0, size - _LONGEST_OGG_PAGE))
            if not _ends_an_ogg(file.read()):
                raise ValueError(f"{path}: is cut short, its last page is not the last of an ogg")


def _ends_an_ogg(end: bytes) -> bool:
    """Whether the last page that starts in `end` is whole and bears the end-of-stream flag."""
    page = end[end.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & 0x04:
        return False
    lengths = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(lengths)
