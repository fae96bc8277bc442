"""Embedded benchmark `digits`: handwritten and spoken digits, real data, no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from mst_distill.benchmarks.source import Protocol, SampleSource
from mst_distill.benchmarks.splits import stratified_split
from mst_distill.data.samples import SPLITS
from mst_distill.media.weakening import weaken

COEFFICIENTS = 13
"""MFCC a frame."""

FRAMES = 32
"""MFCC frames a recording is padded or cut to; 90 % of the recordings have fewer."""


class Digits(SampleSource):
    """Pairs of an image and a recording of the same digit.

    Images are scikit-learn's 1,797 handwritten digits, 8 x 8, weakened as AV-MNIST weakens its own:
    projected on the leading principal components that keep a share of the energy. Recordings are
    the 3,000 of the Free Spoken Digit Dataset as 13 MFCC a frame. Each is split before it is
    paired, so neither an image nor a recording stands in two splits, and none is used twice.

    Args:
        protocol: ``heldout`` fits projection and scaling on train alone, ``random`` on all.
        recordings: The ``digits.npz`` with ``X`` (frames, 13), ``y`` and ``lengths``.
        kept_energy: Share of the images' variance that stays, in (0, 1].
        split_seed: Decides the split and the pairing; fixed, so that seeds of a run share them.

    Raises:
        FileNotFoundError: `recordings` is missing.
        ValueError: `recordings` cannot be read, lacks an array, holds NaN, a coefficient that never
            changes, a recording without frames or that never changes, a label that is no digit or
            not every digit, or its arrays do not fit together.
    """

    classes = tuple(str(digit) for digit in range(10))

    def __init__(
        self,
        protocol: Protocol,
        recordings: str,
        kept_energy: float = 0.3,
        split_seed: int = 0,
    ) -> None:
        self.files = [Path(recordings)]
        images, image_labels = load_digits(return_X_y=True)
        frames, recorded, recording_labels = _load_recordings(self.files[0])
        self.index = _pair(image_labels, recording_labels, np.random.default_rng(split_seed))
        fit = self.index if protocol == "random" else self.index.query("split == 'train'")
        self._images = weaken(images, images[fit["image"]], kept_energy)
        self._frames = _standardise(frames, recorded, fit["recording"].to_numpy())

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Image ``(n, 1, 8, 8)`` in [0, 1] and audio ``(n, 13, 32)``, 0 behind the last frame."""
        return {
            "image": self._images[part["image"]].reshape(-1, 1, 8, 8),
            "audio": self._frames[part["recording"]].astype(np.float32),
        }


def _pair(
    image_labels: np.ndarray, recording_labels: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """Split images and recordings apart, then pair them at random within (split, digit)."""
    image_split = stratified_split(image_labels, rng)
    recording_split = stratified_split(recording_labels, rng)
    parts = []
    for split in SPLITS:
        for digit in range(10):
            images = np.flatnonzero((image_split == split) & (image_labels == digit))
            recordings = np.flatnonzero((recording_split == split) & (recording_labels == digit))
            chosen = rng.permutation(recordings)[: len(images)]
            parts.append(
                pd.DataFrame(
                    {
                        "image": images[: len(chosen)],
                        "recording": chosen,
                        "split": split,
                        "label": digit,
                    }
                )
            )
    index = pd.concat(parts, ignore_index=True)
    index.insert(0, "id", [f"image-{i:04d}_recording-{r:04d}" for i, r in _columns(index)])
    index.insert(1, "group", index["id"])
    return index


def _columns(index: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(index["image"], index["recording"], strict=True))


def _load_recordings(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recordings ``(R, 13, 32)``, which of their frames there are ``(R, 32)``, and digits."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.absolute()} is missing: it holds the spoken digits' MFCC and comes with the "
            f"repository (data/01_raw/digits); restore it with git, or set "
            f"benchmark.arguments.recordings"
        )
    try:
        with np.load(path) as arrays:
            frames, labels, lengths = arrays["X"], arrays["y"], arrays["lengths"]
    except KeyError as error:
        raise ValueError(f"{path}: {error}; it must hold X, y and lengths") from error
    except (TypeError, AttributeError) as error:  # of a file that is one array
        raise ValueError(f"{path}: is one array; it must hold X, y and lengths") from error
    except Exception as error:  # whatever numpy meets in a damaged file
        raise ValueError(f"{path} is no .npz file that can be read: {error}") from error
    _check_recordings(path, frames, labels, lengths)
    if lengths.sum() != len(frames) or len(lengths) != len(labels):
        raise ValueError(
            f"{path}: {len(frames)} frames and {len(labels)} labels do not fit lengths that sum to "
            f"{lengths.sum()} over {len(lengths)} recordings"
        )
    if len(still := np.flatnonzero(np.ptp(frames, axis=0) == 0)):
        raise ValueError(f"{path}: coefficient {still[0]} in X is the same in every frame")
    padded = np.zeros((len(lengths), COEFFICIENTS, FRAMES))
    for row, recording in enumerate(np.split(frames, np.cumsum(lengths)[:-1])):
        if not np.isfinite(recording).all():
            raise ValueError(f"{path}: recording {row} in X holds NaN or infinity")
        if len(recording) > 1 and (recording == recording[0]).all():
            raise ValueError(
                f"{path}: recording {row} in X is the same in all its {len(recording)} frames, as "
                f"silence is"
            )
        kept = recording[:FRAMES]
        padded[row, :, : len(kept)] = kept.T
    return padded, np.arange(FRAMES) < lengths[:, None], labels


def _check_recordings(
    path: Path, frames: np.ndarray, labels: np.ndarray, lengths: np.ndarray
) -> None:
    """Refuse arrays that are none of recordings, whether or not they fit together."""
    if frames.dtype.kind not in "fiu" or frames.ndim != 2 or frames.shape[1] != COEFFICIENTS:
        raise ValueError(
            f"{path}: X is {frames.dtype} {frames.shape}, expected numbers (frames, {COEFFICIENTS})"
        )
    for name, array in (("y", labels), ("lengths", lengths)):
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise ValueError(
                f"{path}: {name} is {array.dtype} {array.shape}, expected whole numbers, one a "
                f"recording"
            )
    if len(wrong := np.flatnonzero(lengths < 1)):
        raise ValueError(
            f"{path}: recording {wrong[0]} has {lengths[wrong[0]]} frames, expected at least 1"
        )
    if len(wrong := np.flatnonzero((labels < 0) | (labels > 9))):
        raise ValueError(
            f"{path}: recording {wrong[0]} has label {labels[wrong[0]]}, expected 0 to 9"
        )
    for digit in range(10):
        if not (labels == digit).any():
            raise ValueError(f"{path}: y has no recording of digit {digit}; each must be there")


def _standardise(frames: np.ndarray, recorded: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 for every coefficient over `fit`; what was never recorded is 0."""
    known = frames[fit].transpose(0, 2, 1)[recorded[fit]]
    scaled = (frames - known.mean(axis=0)[:, None]) / known.std(axis=0)[:, None]
    return scaled * recorded[:, None]
