"""Images are converted to upright 8-bit RGB on white; label maps retain every class."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from mst_distill.media.images import (
    check_lossless,
    decode_image,
    format_of,
    orientation_of,
    to_depth,
    to_labels,
    to_rgb,
)


def read_rgb(path: Path) -> np.ndarray:
    image = to_rgb(decode_image(path))
    assert image.mode == "RGB"
    return np.asarray(image)


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def stored_as(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels that a file with this EXIF orientation stores for an upright image.

    The comments name the sides of the image on which the first stored row and column lie.
    """
    transposed = upright.swapaxes(0, 1)
    return {
        1: upright,  # first row at the top, first column at the left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: transposed,  # left, top
        6: transposed[::-1],  # right, top
        7: transposed[::-1, ::-1],  # right, bottom
        8: transposed[:, ::-1],  # left, bottom
    }[orientation]


def write_png(path: Path, width: int, bits: int, rows: list[bytes], transparent: int = -1) -> Path:
    """Write a grey PNG of any bit depth; Pillow cannot write all of them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        content = name + data
        return struct.pack(">I", len(data)) + content + struct.pack(">I", zlib.crc32(content))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", struct.pack(">H", transparent)) if transparent >= 0 else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )
    return path


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("webp", {"lossless": True})])
def test_an_image_is_turned_upright(
    tmp_path: Path, orientation: int, suffix: str, options: dict[str, bool]
) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8)
    file = tmp_path / f"a.{suffix}"
    stored = Image.fromarray(np.ascontiguousarray(stored_as(upright, orientation)))
    stored.save(file, exif=exif_of(orientation), **options)
    assert orientation_of(decode_image(file)) == orientation
    np.testing.assert_array_equal(read_rgb(file), upright)


def test_an_upright_image_is_not_turned_again(tmp_path: Path) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (2, 3, 4), np.uint8)
    upright[..., 3] |= 1  # so that no pixel is fully transparent
    for mode, pixels in (("RGB", upright[..., :3]), ("RGBA", upright), ("L", upright[..., 0])):
        file = tmp_path / f"{mode}.png"
        stored = Image.fromarray(np.ascontiguousarray(stored_as(pixels, 6)))
        stored.save(file, exif=exif_of(6))
        once = to_rgb(decode_image(file))
        assert once.size == (3, 2)
        np.testing.assert_array_equal(np.asarray(to_rgb(once)), np.asarray(once))
        assert orientation_of(once) == 1


def test_an_orientation_only_in_xmp_is_applied(tmp_path: Path) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="8"/>')
    stored = Image.fromarray(np.ascontiguousarray(stored_as(upright, 8)))
    stored.save(tmp_path / "a.png", pnginfo=info)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), upright)


@pytest.mark.parametrize(
    "tags",
    [
        b"Exif\0\0no tags at all",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0six\0\0\0\0\0",
        bytes(exif_of(0).tobytes()),
        bytes(exif_of(9).tobytes()),
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_invalid_orientation_tags_are_ignored(tmp_path: Path, tags: bytes) -> None:
    Image.new("RGB", (3, 2), "red").save(tmp_path / "a.jpg", exif=tags)
    assert read_rgb(tmp_path / "a.jpg").shape == (2, 3, 3)


# Eight bits, opacity


def test_16_bit_grey_retains_its_levels(tmp_path: Path) -> None:
    levels = np.linspace(0, 65_535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    pixels = read_rgb(tmp_path / "a.png")
    assert len(np.unique(pixels)) == 64
    for channel in pixels.transpose(2, 0, 1):
        np.testing.assert_allclose(channel, levels / 65_535 * 255, atol=0.5 + 1e-9)


def test_grey_beyond_16_bits_or_with_fractions_is_an_error() -> None:
    whole = np.array([[0, 257], [514, 65_535]], np.int32)
    assert np.asarray(to_rgb(Image.fromarray(whole)))[..., 0].tolist() == [[0, 1], [2, 255]]
    for wrong, message in (
        (np.array([[0, 65_536]], np.int32), "0 to 65536; 0 to 65535 are allowed"),
        (np.array([[-1, 5]], np.int32), "-1 to 5; 0 to 65535 are allowed"),
        (np.array([[0.5, 5]], np.float32), "has floating-point values"),
    ):
        with pytest.raises(ValueError, match=message):
            to_rgb(Image.fromarray(wrong))


WHITE = [255, 255, 255]


def test_transparent_pixels_are_blended_with_white(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 102]]], np.uint8)
    Image.fromarray(pixels).save(file)
    # 102 of 255 are 0.4: 0.4 * 200 + 0.6 * 255 and 0.6 * 255.
    assert read_rgb(file).tolist() == [[[200, 0, 0], WHITE, [233, 153, 153]]]
    Image.fromarray(pixels[..., [1, 3]]).save(file)
    assert read_rgb(file).tolist() == [[[0] * 3, WHITE, [153] * 3]]


def test_the_transparent_colour_of_a_palette_becomes_white(tmp_path: Path) -> None:
    for suffix in ("png", "gif"):
        image = Image.new("P", (3, 1))
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
        image.putdata([0, 1, 2])
        image.save(tmp_path / f"a.{suffix}", transparency=1)
        assert read_rgb(tmp_path / f"a.{suffix}").tolist() == [[[10, 20, 30], WHITE, [70, 80, 90]]]


def test_the_transparent_colour_without_a_palette_becomes_white(tmp_path: Path) -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(4, 5, 6))
    assert read_rgb(tmp_path / "a.png").tolist() == [[[1, 2, 3], WHITE]]
    file = write_png(tmp_path / "b.png", 2, 16, [struct.pack(">2H", 257 * 9, 770)], 770)
    assert read_rgb(file).tolist() == [[[9] * 3, WHITE]]


def test_cmyk_is_converted_to_rgb(tmp_path: Path) -> None:
    for ink, colour in (((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))):
        Image.new("CMYK", (8, 8), ink).save(tmp_path / "a.jpg", quality=95)
        np.testing.assert_allclose(read_rgb(tmp_path / "a.jpg")[4, 4], colour, atol=3)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_the_first_frame_of_an_animation_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    file = tmp_path / f"a.{suffix}"
    frames[0].save(file, save_all=True, append_images=frames[1:], lossless=True)
    assert read_rgb(file)[8, 8].tolist() == [255, 0, 0]


# Formats


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("BMP", "BMP"),
        ("TIFF", "TIFF"),
        ("JPEG2000", "JPEG 2000"),
        ("AVIF", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
    ],
)
def test_an_unsupported_format_is_an_error_that_names_the_supported_formats(
    tmp_path: Path, content: str | bytes, name: str
) -> None:
    file = tmp_path / "a.jpg"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        Image.new("RGB", (64, 48)).save(file, content)
    with pytest.raises(
        ValueError, match=f"is {name}, .*JPEG, PNG, GIF and WebP are supported"
    ) as error:
        decode_image(file)
    assert str(file) in str(error.value)


def test_a_supported_format_is_read_whatever_the_suffix(tmp_path: Path) -> None:
    for name in ("JPEG", "PNG", "GIF", "WEBP"):
        file = tmp_path / "a.bmp"
        Image.new("RGB", (16, 16), "red").save(file, name)
        assert format_of(file) == name
        np.testing.assert_allclose(read_rgb(file)[8, 8], (255, 0, 0), atol=3)


# Labels


CLASSES = np.arange(40, dtype=np.uint8).reshape(5, 8)


def save_palette(file: Path) -> None:
    image = Image.fromarray(CLASSES).convert("P")
    # Two classes share a colour, and some colours belong to no class.
    image.putpalette([(7 * entry) % 256 for entry in range(39 * 3)] + [0, 0, 0])
    image.save(file, transparency=3)


@pytest.mark.parametrize(
    "save",
    [
        lambda file: Image.fromarray(CLASSES).save(file),
        lambda file: Image.fromarray(CLASSES.astype(np.uint16)).save(file),
        save_palette,
        lambda file: Image.fromarray(CLASSES).save(file, transparency=0),
        lambda file: Image.fromarray(np.ascontiguousarray(stored_as(CLASSES, 6))).save(
            file, exif=exif_of(6)
        ),
    ],
    ids=["8 bits", "16 bits", "palette", "transparent void", "on its side"],
)
def test_a_label_map_retains_every_class(tmp_path: Path, save: Callable[[Path], None]) -> None:
    save(tmp_path / "a.png")
    labels = to_labels(decode_image(tmp_path / "a.png"))
    np.testing.assert_array_equal(labels, CLASSES)


@pytest.mark.parametrize(
    ("bits", "row", "expected"),
    [
        (4, bytes([0x01, 0x2F]), [0, 1, 2, 15]),
        (2, bytes([0b00_01_10_11]), [0, 1, 2, 3]),
        (1, bytes([0b0110_0000]), [0, 1, 1, 0]),
    ],
)
def test_labels_of_fewer_than_8_bits_are_not_scaled(
    tmp_path: Path, bits: int, row: bytes, expected: list[int]
) -> None:
    """PNG optimisers write such files; in an image, the value 15 of 15 would be white."""
    file = write_png(tmp_path / "a.png", 4, bits, [row])
    assert to_labels(decode_image(file)).tolist() == [expected]
    white = 255 // (2**bits - 1)
    assert read_rgb(file)[0, :, 0].tolist() == [white * value for value in expected]


@pytest.mark.parametrize(
    ("name", "options"),
    [("JPEG", {"quality": 95}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("GIF", {})],
)
def test_labels_in_a_lossy_format_are_an_error(
    tmp_path: Path, name: str, options: dict[str, int]
) -> None:
    file = tmp_path / "0001.png"
    Image.fromarray(CLASSES).save(file, name, **options)
    for check in (check_lossless, lambda file: to_labels(decode_image(file))):
        with pytest.raises(ValueError, match=f"is {name}; labels must be lossless: PNG") as error:
            check(file)
        assert str(file) in str(error.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_labels_and_depth_with_several_channels_are_an_error(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (8, 6)).save(tmp_path / "a.png")
    for convert in (to_labels, to_depth):
        with pytest.raises(ValueError, match=rf"a\.png: has the mode {mode}, not one channel"):
            convert(decode_image(tmp_path / "a.png"))


# Depth


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_depth_is_unchanged_and_turned_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.array([[0, 1, 257], [40_000, 65_534, 65_535]], np.uint16)
    stored = Image.fromarray(np.ascontiguousarray(stored_as(upright, orientation)))
    stored.save(tmp_path / "a.png", exif=exif_of(orientation))
    depth = to_depth(decode_image(tmp_path / "a.png"))
    np.testing.assert_array_equal(depth, upright)
    assert depth.dtype == np.uint16


def test_depth_with_a_palette_is_an_error(tmp_path: Path) -> None:
    save_palette(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: has a palette; depth must be a single channel"):
        to_depth(decode_image(tmp_path / "a.png"))


# The files with which these faults were found


def test_the_shared_image_on_its_side_is_turned_upright(shared_faults: Path) -> None:
    with Image.open(shared_faults / "exif6.jpg") as image:
        stored = np.asarray(image)
    pixels = read_rgb(shared_faults / "exif6.jpg")
    assert pixels.shape == (64, 48, 3)
    np.testing.assert_array_equal(pixels, np.rot90(stored, -1))  # a quarter turn clockwise


def test_the_shared_grey_png_retains_64_levels(shared_faults: Path) -> None:
    pixels = read_rgb(shared_faults / "grey16.png")
    assert len(np.unique(pixels)) == 64
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_the_shared_transparent_palette_is_blended_with_white(shared_faults: Path) -> None:
    with Image.open(shared_faults / "pal_transp.png") as image:
        transparency = image.info["transparency"]
        indices, colours = np.asarray(image), np.reshape(image.getpalette(), (-1, 3))
    alpha = np.full(256, 255)
    if isinstance(transparency, bytes):
        alpha[: len(transparency)] = list(transparency)
    else:
        alpha[transparency] = 0
    opacity = alpha[indices][..., None] / 255
    expected = opacity * colours[indices] + (1 - opacity) * 255
    np.testing.assert_allclose(read_rgb(shared_faults / "pal_transp.png"), expected, atol=1)


def test_the_shared_bitmap_is_an_error_that_names_the_supported_formats(
    shared_faults: Path,
) -> None:
    with pytest.raises(ValueError, match=r"bmp_named\.jpg: is BMP.* JPEG, PNG, GIF and WebP are"):
        decode_image(shared_faults / "bmp_named.jpg")


def test_the_shared_labels_as_jpeg_are_an_error(shared_faults: Path) -> None:
    for check in (check_lossless, lambda file: to_labels(decode_image(file))):
        with pytest.raises(ValueError, match=r"95\.jpg: is JPEG; labels must be lossless: PNG"):
            check(shared_faults / "95.jpg")
