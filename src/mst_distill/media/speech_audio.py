"""Speech as MFCC of a fixed length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mst_distill.media.minmax import scale_min_max
from mst_distill.media.readers import SOUNDS, Reader
from mst_distill.media.sound import read_sound, refuse_silence

if TYPE_CHECKING:
    from torchaudio.transforms import MFCC

RATE = 22_050
"""Sampling rate to which all speech is resampled, in Hz."""

LENGTH = 79_380
"""Audio samples of a clip: 3.6 s."""

COEFFICIENTS = 15


@dataclass
class SpeechMFCC(Reader):
    """A file of speech as ``(15, 156)``; see `read_speech` and `mfcc`.

    The note ``seconds`` is the duration of the file.
    """

    takes = "path"
    suffixes = SOUNDS
    notes = ("seconds",)

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one file as ``(15, 156)`` float32 in [0, 1]."""
        wave, seconds = read_speech(Path(value))
        return mfcc(wave[None])[0], {"seconds": seconds}


def read_speech(path: Path) -> tuple[np.ndarray, float]:
    """Read one clip in mono, padded with zeros at its end or cut to its middle 3.6 s.

    Returns:
        ``(LENGTH,)`` float32 at `RATE`, and the duration of the file in seconds.

    Raises:
        ValueError: The file is damaged (see `read_sound`), or the section that is used is silent
            throughout; the message names the file.
    """
    wave, seconds = read_sound(path, RATE)
    start = max(0, (len(wave) - LENGTH) // 2)
    middle = wave[start : start + LENGTH]
    refuse_silence(path, middle, f"the middle {LENGTH / RATE:g} s")
    return np.pad(middle, (0, LENGTH - len(middle))), seconds


def mfcc(waves: np.ndarray) -> np.ndarray:
    """Compute mel-frequency cepstral coefficients, scaled to [0, 1] for each clip.

    The windows have 2,048 samples and a hop of 512, and the first is centred on sample 0. They
    give 128 mel bands (Slaney's scale and norm) in dB, clipped 80 dB below the clip's peak, and an
    orthonormal DCT-II follows. These are the defaults of librosa, which the method's released
    implementation uses.

    Args:
        waves: ``(n, LENGTH)`` float32 at `RATE`.

    Returns:
        ``(n, 15, 156)`` float32 as (coefficient, frame).
    """
    import torch

    # With a channel axis, torchaudio clips relative to the peak of each clip, not of the batch.
    coefficients = _transform()(torch.from_numpy(waves)[:, None])[:, 0]
    return scale_min_max(coefficients.numpy())


@cache
def _transform() -> MFCC:
    from torchaudio.transforms import MFCC

    settings = {
        "n_fft": 2048,
        "hop_length": 512,
        "n_mels": 128,
        "norm": "slaney",
        "mel_scale": "slaney",
        "pad_mode": "constant",
    }
    return MFCC(RATE, n_mfcc=COEFFICIENTS, melkwargs=settings)
