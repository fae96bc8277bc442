"""Removal of most of the energy of images, so that one modality alone is not enough."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mst_distill.media.minmax import scale_min_max
from mst_distill.media.readers import IMAGES, Reader, readable


@dataclass
class ReducedImage(Reader, ABC):
    """Projects a grey image onto the leading principal components, then scales it to [0, 1].

    AV-MNIST weakens MNIST in this way (Vielzeuf et al., "CentralNet", ECCV workshops 2018): 75 %
    of the energy is removed. The tensor is ``(1, height, width)``.

    Attributes:
        height: Rows of an image.
        width: Columns of an image.
        kept_energy: Share of the variance of the training images to keep, in (0, 1]. The number of
            components is the one whose share is nearest to it.
        fitted: ``mean``, ``(pixels,)``, and ``axes``, ``(components, pixels)``.

    Raises:
        ValueError: `kept_energy` is outside (0, 1].
    """

    height: int
    width: int
    kept_energy: float

    def __post_init__(self) -> None:
        if not 0 < self.kept_energy <= 1:
            raise ValueError(f"kept_energy is {self.kept_energy}; it must be above 0 and at most 1")

    def fit(self, values: Iterable[Any]) -> None:
        """Compute the principal components of the training images."""
        from sklearn.decomposition import PCA

        images = np.stack(readable(values, self.pixels))
        pca = PCA(svd_solver="covariance_eigh").fit(images)
        energy = np.cumsum(pca.explained_variance_ratio_)
        count = np.abs(energy - self.kept_energy).argmin() + 1
        self.fitted = {"mean": pca.mean_, "axes": pca.components_[:count]}

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one image as ``(1, height, width)`` float32 in [0, 1]."""
        mean, axes = self.fitted["mean"], self.fitted["axes"]
        projected = (self.pixels(value) - mean) @ axes.T @ axes + mean
        return scale_min_max(projected.reshape(1, self.height, self.width)), {}

    def pixels(self, value: Any) -> np.ndarray:
        """Return the pixels of a raw value, ``(height * width,)`` float64.

        Raises:
            ValueError: Their number is another one, or one is not a finite number.
        """
        pixels = np.asarray(value, np.float64).ravel()
        if pixels.size != self.height * self.width:
            raise ValueError(
                f"it has {pixels.size} pixels; {self.height} x {self.width} are required"
            )
        if not np.isfinite(pixels).all():
            raise ValueError("it contains a pixel that is empty or not a finite number")
        return pixels


@dataclass
class ReducedPixels(ReducedImage):
    """A reduced image from its pixels.

    A table has the columns ``pixel_ROW_COLUMN``, from 0, row by row, as scikit-learn's
    ``load_digits``.
    """

    takes = "numbers"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.columns = tuple(
            f"pixel_{row}_{column}" for row in range(self.height) for column in range(self.width)
        )


@dataclass
class ReducedImageFile(ReducedImage):
    """A reduced image from a file, or from its pixels divided by 255.

    The file is a JPEG, PNG, GIF or WebP of `height` x `width` pixels; colour is converted to grey.
    """

    takes = "path"
    suffixes = IMAGES

    def pixels(self, value: Any) -> np.ndarray:
        """See `ReducedImage.pixels`."""
        if not isinstance(value, (str, Path)):
            return super().pixels(value)
        from mst_distill.media.images import decode_image, is_plain, to_rgb

        image = np.asarray(to_rgb(decode_image(Path(value))).convert("L"))
        if image.shape != (self.height, self.width):
            raise ValueError(
                f"{value}: is {image.shape[0]} x {image.shape[1]} pixels; it must be "
                f"{self.height} x {self.width}"
            )
        if is_plain(image):
            raise ValueError(f"{value}: has the same colour in all pixels")
        return super().pixels(image / np.float32(255))
