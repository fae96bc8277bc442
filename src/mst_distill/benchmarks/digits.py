"""The embedded benchmark `digits`: handwritten and spoken digits; real data without a download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from mst_distill.benchmarks.reader_source import ReaderSource
from mst_distill.benchmarks.source import Protocol
from mst_distill.benchmarks.splits import stratified_split
from mst_distill.data.samples import SPLITS
from mst_distill.media.pca_reduction import ReducedPixels
from mst_distill.media.spoken_digits import COEFFICIENTS, DigitFrames


class Digits(ReaderSource):
    """Pairs of an image and a recording of the same digit.

    The images are scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, reduced like those of
    AV-MNIST: projected onto the leading principal components that keep a share of the energy. The
    recordings are the 3,000 of the Free Spoken Digit Dataset, as 13 MFCC for each frame: the
    embedded file has no audio, and a student of this benchmark computes the frames from a recording
    (see `digit_mfcc`). Images and recordings are split before they are paired, so that no image or
    recording is in two splits; none is used twice.

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
        self.protocol = protocol
        # Image (1, 8, 8) in [0, 1], and audio (13, 32), standardised.
        self.readers = {"image": ReducedPixels(8, 8, kept_energy), "audio": DigitFrames()}
        self._images, image_labels = load_digits(return_X_y=True)
        self._recordings, recording_labels = _load_recordings(self.files[0])
        self.index = _pair(image_labels, recording_labels, np.random.default_rng(split_seed))

    def values(self, modality: str, part: pd.DataFrame) -> Sequence[np.ndarray]:
        """Return the 64 pixels of each image, or the frames ``(length, 13)`` of each recording."""
        if modality == "image":
            return self._images[part["image"]]
        return [self._recordings[row] for row in part["recording"]]


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


def _load_recordings(path: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Load the MFCC of the R recordings, ``(length, 13)`` each, and their digits ``(R,)``."""
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
    recordings = np.split(frames, np.cumsum(lengths)[:-1])
    for row, recording in enumerate(recordings):
        if not np.isfinite(recording).all():
            raise ValueError(f"{path}: recording {row} in X contains NaN or infinity")
        if len(recording) > 1 and (recording == recording[0]).all():
            raise ValueError(
                f"{path}: recording {row} in X is the same in all its {len(recording)} frames, "
                f"which indicates silence"
            )
    return recordings, labels


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
