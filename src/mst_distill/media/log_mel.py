"""Sound of any kind as a log-mel spectrogram of a fixed length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mst_distill.media.readers import SOUNDS, Reader
from mst_distill.media.sound import read_sound, refuse_silence

if TYPE_CHECKING:
    from torchaudio.transforms import MelSpectrogram

BANDS = 64
"""Mel bands from 0 Hz to half the sampling rate, on the scale 2595 log10(1 + f / 700)."""

WINDOW, HOP = 0.064, 0.032
"""Length and distance of the windows, in seconds."""

RANGE = 80.0
"""Decibels below the loudest value of a clip that are distinguished."""

LOWEST_RATE = 1000
"""Lowest sampling rate, in Hz."""


@dataclass
class LogMel(Reader):
    """A sound file as ``(1, 64, T)`` in [0, 1], with T = floor(seconds / 0.032) + 1 windows.

    A file that is shorter is padded with silence at its end; of a longer one the middle is used.
    The power in each band of each window, in dB relative to the largest of the clip, is clipped
    at -80 dB and divided by 80, so that the largest is 1 and silence is 0. A recording's level is
    therefore lost.

    Attributes:
        seconds: Length of the clip.
        rate: Sampling rate to which files are resampled, in Hz.

    Raises:
        ValueError: `seconds` or `rate` is too small.
    """

    takes = "path"
    suffixes = SOUNDS
    seconds: float
    rate: int = 16_000

    def __post_init__(self) -> None:
        if self.rate < LOWEST_RATE:
            raise ValueError(f"rate is {self.rate}; it must be at least {LOWEST_RATE} Hz")
        if self.seconds < WINDOW:
            raise ValueError(f"seconds is {self.seconds}; it must be at least {WINDOW}")

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one file as ``(1, 64, T)`` float32."""
        path, length = Path(value), round(self.seconds * self.rate)
        wave, _ = read_sound(path, self.rate)
        start = max(0, (len(wave) - length) // 2)
        middle = wave[start : start + length]
        refuse_silence(path, middle, f"the middle {self.seconds:g} s")
        padded = np.pad(middle, (0, length - len(middle)))
        return log_mel(padded, self.rate)[None], {}


def log_mel(wave: np.ndarray, rate: int) -> np.ndarray:
    """Compute the spectrogram ``(64, T)`` of a sound ``(n,)``, see `LogMel`.

    The windows are Hann windows; the first is centred on sample 0, with zeros before it.
    """
    import torch

    power = _transform(rate)(torch.from_numpy(wave)).double()
    decibels = 10 * torch.log10(power / power.max() + 1e-30)
    scaled: np.ndarray = (1 + decibels / RANGE).clamp(min=0).float().numpy()
    return scaled


@cache
def _transform(rate: int) -> MelSpectrogram:
    from torchaudio.transforms import MelSpectrogram

    return MelSpectrogram(
        rate,
        n_fft=round(WINDOW * rate),
        hop_length=round(HOP * rate),
        n_mels=BANDS,
        pad_mode="constant",
    )
