"""Safe decoding of image files to upright colour images, depth maps and label maps."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
"""The formats that `decode_image` supports. Some of Pillow's others start external programs."""

_SIGNATURES = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("GIF", 0, b"GIF8"),
    ("WEBP", 8, b"WEBP"),
    ("BMP", 0, b"BM"),
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("HEIC", 4, b"ftyphei"),
    ("HEIC", 4, b"ftypmif1"),
    ("AVIF", 4, b"ftypavif"),
    ("JPEG 2000", 4, b"jP  "),
)
"""Format, offset in the file, and the bytes at that offset."""

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that makes an image upright, by its EXIF orientation; 1 is upright."""

_PNG_BIT_DEPTH_OFFSET = 24
"""Offset of the byte with the number of bits of a grey value or palette index (IHDR)."""

# Errors that Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (OSError, EOFError, MemoryError, SyntaxError, ValueError, TypeError, IndexError)


def decode_image(path: Path) -> ImageFile.ImageFile:
    """Decode a JPEG, PNG, GIF or WebP; of an animation, its first frame.

    Returns:
        The pixels as they are stored: in the mode of the file, and not yet upright.

    Raises:
        ValueError: The file has another format, cannot be decoded completely, or its header states
            more pixels than Pillow considers safe (``PIL.Image.MAX_IMAGE_PIXELS``); the message
            names the file.
    """
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    if (found := format_of(path)) not in (*FORMATS, None):
        raise ValueError(f"{path}: is {found}, whatever its suffix; {_SUPPORTED}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                image.load()
                return image
    except (*_DECODER_ERRORS, struct.error, *bombs) as error:
        hint = "" if found else f"; {_SUPPORTED}"
        raise ValueError(f"{path}: contains no image that can be read ({error}){hint}") from error


_SUPPORTED = (
    "JPEG, PNG, GIF and WebP are supported: convert the file to one of them; PNG is lossless"
)


def format_of(path: Path) -> str | None:
    """Return the format of an image file by its first bytes, such as ``PNG``; None if unknown."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return None
    return next((name for name, at, magic in _SIGNATURES if start[at:].startswith(magic)), None)


def orientation_of(image: Image.Image) -> int:
    """Return the orientation of the stored pixels, 1 to 8, by EXIF or XMP; 1, upright, by default.

    Tags that cannot be read are ignored, because the pixels are intact.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (*_DECODER_ERRORS, struct.error):
        return 1
    return orientation if orientation in _TRANSPOSITIONS else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image to RGB, 8 bits a channel, upright and opaque.

    Grey becomes three equal channels; 16-bit values from 0 to 65535 are scaled to 0 to 255 and
    rounded. Transparent and partly transparent pixels are blended with white. Pillow converts CMYK,
    without a colour profile.

    Args:
        image: An image in any mode, from `decode_image` or elsewhere.

    Returns:
        An image in mode RGB; `image` itself if it needs no conversion.

    Raises:
        ValueError: A grey value is outside 0 to 65535, or the values are floating-point numbers,
            whose range is unknown.
    """
    image = _upright(image)
    if image.mode == "F":
        raise ValueError(
            f"{_name(image)}: has floating-point values; 8-bit or 16-bit integers are required"
        )
    if image.mode.startswith("I"):
        return Image.fromarray(_grey_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def to_depth(image: ImageFile.ImageFile) -> np.ndarray:
    """Convert a decoded depth map to an upright array ``(H, W)`` of the stored 8 or 16 bits.

    Raises:
        ValueError: The map has several channels, or a palette, whose indices stand for colours and
            not for depths; the message names the file.
    """
    if image.mode == "P":
        raise ValueError(
            f"{_name(image)}: has a palette; depth must be a single channel of 8 or 16 bits of grey"
        )
    return _one_channel(image)


def to_labels(image: ImageFile.ImageFile) -> np.ndarray:
    """Convert a decoded label map to upright classes ``(H, W)``: grey values or palette indices.

    Raises:
        ValueError: The map is not a PNG file (see `check_lossless`) or has several channels; the
            message names the file.
    """
    check_lossless(Path(_name(image)))
    labels = _one_channel(image)
    if image.mode not in ("1", "L"):
        return labels
    with Path(_name(image)).open("rb") as file:
        bits = file.read(_PNG_BIT_DEPTH_OFFSET + 1)[_PNG_BIT_DEPTH_OFFSET]
    # Pillow scales grey values of 1, 2 and 4 bits to the full range, which is wrong for labels.
    scale = 1 if image.mode == "1" else 255 // (2**bits - 1)
    return labels.astype(np.uint8) // scale


def check_lossless(labels: Path) -> None:
    """Raise an error for a label map whose format may change classes; only its start is read.

    Raises:
        ValueError: The file has a known format other than PNG; the message names the file. A file
            of an unknown format passes, and `decode_image` rejects it.
    """
    if (found := format_of(labels)) not in ("PNG", None):
        raise ValueError(
            f"{labels}: is {found}; labels must be lossless: PNG. Other formats may have changed "
            f"classes, mostly at the edges of objects, and a conversion to PNG does not restore "
            f"them: create the map again from its source"
        )


def is_plain(pixels: np.ndarray) -> bool:
    """Return whether all pixels of ``(H, W)`` or ``(H, W, channels)`` are equal."""
    return bool((pixels == pixels[:1, :1]).all())


def _upright(image: Image.Image) -> Image.Image:
    # `ImageOps.exif_transpose` rewrites the other tags as well, and fails on unusual ones.
    transposition = _TRANSPOSITIONS.get(orientation_of(image))
    if transposition is None:
        return image
    upright = image.transpose(transposition)
    # The orientation tag is dropped; with it, a second call would transpose the image again.
    upright.info = {key: value for key, value in image.info.items() if key == "transparency"}
    return upright


def _grey_to_8_bits(image: Image.Image) -> np.ndarray:
    """Scale a 16-bit grey image to bytes ``(H, W)``."""
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65_535:
        raise ValueError(
            f"{_name(image)}: grey values are {grey.min()} to {grey.max()}; 0 to 65535 are allowed"
        )
    if "transparency" in image.info:
        grey[grey == image.info["transparency"]] = 65_535  # white
    return ((grey + 128) // 257).astype(np.uint8)


def _one_channel(image: ImageFile.ImageFile) -> np.ndarray:
    if len(image.getbands()) != 1:
        raise ValueError(f"{_name(image)}: has the mode {image.mode}, not one channel")
    return np.asarray(_upright(image))


def _name(image: Image.Image) -> str:
    return str(getattr(image, "filename", "") or "the image")
