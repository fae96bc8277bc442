"""Sound files, read whole and brought to one rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile


def read_sound(path: Path, rate: int) -> tuple[np.ndarray, float]:
    """Read one file in mono.

    Args:
        path: A wav, flac, ogg or mp3.
        rate: Audio samples a second that are wanted.

    Returns:
        ``(n,)`` float32, and how long the file is in seconds.

    Raises:
        ValueError: The file cannot be read, is cut short, has no samples, or has some that are no
            number; the message names it.
    """
    _refuse_cut_wave(path)
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


def _refuse_cut_wave(path: Path) -> None:
    """Refuse a wav that ends before its header says: libsndfile would read what there is."""
    with path.open("rb") as file:
        header = file.read(8)
    if header[:4] == b"RIFF" and len(header) == 8:
        size, expected = path.stat().st_size, 8 + int.from_bytes(header[4:], "little")
        if size < expected:
            raise ValueError(f"{path}: is cut short, {size} of {expected} bytes are left")
