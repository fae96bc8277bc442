"""Location of the face in a frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np


class Square(NamedTuple):
    """A square of a frame, in pixels from the upper left corner of the frame."""

    left: float
    top: float
    side: float


class FaceFinder(ABC):
    """Locates the face of the only person in a frame. Constructed without arguments."""

    @abstractmethod
    def find(self, frame: np.ndarray) -> Square | None:
        """Locate the face in an RGB frame ``(H, W, 3)`` of bytes; None if there seems to be none.

        The square lies within the frame.
        """


class HaarFaces(FaceFinder):
    """OpenCV's cascade for frontal faces (Viola and Jones, 2001), on a downscaled grey frame.

    If it finds several faces, the largest is taken. A fifth of its side is added, because the
    cascade's square leaves out chin and forehead, which also show the expression.
    """

    _MAX_ROWS = 240
    """Frames are downscaled to this height; a face that fills a fifth of it is still found."""

    _MIN_SHARE = 1 / 5
    """Of the frame's shorter side: a smaller square is considered a false detection."""

    _MARGIN = 0.2

    def __init__(self) -> None:
        import cv2.data

        self._cascade = cv2.CascadeClassifier(
            f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml"
        )

    def find(self, frame: np.ndarray) -> Square | None:
        """See `FaceFinder.find`."""
        import cv2

        scale = max(1.0, frame.shape[0] / self._MAX_ROWS)
        size = (round(frame.shape[1] / scale), round(frame.shape[0] / scale))
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        min_side = round(min(size) * self._MIN_SHARE)
        found = self._cascade.detectMultiScale(grey, 1.1, 5, minSize=(min_side, min_side))
        if not len(found):
            return None
        left, top, side, _ = max(np.asarray(found).tolist(), key=lambda box: (box[2], box))
        return _within(
            frame,
            x=(left + side / 2) * scale,
            y=(top + side / 2) * scale,
            side=side * scale * (1 + self._MARGIN),
        )


class CentreCrop(FaceFinder):
    """Returns the largest square in the middle of the frame, without any detection."""

    def find(self, frame: np.ndarray) -> Square:
        """See `FaceFinder.find`."""
        height, width = frame.shape[:2]
        return _within(frame, width / 2, height / 2, min(height, width))


def _within(frame: np.ndarray, x: float, y: float, side: float) -> Square:
    """Return the square around a point, reduced and moved as needed to lie within the frame."""
    height, width = frame.shape[:2]
    side = min(side, height, width)
    left = min(max(x - side / 2, 0), width - side)
    top = min(max(y - side / 2, 0), height - side)
    return Square(left, top, side)
