"""Recordings of spoken digits, as MFCC frames or as a spectrogram."""

from __future__ import annotations

from collections.abc import Iterable
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

RATE = 8000
"""Sampling rate in Hz, to which all audio is resampled; that of the Free Spoken Digit Dataset."""

COEFFICIENTS = 13
"""Number of MFCC in a frame."""

FRAMES = 32
"""Number of frames to which a recording is padded or cut; 90 % of the recordings have fewer."""

WINDOW = 400
"""Audio samples of a window of the MFCC, 50 ms; the hop is half of it."""

SIZE = 112
"""Number of frequencies, and of frames, of a spectrogram."""

LENGTH = RATE // (SIZE - 1) * (SIZE - 1)
"""Length of a recording of which a spectrogram is computed, in audio samples: 0.999 s."""

DYNAMIC_RANGE = 80
"""Level below the peak of a spectrogram, in dB, at which it is clipped; else pauses would set the
scale."""


@dataclass
class DigitFrames(Reader):
    """The MFCC of a recording, each scaled to mean 0 and standard deviation 1: ``(13, 32)``.

    Only the first 32 frames are used; the tensor is 0 after the last frame. A value is the path of
    a recording of one digit without pauses around it, or its frames ``(n, 13)``.

    Attributes:
        fitted: ``mean`` and ``deviation``, ``(13,)``, over the frames of the training recordings.
    """

    takes = "path"
    suffixes = SOUNDS

    def fit(self, values: Iterable[Any]) -> None:
        """Compute mean and standard deviation of each coefficient."""
        known = np.concatenate([self._frames(value) for value in values])
        self.fitted = {"mean": known.mean(axis=0), "deviation": known.std(axis=0)}

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one recording as ``(13, 32)`` float32."""
        frames = self._frames(value)
        tensor = np.zeros((COEFFICIENTS, FRAMES), np.float32)
        scaled = (frames - self.fitted["mean"]) / self.fitted["deviation"]
        tensor[:, : len(frames)] = scaled.T
        return tensor, {}

    def _frames(self, value: Any) -> np.ndarray:
        frames = digit_mfcc(Path(value)) if isinstance(value, (str, Path)) else value
        return np.asarray(frames[:FRAMES], np.float64)


def digit_mfcc(path: Path) -> np.ndarray:
    """Compute the MFCC of a recording as in the embedded file ``digits.npz``.

    The file states no settings. These give its numbers for recordings of the Free Spoken Digit
    Dataset to 2e-4, where the numbers are as large as 200: windows of 50 ms with a hop of 25 ms at
    8 kHz, 128 mel bands, and otherwise the defaults of torchaudio.

    Args:
        path: A wav, flac, ogg or mp3 file.

    Returns:
        ``(frames, 13)`` float32.

    Raises:
        ValueError: The file is damaged (see `read_sound`) or shorter than half a window.
    """
    import torch

    wave, seconds = read_sound(path, RATE)
    if len(wave) <= WINDOW // 2:
        raise ValueError(
            f"{path}: lasts {seconds:.3f} s; more than {WINDOW / 2 / RATE} s are required"
        )
    frames: np.ndarray = _mfcc()(torch.from_numpy(wave)).numpy().T
    return frames


@cache
def _mfcc() -> MFCC:
    from torchaudio.transforms import MFCC

    settings = {"n_fft": WINDOW, "hop_length": WINDOW // 2, "n_mels": 128}
    return MFCC(RATE, COEFFICIENTS, melkwargs=settings)


@dataclass
class DigitSpectrogram(Reader):
    """The logarithm of the power spectrogram of a recording: ``(1, 112, 112)`` in [0, 1].

    Each recording is padded or cut at its end to 0.999 s at 8 kHz. Hann windows of 222 samples give
    112 frequencies from 0 to 4 kHz, low frequencies first, and a hop of 72 samples gives 112
    frames. The spectrogram is clipped 80 dB below its peak. A value is the path of a recording, or
    its audio samples at 8 kHz.
    """

    takes = "path"
    suffixes = SOUNDS

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one recording as ``(1, 112, 112)`` float32."""
        import torch
        from torchaudio.transforms import AmplitudeToDB, Spectrogram

        wave = value
        if isinstance(value, (str, Path)):
            wave = read_sound(Path(value), RATE)[0][:LENGTH]
            refuse_silence(Path(value), wave, f"the part that is used, {len(wave) / RATE:g} s,")
        wave = wave[:LENGTH]
        padded = np.pad(wave, (0, LENGTH - len(wave)))
        transform = Spectrogram(n_fft=2 * (SIZE - 1), hop_length=LENGTH // (SIZE - 1))
        power = transform(torch.from_numpy(padded)[None])
        return scale_min_max(AmplitudeToDB("power", top_db=DYNAMIC_RANGE)(power).numpy()), {}
