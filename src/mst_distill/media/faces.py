"""Where in a frame the face is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np


class Square(NamedTuple):
    """A square of a frame, in pixels from its upper left corner."""

    left: float
    top: float
    side: float


class FaceFinder(ABC):
    """Finds the face of the one person in a frame. Built without arguments."""

    @abstractmethod
    def find(self, frame: np.ndarray) -> Square | None:
        """Find the face in an RGB frame ``(H, W, 3)`` of bytes; None where there seems to be none.

        The square lies within the frame.
        """


class HaarFaces(FaceFinder):
    """OpenCV's cascade for frontal faces (Viola and Jones, 2001), on a reduced grey frame.

    Of several faces the largest is taken, and a fifth of its side is added, for the cascade's
    square leaves out chin and forehead, where there is expression too.
    """

    _ROWS = 240
    """To so many rows a frame is reduced: a face that fills a fifth of it is still found."""

    _LEAST_SHARE = 1 / 5
    """Of the frame's shorter side: what is smaller is taken for a chance pattern."""

    _MARGIN = 0.2

    def __init__(self) -> None:
        import cv2.data

        self._cascade = cv2.CascadeClassifier(
            f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml"
        )

    def find(self, frame: np.ndarray) -> Square | None:
        """As `FaceFinder.find`."""
        import cv2

        scale = max(1.0, frame.shape[0] / self._ROWS)
        size = (round(frame.shape[1] / scale), round(frame.shape[0] / scale))
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        least = round(min(size) * self._LEAST_SHARE)
        found = self._cascade.detectMultiScale(grey, 1.1, 5, minSize=(least, least))
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
    """Looks for nothing: the largest square in the middle of the frame."""

    def find(self, frame: np.ndarray) -> Square:
        """As `FaceFinder.find`."""
        height, width = frame.shape[:2]
        return _within(frame, width / 2, height / 2, min(height, width))


def _within(frame: np.ndarray, x: float, y: float, side: float) -> Square:
    """The square around a point, reduced and moved so far that it lies within the frame."""
    height, width = frame.shape[:2]
    side = min(side, height, width)
    left = min(max(x - side / 2, 0), width - side)
    top = min(max(y - side / 2, 0), height - side)
    return Square(left, top, side)
