"""Images of any size as small maps of pixels, for nets that are trained on pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mst_distill.media.depth_images import Resized, resize
from mst_distill.media.encoded import open_photograph


@dataclass
class ResizedImage(Resized):
    """An image ``(3, H, W)``, or ``(1, H, W)`` if `grey`, resized, in [0, 1].

    Sides are scaled each on its own, bilinearly and with antialiasing, so that nothing is cut off.
    Grey is Pillow's luma, (299 R + 587 G + 114 B) / 1000. An image with one colour in all pixels is
    accepted with a warning.

    Attributes:
        grey: Whether the colour is dropped.
    """

    size: Sequence[int] = (64, 64)
    grey: bool = False

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one file as ``(3, H, W)`` or ``(1, H, W)`` float32."""
        from PIL.Image import Resampling

        image = open_photograph(Path(value))
        pixels = np.asarray(image.convert("L") if self.grey else image)
        pixels = resize(pixels, self.size, Resampling.BILINEAR)
        channels = pixels[None] if self.grey else np.moveaxis(pixels, -1, 0)
        return channels / np.float32(255), {}
