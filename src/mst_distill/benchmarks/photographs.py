"""Photographs that belong to samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mst_distill.benchmarks.source import damaged

if TYPE_CHECKING:
    from PIL.Image import Image


def open_image(path: Path, sample: str) -> Image:
    """Decode a photograph (see `media.images`).

    Args:
        path: Its file.
        sample: Whose it is.

    Returns:
        In RGB.

    Raises:
        DamagedSampleError: The file cannot be decoded.
    """
    from mst_distill.media.images import decode_image

    with damaged(sample):
        return decode_image(path).convert("RGB")
