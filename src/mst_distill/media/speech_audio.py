"""Speech as MFCC of a fixed length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from mst_distill.media.weakening import scale_to_unit

RATE = 22_050
"""Audio samples a second, to which all speech is brought."""

LENGTH = 79_380
"""Audio samples of a clip: 3.6 s."""

COEFFICIENTS = 15


def read_speech(path: Path) -> tuple[np.ndarray, float]:
    """Read one clip, mono, padded with zeros at its end or cut to its middle 3.6 s.

    Returns:
        ``(LENGTH,)`` float32 at `RATE`, and how long the file is in seconds.

    Raises:
        ValueError: The file cannot be read, is cut short, has no samples, or has some that are no
            number; the message names it.
    """
    _refuse_cut_wave(path)
    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: no audio that soundfile can read ({error})") from error
    if not len(wave):
        raise ValueError(f"{path}: holds 0 audio samples; fetch it again")
    if not np.isfinite(wave).all():
        raise ValueError(f"{path}: holds audio samples that are NaN or infinite")
    mono = _resample(wave.mean(axis=1), rate)
    start = max(0, (len(mono) - LENGTH) // 2)
    kept = mono[start : start + LENGTH]
    return np.pad(kept, (0, LENGTH - len(kept))), len(wave) / rate


def mfcc(waves: np.ndarray) -> np.ndarray:
    """Mel-frequency cepstral coefficients, scaled to [0, 1] for each clip.

    Windows of 2,048 samples every 512, the first centred on sample 0; 128 mel bands (Slaney's
    scale and norm) in dB, cut off 80 dB below the clip's peak; orthonormal DCT-II. These are the
    defaults of librosa, which the method's released implementation uses.

    Args:
        waves: ``(n, LENGTH)`` float32 at `RATE`.

    Returns:
        ``(n, 15, 156)`` float32 as (coefficient, frame).
    """
    import torch
    from torchaudio.transforms import MFCC

    transform = MFCC(
        RATE,
        n_mfcc=COEFFICIENTS,
        melkwargs={
            "n_fft": 2048,
            "hop_length": 512,
            "n_mels": 128,
            "norm": "slaney",
            "mel_scale": "slaney",
            "pad_mode": "constant",
        },
    )
    # The channel axis makes torchaudio cut every clip below its own peak, not below the batch's.
    coefficients = transform(torch.from_numpy(waves)[:, None])[:, 0]
    return scale_to_unit(coefficients.numpy())


def _resample(wave: np.ndarray, rate: int) -> np.ndarray:
    if rate == RATE:
        return wave
    import torch
    from torchaudio.functional import resample

    resampled: np.ndarray = resample(torch.from_numpy(wave), rate, RATE).numpy()
    return resampled


def _refuse_cut_wave(path: Path) -> None:
    """Refuse a wav that ends before its header says: libsndfile would read what there is."""
    with path.open("rb") as file:
        header = file.read(8)
    if header[:4] == b"RIFF" and len(header) == 8:
        size, expected = path.stat().st_size, 8 + int.from_bytes(header[4:], "little")
        if size < expected:
            raise ValueError(f"{path}: is cut short, {size} of {expected} bytes are left")
