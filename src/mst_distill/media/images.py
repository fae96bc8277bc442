"""Image files, decoded safely, upright, as colours, depths or labels."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
"""What `decode_image` decodes. Some of Pillow's other formats call programs."""

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
"""Format, and the bytes that its files have at a place."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings the pixels upright, by the orientation that EXIF tells; 1 is upright."""

_PNG_BIT_DEPTH = 24
"""The place of the byte that says how many bits a grey value or palette index has (IHDR)."""

# What Pillow's decoders let through when they trip over damaged bytes.
_DAMAGES = (OSError, EOFError, MemoryError, SyntaxError, ValueError, TypeError, IndexError)


def decode_image(path: Path) -> ImageFile.ImageFile:
    """Decode a JPEG, PNG, GIF or WebP; of an animation, its first frame.

    Returns:
        The pixels as they are stored: in the mode that the file has, and not yet upright.

    Raises:
        ValueError: The file is in another format, cannot be decoded whole, or its header says more
            pixels than Pillow deems safe (``PIL.Image.MAX_IMAGE_PIXELS``); the message names it.
    """
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    if (found := format_of(path)) not in (*FORMATS, None):
        raise ValueError(f"{path}: is {found}, whatever its name says; {_READ}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                image.load()
                return image
    except (*_DAMAGES, struct.error, *bombs) as error:
        hint = "" if found else f"; {_READ}"
        raise ValueError(f"{path}: no image that can be read ({error}){hint}") from error


_READ = "JPEG, PNG, GIF and WebP are read: convert it to one of them, to PNG without loss"


def format_of(path: Path) -> str | None:
    """The format of an image file by its first bytes, such as ``PNG``; None if they tell none."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return None
    return next((name for name, at, what in _SIGNATURES if start[at:].startswith(what)), None)


def orientation_of(image: Image.Image) -> int:
    """How the pixels are stored, 1 to 8 as EXIF or XMP tells; 1, which is upright, if neither does.

    Tags that cannot be read tell nothing: the pixels beside them are whole.
    """
    try:
        told = image.getexif().get(ExifTags.Base.Orientation)
    except (*_DAMAGES, struct.error):
        return 1
    return told if told in _TURNS else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Bring a decoded image to RGB, 8 bits a channel, upright and opaque.

    Grey becomes three equal channels; of 16 bits, 0 to 65535 become 0 to 255, rounded. What is
    transparent, wholly or in part, is laid on white. CMYK is converted as Pillow does it, without a
    colour profile.

    Args:
        image: In any mode, from `decode_image` or elsewhere.

    Returns:
        In mode RGB; `image` itself if that is what it is.

    Raises:
        ValueError: It is grey beyond 16 bits, or its numbers have fractions and so no known range.
    """
    image = _upright(image)
    if image.mode == "F":
        raise ValueError(f"{_name(image)}: has fractions; whole numbers of 8 or 16 bits are read")
    if image.mode.startswith("I"):
        return Image.fromarray(_grey_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def to_depth(image: ImageFile.ImageFile) -> np.ndarray:
    """Bring a decoded depth map to numbers ``(H, W)``, upright, of 8 or 16 bits as it is stored.

    Raises:
        ValueError: It has several channels, or a palette, whose numbers name colours and are no
            depths; the message names the file.
    """
    if image.mode == "P":
        raise ValueError(
            f"{_name(image)}: has a palette; depth must be one channel of 8 or 16 bits of grey"
        )
    return _one_channel(image)


def to_labels(image: ImageFile.ImageFile) -> np.ndarray:
    """Bring a decoded label map to classes ``(H, W)``, upright: grey values or palette indices.

    Raises:
        ValueError: It is no PNG (see `check_lossless`), or it has several channels; the message
            names the file.
    """
    check_lossless(Path(_name(image)))
    labels = _one_channel(image)
    if image.mode not in ("1", "L"):
        return labels
    with Path(_name(image)).open("rb") as file:
        bits = file.read(_PNG_BIT_DEPTH + 1)[_PNG_BIT_DEPTH]
    # Pillow spreads grey values of 1, 2 and 4 bits, as is right for pictures alone.
    spread = 1 if image.mode == "1" else 255 // (2**bits - 1)
    return labels.astype(np.uint8) // spread


def check_lossless(labels: Path) -> None:
    """Raise an error for a label map whose format may change classes; only its start is read.

    Raises:
        ValueError: It is in a known format other than PNG; the message names it. What is in none
            passes: it is `decode_image` that says so.
    """
    if (found := format_of(labels)) not in ("PNG", None):
        raise ValueError(
            f"{labels}: is {found}; labels must be lossless: PNG. Other formats may have changed "
            f"classes, above all at the edges of objects, and that stays when they are converted: "
            f"make the map anew from what it was made of"
        )


def is_plain(pixels: np.ndarray) -> bool:
    """Whether all pixels of ``(H, W)`` or ``(H, W, channels)`` are alike."""
    return bool((pixels == pixels[:1, :1]).all())


def _upright(image: Image.Image) -> Image.Image:
    # Not `ImageOps.exif_transpose`: it writes the other tags anew, and trips over strange ones.
    turn = _TURNS.get(orientation_of(image))
    if turn is None:
        return image
    turned = image.transpose(turn)
    # Without the tag, or it would be turned again.
    turned.info = {key: of for key, of in image.info.items() if key == "transparency"}
    return turned


def _grey_to_8_bits(image: Image.Image) -> np.ndarray:
    """``(H, W)`` bytes of a grey image of 16 bits."""
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65_535:
        raise ValueError(
            f"{_name(image)}: grey values are {grey.min()} to {grey.max()}; 0 to 65535 are read"
        )
    if "transparency" in image.info:
        grey[grey == image.info["transparency"]] = 65_535
    return ((grey + 128) // 257).astype(np.uint8)


def _one_channel(image: ImageFile.ImageFile) -> np.ndarray:
    if len(image.getbands()) != 1:
        raise ValueError(f"{_name(image)}: {image.mode}, not one channel")
    return np.asarray(_upright(image))


def _name(image: Image.Image) -> str:
    return str(getattr(image, "filename", "") or "the image")
