"""Photographs of samples, opened safely."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mst_distill.benchmarks.source import DamagedSampleError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
"""What `open_image` decodes. Some of Pillow's other formats call programs."""


def open_image(path: Path, sample: str) -> Image:
    """Decode a photograph.

    Args:
        path: A JPEG, PNG, GIF (its first frame) or WebP.
        sample: Whose it is.

    Returns:
        In RGB.

    Raises:
        DamagedSampleError: The file cannot be decoded whole, or has more pixels than Pillow deems
            safe (``PIL.Image.MAX_IMAGE_PIXELS``).
    """
    from PIL import Image

    # What Pillow's decoders let through when they trip over damaged bytes.
    damages = (OSError, SyntaxError, ValueError, TypeError, IndexError, struct.error)
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                return image.convert("RGB")
    except (*damages, *bombs) as error:
        raise DamagedSampleError(sample, f"{path}: no image that can be read ({error})") from error
