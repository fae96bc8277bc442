"""Tests of reading photographs: all become RGB, and the error names a damaged one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from mst_distill.media.encoded import EncodedPhotograph, open_photograph
from mst_distill.media.readers import UnreadableValueError


def test_an_image_of_any_mode_becomes_rgb(tmp_path: Path) -> None:
    for mode, suffix in (("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "gif")):
        file = tmp_path / f"{mode}.{suffix}"
        Image.new(mode, (9, 7), 100 if mode in "LP" else None).save(file)
        image = open_photograph(file)
        assert (image.mode, image.size) == ("RGB", (9, 7))


def write_decompression_bomb(file: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(file, "PNG")


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (lambda file: file.write_bytes(b""), "cannot identify"),
        (lambda file: file.write_bytes(b"<html>not found</html>"), "cannot identify"),
        (lambda file: file.write_bytes(file.read_bytes()[:-900]), "truncated"),
        (lambda file: Image.new("RGB", (9, 9)).save(file, "PPM"), "cannot identify .* PNG, GIF"),
        (lambda file: Image.new("RGB", (9, 9)).save(file, "BMP"), "is BMP, .* PNG, GIF and WebP"),
        (write_decompression_bomb, "decompression bomb"),
        (Path.unlink, "No such file"),
    ],
)
def test_the_error_for_a_damaged_image_names_its_position_and_file(
    tmp_path: Path, damage: object, rule: str
) -> None:
    file = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file)
    damage(file)
    whole = tmp_path / "whole.png"
    Image.fromarray(noise).save(whole)
    reader = EncodedPhotograph("mst_distill.media.encoders.EfficientNetLite0")
    with pytest.raises(UnreadableValueError, match=rule) as error:
        reader.read([whole, file])
    assert error.value.position == 1
    assert str(file) in error.value.reason


def test_a_rotated_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:, :32] = (255, 0, 0)  # the left half as stored is the upper half when upright
    Image.fromarray(stored).save(tmp_path / "a.jpg", quality=95, exif=exif)
    image = open_photograph(tmp_path / "a.jpg")
    assert image.size == (48, 64)
    np.testing.assert_allclose(image.getpixel((10, 10)), (255, 0, 0), atol=3)
    np.testing.assert_allclose(image.getpixel((10, 50)), (0, 0, 0), atol=3)


def test_a_photograph_of_one_colour_is_accepted_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.new("RGB", (64, 48), "black")
    image.save(tmp_path / "black.jpg")
    assert open_photograph(tmp_path / "black.jpg").size == (64, 48)
    assert "black.jpg has the same colour in all pixels" in caplog.text
    caplog.clear()
    image.putpixel((3, 4), (255, 255, 255))
    image.save(tmp_path / "dot.png")
    open_photograph(tmp_path / "dot.png")
    assert not caplog.text
