"""Photographs that belong to samples."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mst_distill.benchmarks.source import damaged

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


def open_image(path: Path, sample: str) -> Image:
    """Decode a photograph (see `media.images`).

    One that has the same colour everywhere is kept, with a warning: people post such pictures, and
    they can be read; but they may as well be what is left of a failed download.

    Args:
        path: Its file.
        sample: Whose it is.

    Returns:
        In RGB, upright.

    Raises:
        DamagedSampleError: The file cannot be decoded.
    """
    from mst_distill.media.images import decode_image, is_plain, to_rgb

    with damaged(sample):
        image = to_rgb(decode_image(path))
    if is_plain(np.asarray(image)):
        log.warning("sample %r: %s has one colour in all its pixels", sample, path)
    return image
