"""Photographs and texts as vectors of frozen encoders."""

from __future__ import annotations

import logging
from abc import ABC
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mst_distill.import_path import resolve
from mst_distill.media.encoders import ImageEncoder, TextEncoder
from mst_distill.media.readers import IMAGES, Reader, UnreadableValueError
from mst_distill.media.tweets import clean_tweet, repair

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)


@dataclass
class Encoded(Reader, ABC):
    """A vector of a frozen encoder. Values are encoded in batches, which affects rounding alone.

    Attributes:
        encoder: Import path of the encoder. Its weights are downloaded and loaded when the first
            value is read.
    """

    import_paths = ("encoder",)
    encoder: str

    def read_readable(self, values: Sequence[Any]) -> tuple[np.ndarray | None, dict[int, str]]:
        """See `Reader.read_readable`; the values are encoded together."""
        readable, errors = dict(enumerate(values)), dict[int, str]()
        while readable:
            try:
                return self.read_noted(list(readable.values()))[0], errors
            except UnreadableValueError as error:
                position = list(readable)[error.position]
                errors[position] = error.reason
                del readable[position]
        return None, errors

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one value as ``(width,)`` float32."""
        tensors, notes = self.read_noted([value])
        return tensors[0], {name: float(note[0]) for name, note in notes.items()}


@dataclass
class EncodedPhotograph(Encoded):
    """The vector of a photograph, from a JPEG, PNG, GIF or WebP file.

    A photograph that has the same colour in all pixels is accepted with a warning: people post such
    pictures, but one may also result from a failed download.

    Raises:
        ValueError, TypeError: `encoder` does not exist or is not an `ImageEncoder`.
    """

    takes = "path"
    suffixes = IMAGES

    def __post_init__(self) -> None:
        self._kind = resolve(self.encoder, ImageEncoder)

    def read_noted(self, values: Sequence[Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Read n photographs as ``(n, width)`` float32; a few at a time are in memory.

        Raises:
            UnreadableValueError: A file cannot be decoded.
            ConnectionError: The weights of the encoder are not on disk and cannot be downloaded.
        """
        return self._encoder.encode(self._photographs(values)), {}

    @cached_property
    def _encoder(self) -> ImageEncoder:
        return self._kind()

    def _photographs(self, values: Sequence[Any]) -> Iterator[Image]:
        for position, value in enumerate(values):
            try:
                yield open_photograph(Path(value))
            except (ValueError, OSError) as error:
                raise UnreadableValueError(position, str(error)) from error


@dataclass
class EncodedText(Encoded):
    """The vector of a text.

    Attributes:
        tweets: Whether texts are normalised by `clean_tweet` first.

    Raises:
        ValueError, TypeError: `encoder` does not exist or is not a `TextEncoder`.
    """

    takes = "text"
    tweets: bool = False

    def __post_init__(self) -> None:
        self._kind = resolve(self.encoder, TextEncoder)

    def read_noted(self, values: Sequence[Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Read n texts as ``(n, width)`` float32.

        Raises:
            UnreadableValueError: A text is empty.
            ConnectionError: The weights of the encoder are not on disk and cannot be downloaded.
        """
        for position, text in enumerate(values):
            if not isinstance(text, str) or not text.strip():
                raise UnreadableValueError(position, "the text is empty")
        return self._encoder.encode([self.prepare(text) for text in values]), {}

    def prepare(self, text: str) -> str:
        """Return a text as it is encoded."""
        return clean_tweet(text) if self.tweets else text

    @cached_property
    def _encoder(self) -> TextEncoder:
        return self._kind()


@dataclass
class EncodedTweet(EncodedText):
    """The vector of a tweet; the note ``text_repaired`` is 1 where `repair` changed the text."""

    notes = ("text_repaired",)
    tweets: bool = True

    def read_noted(self, values: Sequence[Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """See `EncodedText.read_noted`."""
        vectors, _ = super().read_noted(values)
        repaired = [float(repair(text) != text) for text in values]
        return vectors, {"text_repaired": np.array(repaired, np.float32)}


def open_photograph(path: Path) -> Image:
    """Decode a photograph as RGB, upright (see `media.images`).

    Raises:
        ValueError: The file cannot be decoded; the message names it.
    """
    from mst_distill.media.images import decode_image, is_plain, to_rgb

    image = to_rgb(decode_image(path))
    if is_plain(np.asarray(image)):
        log.warning("%s has the same colour in all pixels", path)
    return image
