"""Speech as MFCC of a fixed length."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mst_distill.media.sound import read_sound, refuse_silence
from mst_distill.media.unit_scale import scale_to_unit

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
        ValueError: The file is damaged (see `read_sound`), or what is kept of it is silent
            throughout; the message names it.
    """
    wave, seconds = read_sound(path, RATE)
    start = max(0, (len(wave) - LENGTH) // 2)
    kept = wave[start : start + LENGTH]
    refuse_silence(path, kept, f"the middle {LENGTH / RATE:g} s")
    return np.pad(kept, (0, LENGTH - len(kept))), seconds


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
