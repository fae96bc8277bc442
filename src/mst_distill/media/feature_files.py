"""Files of ready features: arrays in NumPy's format, scaled or as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mst_distill.media.minmax import scale_min_max
from mst_distill.media.readers import ARRAYS, Reader, readable


def load_features(value: Any) -> np.ndarray:
    """Load an array of features, float32; no code of the file is run.

    Args:
        value: The path of a ``.npy`` file, or an array.

    Raises:
        ValueError: The file is not a complete array of numbers, or one is not finite; the message
            names the file.
    """
    where = f"{value}: " if isinstance(value, (str, Path)) else ""
    features = value
    if where:
        try:
            features = np.asarray(np.load(value, allow_pickle=False), np.float32)
        except Exception as error:  # numpy raises errors of many types for a damaged file
            raise ValueError(f"{where}not a complete .npy file of numbers ({error})") from error
    if not np.isfinite(features).all():
        raise ValueError(f"{where}contains NaN or infinity")
    return np.asarray(features, np.float32)


@dataclass
class Features(Reader):
    """An array of features.

    Attributes:
        shape: Shape of the tensor; an array may have another shape with as many numbers.
        scaled: Whether each array is scaled to [0, 1] by its own minimum and maximum.
    """

    takes = "path"
    suffixes = ARRAYS
    shape: tuple[int, ...]
    scaled: bool = False

    def __post_init__(self) -> None:
        self.shape = tuple(self.shape)

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one array as `shape`, float32."""
        features, where = load_features(value), _where(value)
        if features.size != np.prod(self.shape):
            raise ValueError(f"{where}shape {features.shape}, expected {self.shape}")
        _reject_constant(features, where)
        features = features.reshape(self.shape)
        return scale_min_max(features[None])[0] if self.scaled else features, {}


@dataclass
class ShapedFeatures(Features):
    """An array of features of exactly the shape `shape`."""

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one array as `shape`, float32."""
        features = load_features(value)
        if features.shape != self.shape:
            raise ValueError(f"{_where(value)}shape {features.shape}, expected {self.shape}")
        return super().read_one(value)


@dataclass
class RangedFeatures(Reader):
    """An array of features, scaled by one minimum and one maximum over the training samples.

    Attributes:
        fitted: ``range``, ``(2,)``: the minimum and the maximum.
    """

    takes = "path"
    suffixes = ARRAYS

    def load(self, value: Any) -> np.ndarray:
        """Load the array of one value as it is before scaling.

        Raises:
            ValueError: The file is damaged, or has another shape; the message names the file.
        """
        return load_features(value)

    def fit(self, values: Iterable[Any]) -> None:
        """Find the minimum and the maximum."""
        ranges = np.array(
            readable(values, lambda value: np.array([(a := self.load(value)).min(), a.max()]))
        )
        self.fitted = {"range": np.array([ranges[:, 0].min(), ranges[:, 1].max()], np.float32)}

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one array, float32; values of training samples are in [0, 1]."""
        return self._scale(self.load(value)), {}

    def _scale(self, features: np.ndarray) -> np.ndarray:
        low, high = self.fitted["range"]
        span = high - low
        scaled: np.ndarray = (features - low) / np.float32(span if span > 0 else 1)
        return scaled


def _reject_constant(features: np.ndarray, where: str) -> None:
    if features.size > 1 and np.ptp(features) == 0:
        fault = f"is {features.flat[0]:g} throughout, so it contains no information"
        raise ValueError(f"{where}{fault}")


def _where(value: Any) -> str:
    return f"{value}: " if isinstance(value, (str, Path)) else ""


SECONDS = 10
"""Length of a clip of VGGSound; each modality has one feature for each second."""


@dataclass
class VideoSeconds(RangedFeatures):
    """VGG-19 pool5 features of a clip, ``(10, 7, 7, 512)``: the tensor is ``(512, 10, 7, 7)``."""

    SHAPE = (SECONDS, 7, 7, 512)

    def load(self, value: Any) -> np.ndarray:
        """See `RangedFeatures.load`."""
        features, where = load_features(value), _where(value)
        if features.shape != self.SHAPE:
            raise ValueError(f"{where}shape {features.shape}, expected {self.SHAPE}")
        _reject_constant(features, where)
        return features

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one clip as ``(512, 10, 7, 7)`` float32."""
        return self._scale(self.load(value).transpose(3, 0, 1, 2)), {}


@dataclass
class AudioSeconds(RangedFeatures):
    """VGGish features of a clip, ``(1 to 10 or more, 128)``: the tensor is ``(10, 128)``.

    If the sound ends early, its last second is repeated, as the publishers do; seconds after the
    tenth are cut off. The note ``audio_seconds`` is the number of seconds that are used.
    """

    WIDTH = 128
    notes = ("audio_seconds",)

    def load(self, value: Any) -> np.ndarray:
        """See `RangedFeatures.load`."""
        features, where = load_features(value), _where(value)
        if features.ndim != 2 or features.shape[1] != self.WIDTH or not len(features):
            raise ValueError(f"{where}shape {features.shape}, expected {(SECONDS, self.WIDTH)}")
        _reject_constant(features[:SECONDS], where)
        return features[:SECONDS]

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one clip as ``(10, 128)`` float32."""
        features = self.load(value)
        padded = np.pad(features, ((0, SECONDS - len(features)), (0, 0)), "edge")
        return self._scale(padded), {"audio_seconds": len(features)}
