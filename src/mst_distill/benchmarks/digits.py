"""The embedded benchmark `digits`: handwritten and spoken digits; real data without a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from mst_distill.benchmarks.source import Protocol, SampleSource
from mst_distill.benchmarks.splits import stratified_split
from mst_distill.data.samples import SPLITS
from mst_distill.media.pca_reduction import reduce_by_pca

COEFFICIENTS = 13
"""Number of MFCC in a frame."""

FRAMES = 32
"""Number of frames to which a recording is padded or cut; 90 % of the recordings have fewer."""


class Digits(SampleSource):
    """Pairs of an image and a recording of the same digit.

    The images are scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, reduced like those of
    AV-MNIST: projected onto the leading principal components that keep a share of the energy. The
    recordings are the 3,000 of the Free Spoken Digit Dataset, as 13 MFCC for each frame. Images and
    recordings are split before they are paired, so that no image or recording is in two splits;
    none is used twice.

    Args:
        protocol: ``heldout`` fits the projection and the scaling on the training split, ``random``
            on all samples.
        recordings: The file ``digits.npz`` with ``X`` (frames, 13), ``y`` and ``lengths``.
        kept_energy: Share of the variance of the images that the projection keeps, in (0, 1].
        split_seed: Seed of the split and of the pairs. It does not depend on the seed of the run,
            so that runs with different seeds use the same pairs.

    Raises:
        FileNotFoundError: `recordings` is missing.
        ValueError: `recordings` cannot be read, lacks an array, or has arrays that do not match; or
            it contains NaN, a coefficient that never changes, a recording without frames or whose
            frames are all equal, or a label that is not a digit; or a digit has no recording.
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
        self._images = reduce_by_pca(images, images[fit["image"]], kept_energy)
        self._frames = _standardise(frames, recorded, fit["recording"].to_numpy())

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return image ``(n, 1, 8, 8)`` in [0, 1] and audio ``(n, 13, 32)``.

        Audio is standardised, and 0 after the last frame of the recording.
        """
        return {
            "image": self._images[part["image"]].reshape(-1, 1, 8, 8),
            "audio": self._frames[part["recording"]].astype(np.float32),
        }


def _pair(
    image_labels: np.ndarray, recording_labels: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """Split images and recordings separately, then pair them at random within (split, digit)."""
    image_split = stratified_split(image_labels, rng)
    recording_split = stratified_split(recording_labels, rng)
    tables = []
    for split in SPLITS:
        for digit in range(10):
            images = np.flatnonzero((image_split == split) & (image_labels == digit))
            recordings = np.flatnonzero((recording_split == split) & (recording_labels == digit))
            drawn = rng.permutation(recordings)[: len(images)]
            tables.append(
                pd.DataFrame(
                    {
                        "image": images[: len(drawn)],
                        "recording": drawn,
                        "split": split,
                        "label": digit,
                    }
                )
            )
    index = pd.concat(tables, ignore_index=True)
    index.insert(0, "id", [f"image-{i:04d}_recording-{r:04d}" for i, r in _pairs(index)])
    index.insert(1, "group", index["id"])
    return index


def _pairs(index: pd.DataFrame) -> list[tuple[int, int]]:
    return list(zip(index["image"], index["recording"], strict=True))


def _load_recordings(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Load the recordings.

    Returns:
        MFCC ``(R, 13, 32)``, padded with 0; whether each frame was recorded ``(R, 32)``, else it is
        padding; and the digits ``(R,)``.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.absolute()} is missing: it contains the MFCC of the spoken digits and belongs "
            f"to the repository (data/01_raw/digits); restore it with git, or set "
            f"benchmark.arguments.recordings"
        )
    try:
        with np.load(path) as arrays:
            frames, labels, lengths = arrays["X"], arrays["y"], arrays["lengths"]
    except KeyError as error:
        raise ValueError(f"{path}: {error}; the file must contain X, y and lengths") from error
    except (TypeError, AttributeError) as error:  # the file is a single array
        raise ValueError(f"{path}: is one array; it must contain X, y and lengths") from error
    except Exception as error:  # numpy raises errors of many types for a damaged file
        raise ValueError(f"{path} is not a readable .npz file: {error}") from error
    _check_recordings(path, frames, labels, lengths)
    if lengths.sum() != len(frames) or len(lengths) != len(labels):
        raise ValueError(
            f"{path}: {len(frames)} frames and {len(labels)} labels do not match the lengths, "
            f"which sum to {lengths.sum()} over {len(lengths)} recordings"
        )
    if len(constant := np.flatnonzero(np.ptp(frames, axis=0) == 0)):
        raise ValueError(f"{path}: coefficient {constant[0]} in X is the same in every frame")
    padded = np.zeros((len(lengths), COEFFICIENTS, FRAMES))
    for row, recording in enumerate(np.split(frames, np.cumsum(lengths)[:-1])):
        if not np.isfinite(recording).all():
            raise ValueError(f"{path}: recording {row} in X contains NaN or infinity")
        if len(recording) > 1 and (recording == recording[0]).all():
            raise ValueError(
                f"{path}: recording {row} in X is the same in all its {len(recording)} frames, "
                f"which indicates silence"
            )
        used = recording[:FRAMES]
        padded[row, :, : len(used)] = used.T
    return padded, np.arange(FRAMES) < lengths[:, None], labels


def _check_recordings(
    path: Path, frames: np.ndarray, labels: np.ndarray, lengths: np.ndarray
) -> None:
    """Check the type, shape and values of each array; `_load_recordings` checks that they match."""
    if frames.dtype.kind not in "fiu" or frames.ndim != 2 or frames.shape[1] != COEFFICIENTS:
        raise ValueError(
            f"{path}: X is {frames.dtype} {frames.shape}, expected numbers (frames, {COEFFICIENTS})"
        )
    for name, array in (("y", labels), ("lengths", lengths)):
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise ValueError(
                f"{path}: {name} is {array.dtype} {array.shape}, expected whole numbers, one "
                f"for each recording"
            )
    if len(invalid := np.flatnonzero(lengths < 1)):
        raise ValueError(
            f"{path}: recording {invalid[0]} has {lengths[invalid[0]]} frames, expected at least 1"
        )
    if len(invalid := np.flatnonzero((labels < 0) | (labels > 9))):
        raise ValueError(
            f"{path}: recording {invalid[0]} has label {labels[invalid[0]]}, expected 0 to 9"
        )
    for digit in range(10):
        if not (labels == digit).any():
            raise ValueError(
                f"{path}: y has no recording of digit {digit}; each digit needs at least one"
            )


def _standardise(frames: np.ndarray, recorded: np.ndarray, fit: np.ndarray) -> np.ndarray:
    """Scale each coefficient to mean 0 and standard deviation 1 over the recordings `fit`.

    Args:
        frames: MFCC ``(R, 13, 32)``.
        recorded: ``(R, 32)``, whether each frame was recorded; the other frames are set to 0.
        fit: Rows of the recordings on which mean and deviation are computed.
    """
    known = frames[fit].transpose(0, 2, 1)[recorded[fit]]
    scaled = (frames - known.mean(axis=0)[:, None]) / known.std(axis=0)[:, None]
    return scaled * recorded[:, None]
