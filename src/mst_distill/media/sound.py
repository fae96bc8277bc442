"""Sound files, read completely and resampled to one rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

_UNKNOWN_SIZE = 0x7FFF0000
"""From this size on, the header of a wav is that of a recorder that wrote to a pipe and could not
know the size (``sox`` writes 0x7FFFF000, ``ffmpeg -f wav -`` 0xFFFFFFFF): the audio extends to the
end of the file."""

_MAX_SAMPLES = 2**28
"""Audio samples over all channels: 46 minutes of stereo at 48 kHz, a gigabyte in memory."""

_MAX_KERNEL_SIZE = 10**7
"""Approximate number of coefficients of a resampling filter. It is 1.5 million from 47,952 to
8,000 Hz; filters of gigabytes result only from a rate in a damaged header."""

_MIN_RELATIVE_RANGE = 1e-4
"""As a share of a sound's peak: a smaller range is that of a constant, on which resampling may have
left a ripple. No sound is so small relative to its own offset: at 16 bits it would be 0."""

_MIN_MONO_POWER = 1e-6
"""As a share of the channels' power (60 dB): if the mono mix has less, the channels cancel each
other out, except for errors of rounding and coding."""

_MAX_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
"""Header, segment lengths and data."""


def read_sound(path: Path, rate: int) -> tuple[np.ndarray, float]:
    """Read one file in mono.

    A wav, flac or ogg file that is cut short is an error. The end of an mp3 file cannot be checked:
    if the file is cut short, what is left of it is returned.

    Args:
        path: A wav, flac, ogg or mp3 file.
        rate: Sampling rate of the result, in Hz.

    Returns:
        ``(n,)`` float32, and the duration of the file in seconds.

    Raises:
        ValueError: The file cannot be read, is cut short, has no samples, has samples that are NaN
            or infinite, is silent throughout (see `refuse_silence`) or is silent after its channels
            are mixed, or its header states an impossible length or rate; the message names the
            file.
    """
    try:
        _check_end(path)
        with soundfile.SoundFile(path) as file:
            _check_header(path, file, rate)
            # Of formats such as GSM, soundfile does not find the length by itself.
            wave = file.read(file.frames, dtype="float32", always_2d=True)
            found_rate = file.samplerate
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{path}: contains no audio that soundfile can read ({error})") from error
    if not len(wave):
        raise ValueError(f"{path}: holds 0 audio samples; remove it or download it again")
    if not np.isfinite(wave).all():
        raise ValueError(f"{path}: holds audio samples that are NaN or infinite")
    refuse_silence(path, wave, "the file")
    mono = wave.mean(axis=1)
    if wave.shape[1] > 1 and mono.var() <= _MIN_MONO_POWER * wave.var(axis=0).mean():
        raise ValueError(
            f"{path}: its {wave.shape[1]} channels cancel each other out when they are mixed, "
            f"because one is the negative of the other: keep one of them only"
        )
    return mono if found_rate == rate else _resample(mono, found_rate, rate), len(wave) / found_rate


def refuse_silence(path: Path, wave: np.ndarray, what: str) -> None:
    """Raise an error for audio samples that are all equal: digital silence, or a mere offset.

    Args:
        path: The file of the samples, for the error message.
        wave: ``(n,)`` or ``(n, channels)``.
        what: The section of the file that holds the samples, for the error message.

    Raises:
        ValueError: The samples are equal in every channel; the message names the file.
    """
    low, high = wave.min(axis=0), wave.max(axis=0)
    if np.all(high - low <= _MIN_RELATIVE_RANGE * np.maximum(high, -low)):
        raise ValueError(
            f"{path}: {what} is silent throughout, all {len(wave)} audio samples are "
            f"{wave.flat[0]:g}; download it again or remove it"
        )


def _check_header(path: Path, file: soundfile.SoundFile, rate: int) -> None:
    """Reject a file that would exhaust the memory, before anything is decoded."""
    if file.frames * file.channels > _MAX_SAMPLES:
        raise ValueError(
            f"{path}: its header states {file.frames} audio samples in {file.channels} channels; "
            f"at most {_MAX_SAMPLES} over all channels are supported"
        )
    common = math.gcd(file.samplerate, rate)
    if (file.samplerate // common) * (rate // common) > _MAX_KERNEL_SIZE:
        raise ValueError(
            f"{path}: its header states {file.samplerate} samples a second, which cannot be "
            f"resampled to {rate}; download it again, or convert it to 48000"
        )


def _resample(wave: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    import torch
    from torchaudio.functional import resample

    resampled: np.ndarray = resample(torch.from_numpy(wave), rate, target_rate).numpy()
    return resampled


def _check_end(path: Path) -> None:
    """Reject a wav or ogg that ends too early; libsndfile would read it without an error."""
    with path.open("rb") as file:
        header, size = file.read(12), path.stat().st_size
        if header[:4] == b"RIFF" and header[8:] == b"WAVE":
            _check_end_of_wav(path, file, size)
        elif header[:4] == b"OggS":
            file.seek(max(0, size - _MAX_OGG_PAGE_BYTES))
            if not _is_end_of_ogg(file.read()):
                raise ValueError(
                    f"{path}: is cut short, the last page of the ogg stream is missing"
                )


def _check_end_of_wav(path: Path, file: BinaryIO, size: int) -> None:
    """Compare the size of the chunk of audio with that of the file.

    The size of the whole file, which the header states too, is wrong in files of some recorders.
    """
    while len(chunk := file.read(8)) == 8:
        length = int.from_bytes(chunk[4:], "little")
        start = file.tell()
        if chunk[:4] == b"data":
            if length == 0 and size > start:
                raise ValueError(
                    f"{path}: its header states that there is no audio, but {size - start} bytes "
                    f"follow: the recorder did not complete the header; convert the file"
                )
            if length < _UNKNOWN_SIZE and size < start + length:
                raise ValueError(f"{path}: is cut short, {size} of {start + length} bytes are left")
            return
        file.seek(start + length + length % 2)  # chunks begin at even positions
    raise ValueError(f"{path}: is cut short, there is no chunk of audio")


def _is_end_of_ogg(end: bytes) -> bool:
    """Return whether the last page in `end` is complete and has the end-of-stream flag."""
    page = end[end.rfind(b"OggS") :]
    # A page header has 27 bytes: byte 5 holds the flags, byte 26 the number of segment lengths.
    if len(page) < 27 or not page[5] & 0x04:
        return False
    lengths = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(lengths)
