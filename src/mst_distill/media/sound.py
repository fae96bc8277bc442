"""Sound files, read whole and brought to one rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

_UNKNOWN_SIZE = 0xFFFFFFFF
"""What a wav's header says that was written to a pipe (``ffmpeg -f wav -``): the rest is audio."""

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
        ValueError: The file cannot be read, is cut short, has no samples, or has some that are no
            number; the message names it.
    """
    _refuse_cut(path)
    try:
        wave, found_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: no audio that soundfile can read ({error})") from error
    if not len(wave):
        raise ValueError(f"{path}: holds 0 audio samples; remove it or fetch it again")
    if not np.isfinite(wave).all():
        raise ValueError(f"{path}: holds audio samples that are NaN or infinite")
    mono = wave.mean(axis=1)
    return mono if found_rate == rate else _resample(mono, found_rate, rate), len(wave) / found_rate


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
