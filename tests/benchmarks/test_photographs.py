"""Photographs of samples: whatever comes as RGB, whatever is damaged costs one sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mst_distill.benchmarks.photographs import open_image
from mst_distill.benchmarks.source import DamagedSampleError


def test_an_image_becomes_rgb_whatever_it_was(tmp_path: Path) -> None:
    for mode, suffix in (("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "gif")):
        file = tmp_path / f"{mode}.{suffix}"
        Image.new(mode, (9, 7), 100 if mode in "LP" else None).save(file)
        image = open_image(file, "s")
        assert (image.mode, image.size) == ("RGB", (9, 7))


def write_bomb(file: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(file, "PNG")


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (lambda file: file.write_bytes(b""), "cannot identify"),
        (lambda file: file.write_bytes(b"<html>not found</html>"), "cannot identify"),
        (lambda file: file.write_bytes(file.read_bytes()[:-900]), "truncated"),
        (lambda file: Image.new("RGB", (9, 9)).save(file, "PPM"), "cannot identify"),
        (write_bomb, "decompression bomb"),
        (Path.unlink, "No such file"),
    ],
)
def test_a_damaged_image_is_one_damaged_sample(tmp_path: Path, damage: object, rule: str) -> None:
    file = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file)
    damage(file)
    with pytest.raises(DamagedSampleError, match=rule) as error:
        open_image(file, "tweet-1")
    assert error.value.sample == "tweet-1"
    assert str(file) in error.value.reason
