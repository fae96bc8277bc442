"""Images of any size as small maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mst_distill.media.resized_images import ResizedImage


def saved(pixels: np.ndarray, path: Path) -> Path:
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def test_halving_an_image_averages_the_pixels_with_a_triangle(tmp_path: Path) -> None:
    """Scaling by 1/2 with antialiasing: the weights of four pixels are 1, 3, 3, 1 of 8.

    At the border, those of the pixels that exist are divided by their sum.
    """
    rows = np.array([0, 80, 160, 240, 40, 120], np.float64)
    pixels = np.broadcast_to(rows[:, None, None], (6, 4, 3)).copy()
    pixels[..., 1:] = [20, 250]
    path = saved(pixels, tmp_path / "a.png")
    image = ResizedImage((3, 4)).read([path])[0]
    assert image.shape == (3, 3, 4)
    assert image.dtype == np.float32
    middle = (80 + 3 * 160 + 3 * 240 + 40) / 8
    expected = [(3 * 0 + 3 * 80 + 160) / 7, middle, (240 + 3 * 40 + 3 * 120) / 7]
    np.testing.assert_allclose(image[0, :, 0] * 255, np.round(expected), atol=1e-4)
    np.testing.assert_allclose(image[1:, 0, 0] * 255, [20, 250], atol=1e-4)


def test_grey_is_the_luma_and_an_image_of_the_right_size_stays(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]])
    path = saved(pixels, tmp_path / "a.png")
    image = ResizedImage((2, 2), grey=True).read([path])[0]
    assert image.shape == (1, 2, 2)
    luma = [[0.299 * 255, 0.587 * 255], [0.114 * 255, 0.299 * 10 + 0.587 * 20 + 0.114 * 30]]
    np.testing.assert_allclose(image[0] * 255, np.round(luma), atol=1e-4)
    colour = ResizedImage((2, 2)).read([path])[0]
    np.testing.assert_allclose(colour * 255, np.moveaxis(pixels, -1, 0), atol=1e-4)


def test_an_image_with_one_colour_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(np.full((5, 5, 3), 128), tmp_path / "a.png")
    np.testing.assert_allclose(ResizedImage((2, 2)).read([path]), 128 / 255, atol=1e-6)
    assert "has the same colour in all pixels" in caplog.text
