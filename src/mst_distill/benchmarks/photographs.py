"""Reading photographs of samples."""

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

    A photograph that has the same colour in all pixels is accepted with a warning: people post such
    pictures, but one may also result from a failed download.

    Args:
        path: File of the photograph.
        sample: Id of the sample, for errors and warnings.

    Returns:
        The photograph in RGB, upright.

    Raises:
        DamagedSampleError: The file cannot be decoded.
    """
    from mst_distill.media.images import decode_image, is_plain, to_rgb

    with damaged(sample):
        image = to_rgb(decode_image(path))
    if is_plain(np.asarray(image)):
        log.warning("sample %r: %s has the same colour in all pixels", sample, path)
    return image
