"""Images and depth maps of rooms, resized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mst_distill.media.images import decode_image, is_plain, to_depth, to_rgb
from mst_distill.media.minmax import scale_min_max
from mst_distill.media.readers import IMAGES, Reader


@dataclass
class Resized(Reader):
    """What image and depth map have in common.

    Attributes:
        size: Height and width of the tensor.

    Raises:
        ValueError: `size` is not a pair of positive integers.
    """

    takes = "path"
    suffixes = IMAGES
    size: Sequence[int]

    def __post_init__(self) -> None:
        size = self.size
        valid = isinstance(size, Sequence) and all(isinstance(n, int) and n > 0 for n in size)
        if not valid or len(size) != 2:
            raise ValueError(f"size is {size}; it must be a height and a width, such as (480, 640)")
        self.size = (size[0], size[1])


@dataclass
class ColourImage(Resized):
    """A colour image ``(3, H, W)``, resized, in [0, 1].

    Values are divided by 255, so nothing has to be fitted. A value is the path of a file or an
    array ``(H, W, 3)`` of bytes.
    """

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one image as ``(3, H, W)`` float32."""
        from PIL.Image import Resampling

        pixels = value
        if isinstance(value, (str, Path)):
            pixels = np.asarray(to_rgb(decode_image(Path(value))))
        pixels = resize(pixels, self.size, Resampling.BILINEAR)
        _check_varies("colour", pixels, value)
        return np.moveaxis(pixels, -1, 0) / np.float32(255), {}


@dataclass
class DepthMap(Resized):
    """A depth map ``(1, H, W)``, scaled to [0, 1] by its own minimum and maximum.

    It is resized by taking the nearest pixel, because a mean over the edge of an object is not the
    depth of any object. A value is the path of a file or an array ``(H, W)`` in any unit.
    """

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one depth map as ``(1, H, W)`` float32."""
        from PIL.Image import Resampling

        depth = to_depth(decode_image(Path(value))) if isinstance(value, (str, Path)) else value
        if not np.isfinite(depth).all():
            raise ValueError("depth contains NaN or infinity")
        depth = resize(depth.astype(np.float32), self.size, Resampling.NEAREST)
        _check_varies("depth", depth, value)
        return scale_min_max(depth[None]), {}


def resize(image: np.ndarray, size: Sequence[int], method: Any) -> np.ndarray:
    """Resize ``(H, W)`` or ``(H, W, 3)`` to a height and a width by one of Pillow's methods."""
    from PIL import Image

    height, width = size
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def _check_varies(what: str, pixels: np.ndarray, value: Any) -> None:
    """Raise an error for a map or image whose pixels are all equal."""
    if is_plain(pixels):
        where = f"{value}: " if isinstance(value, (str, Path)) else ""
        raise ValueError(
            f"{where}{what} is {pixels[0, 0].tolist()} in all pixels, so it contains no information"
        )
