"""The figure of some samples: modalities of every shape that a benchmark has."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mst_distill.data.gallery import COLUMNS, gallery
from mst_distill.data.samples import Samples
from toys import make_samples

SHAPES = {
    "digit": (1, 28, 28),
    "photograph": (3, 12, 16),
    "video": (3, 15, 8, 10),
    "maps": (512, 10, 7, 7),
    "mfcc": (15, 156),
    "seconds": (10, 128),
    "feature": (768,),
}


def image_of(axes: Axes) -> np.ndarray:
    (image,) = axes.get_images()
    return np.asarray(image.get_array())


def samples_of(values: np.ndarray, name: str = "image") -> Samples:
    """Make samples of one modality, each with a class of its own."""
    count = len(values)
    ids = [f"s{row}" for row in range(count)]
    index = pd.DataFrame({"id": ids, "group": ids, "split": "train", "label": np.arange(count)})
    labels, classes = np.arange(count), tuple(f"class {row}" for row in range(count))
    return Samples(index, {name: values.astype(np.float32)}, labels, classes, None, "0")


def grid_rows(figure: Figure, columns: int) -> list[list[Axes]]:
    axes = figure.axes
    assert len(axes) % columns == 0
    return [axes[start : start + columns] for start in range(0, len(axes), columns)]


def assert_saves(figure: Figure) -> None:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")


def test_modalities_are_rows_and_samples_are_columns() -> None:
    samples, _ = make_samples(12, SHAPES, classes=4)
    figure = gallery(samples)
    assert len(figure.axes) == len(SHAPES) * 4
    grid = dict(zip(SHAPES, grid_rows(figure, 4), strict=True))
    assert [line[0].get_ylabel() for line in grid.values()] == list(SHAPES)
    for name, line in grid.items():
        for axes in line:
            assert len(axes.get_images()) == (name != "feature")
            assert len(axes.get_lines()) == (name == "feature")
    shapes = {name: image_of(line[0]).shape for name, line in grid.items() if name != "feature"}
    assert shapes == {
        "digit": (28, 28),
        "photograph": (12, 16, 3),
        "video": (24, 30, 3),
        "maps": (21, 21),
        "mfcc": (15, 156),
        "seconds": (10, 128),
    }
    assert_saves(figure)


def test_dense_labels_are_drawn_as_a_row_of_maps() -> None:
    shapes = {"image": (3, 12, 16), "depth": (1, 12, 16)}
    samples, _ = make_samples(20, shapes, classes=5, dense=(12, 16))
    figure = gallery(samples)
    assert len(figure.axes) == 3 * COLUMNS
    labels = grid_rows(figure, COLUMNS)[2]
    assert labels[0].get_ylabel() == "label"
    # Evenly spaced among twenty samples.
    for axes, row in zip(labels, [0, 3, 7, 11, 15, 19], strict=True):
        np.testing.assert_array_equal(image_of(axes), samples.labels[row])
        assert axes.get_images()[0].get_clim() == (0, 4)
    titles = [axes.get_title() for axes in grid_rows(figure, COLUMNS)[0]]
    assert titles == ["s000", "s003", "s007", "s011", "s015", "s019"]
    assert_saves(figure)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (3, 3), (6, 6), (141, 6)])
def test_one_sample_of_each_class_is_drawn_up_to_the_limit(count: int, columns: int) -> None:
    figure = gallery(samples_of(np.random.default_rng(0).random((count, 1, 2, 2))))
    assert len(figure.axes) == columns
    titles = [axes.get_title() for axes in figure.axes]
    assert len(set(titles)) == columns
    assert titles[0] == "class 0\ns0"
    assert titles[-1] == f"class {count - 1}\ns{count - 1}"


def test_a_title_belongs_to_the_sample_below_it() -> None:
    samples, _ = make_samples(30, {"image": (1, 4, 4), "audio": (5,)}, classes=3)
    order = np.random.default_rng(2).permutation(30)
    samples = Samples(
        samples.index.iloc[order].reset_index(drop=True),
        {name: array[order] for name, array in samples.modalities.items()},
        samples.labels[order],
        samples.classes,
        None,
        "0",
    )
    images, curves = grid_rows(gallery(samples), 3)
    for label, (picture, curve) in enumerate(zip(images, curves, strict=True)):
        class_name, sample = picture.get_title().split("\n")
        assert class_name == f"class {label}"
        (row,) = np.flatnonzero(samples.index["id"] == sample)
        assert samples.labels[row] == label
        values = samples.modalities["image"][row, 0]
        expected = (values - values.min()) / (values.max() - values.min())
        np.testing.assert_allclose(image_of(picture), expected, atol=1e-6)
        (line,) = curve.get_lines()
        np.testing.assert_array_equal(line.get_ydata(), samples.modalities["audio"][row])


def test_frames_are_in_reading_order() -> None:
    """Of fifteen frames, each of one brightness, nine are shown in three lines of three."""
    video = np.arange(15.0).reshape(1, 1, 15, 1, 1) * np.ones((1, 3, 1, 4, 5))
    (axes,) = gallery(samples_of(video)).axes
    picture = image_of(axes)
    assert picture.shape == (12, 15, 3)
    frames = picture[::4, ::5, 0] * 14
    assert np.rint(frames).astype(int).tolist() == [[0, 1, 3], [5, 7, 8], [10, 12, 14]]
    for line in range(3):
        for column in range(3):
            tile = picture[line * 4 : line * 4 + 4, column * 5 : column * 5 + 5]
            assert (tile == tile[0, 0]).all()


@pytest.mark.parametrize(("frames", "side"), [(1, 1), (3, 1), (4, 2), (8, 2), (9, 3), (108, 3)])
def test_the_frames_of_a_video_fill_a_square(frames: int, side: int) -> None:
    (axes,) = gallery(samples_of(np.random.default_rng(0).random((1, 3, frames, 4, 5)))).axes
    assert image_of(axes).shape == (side * 4, side * 5, 3)


def test_the_mean_of_many_channels_is_shown() -> None:
    maps = np.random.default_rng(0).random((1, 512, 6, 7))
    (axes,) = gallery(samples_of(maps)).axes
    mean = maps[0].mean(axis=0)
    expected = (mean - mean.min()) / (mean.max() - mean.min())
    np.testing.assert_allclose(image_of(axes), expected, atol=1e-4)


def test_an_image_is_upright_and_the_first_row_of_a_matrix_is_at_the_bottom() -> None:
    image = np.zeros((1, 3, 4, 6))
    image[0, 1, 0, 5] = 1  # green, upper right
    (axes,) = gallery(samples_of(image)).axes
    assert np.argwhere(image_of(axes)).tolist() == [[0, 5, 1]]
    assert axes.get_images()[0].origin == "upper"
    assert axes.yaxis_inverted()
    matrix = np.zeros((1, 4, 6))
    matrix[0, 0, 5] = 1
    (axes,) = gallery(samples_of(matrix)).axes
    assert np.argwhere(image_of(axes)).tolist() == [[0, 5]]
    assert axes.get_images()[0].origin == "lower"
    assert not axes.yaxis_inverted()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
@pytest.mark.parametrize("value", [0.0, -2.5])
def test_a_constant_sample_causes_no_division_by_zero(shape: tuple[int, ...], value: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = gallery(samples_of(np.full((2, *shape), value)))
        assert_saves(figure)
    for axes in figure.axes:
        assert all(np.isfinite(image_of(axes)).all() for _ in axes.get_images())


def test_long_names_are_shortened() -> None:
    samples = samples_of(np.zeros((1, 1, 2, 2)))
    samples.index["id"] = "917791130590183424_0_and_more_of_it"
    long = Samples(samples.index, samples.modalities, samples.labels, ("c" * 60,), None, "0")
    (axes,) = gallery(long).axes
    shown, sample = axes.get_title().split("\n")
    assert shown == "c" * 24
    assert sample == "91779113059…d_more_of_it"
    assert len(sample) == 24


def test_samples_and_labels_on_disk_are_drawn_equally(tmp_path) -> None:
    samples, _ = make_samples(8, {"image": (3, 4, 4)}, classes=2, dense=(4, 4))
    for name, array in (("image", samples.modalities["image"]), ("label", samples.labels)):
        np.save(tmp_path / f"{name}.npy", array)
    on_disk = Samples(
        samples.index,
        {"image": np.load(tmp_path / "image.npy", mmap_mode="r")},
        np.load(tmp_path / "label.npy", mmap_mode="r"),
        samples.classes,
        0,
        "0",
    )
    for one, two in zip(gallery(samples).axes, gallery(on_disk).axes, strict=True):
        np.testing.assert_array_equal(image_of(one), image_of(two))


@pytest.mark.parametrize(("shape", "dtype"), [((9,), np.int64), ((4, 30), np.uint8)])
def test_a_modality_of_integers_has_the_same_height(shape: tuple[int, ...], dtype: type) -> None:
    samples = samples_of(np.ones((2, *shape)))
    whole = {"image": np.ones((2, *shape), dtype)}
    counted = Samples(samples.index, whole, samples.labels, samples.classes, None, "0")
    sizes = [gallery(which).get_size_inches().tolist() for which in (samples, counted)]
    assert sizes[0] == sizes[1]
