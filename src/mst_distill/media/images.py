"""Image files, decoded safely."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

from PIL import Image

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
"""What `decode_image` decodes. Some of Pillow's other formats call programs."""


def decode_image(path: Path) -> Image.Image:
    """Decode a JPEG, PNG, GIF (its first frame) or WebP.

    Returns:
        In the mode that the file has.

    Raises:
        ValueError: The file cannot be decoded whole, or its header says more pixels than Pillow
            deems safe (``PIL.Image.MAX_IMAGE_PIXELS``); the message names it.
    """
    # What Pillow's decoders let through when they trip over damaged bytes.
    damages = (OSError, EOFError, MemoryError, SyntaxError, ValueError, TypeError, IndexError)
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                image.load()
                return image
    except (*damages, struct.error, *bombs) as error:
        raise ValueError(f"{path}: no image that can be read ({error})") from error
