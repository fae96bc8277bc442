"""The figures of the diagnosis: their content with few and many classes, and saving."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from mst_distill.diagnose.drift import DriftExample
from mst_distill.diagnose.plots import drift_figure, headroom_figure, paths_figure

SOURCES = ["multimodal teacher", "audio teacher", "multimodal/fusion", "audio/hidden"]


def assert_saves(figure: Figure) -> None:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")


def paths(classes: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    names = pd.MultiIndex.from_product([SOURCES, ["(all)", *classes]], names=["source", "class"])
    points = rng.normal(0, 5, len(names))
    table = names.to_frame(index=False).assign(points=points, low=points - 6, high=points + 6)
    table.loc[table["class"] == "(all)", "low"] = table["points"] - 0.1
    table.loc[table["class"] == "(all)", "high"] = table["points"] + 0.1
    return table


@pytest.mark.parametrize("count", [0, 3, 12, 41, 141])
def test_paths_have_one_cell_for_each_source_and_class(count: int) -> None:
    table = paths([f"a class named {label}" for label in range(count)])
    figure = paths_figure(table, 0.95)
    whole, *by_class, _ = figure.axes
    images = [axes.get_images()[0] for axes in (whole, *by_class)]
    drawn = np.hstack([np.asarray(image.get_array()) for image in images])
    np.testing.assert_allclose(drawn, table["points"].to_numpy().reshape(len(SOURCES), 1 + count))
    (limits,) = {image.get_clim() for image in images}
    assert limits[0] == -limits[1]
    assert [label.get_text() for label in whole.get_yticklabels()] == SOURCES
    assert len(whole.texts) == len(SOURCES)
    assert len(by_class) == (count > 0)
    for axes in by_class:
        assert len(axes.get_xticklabels()) == {3: 3, 12: 12, 41: 41, 141: 47}[count]
        assert len(axes.texts) == (len(SOURCES) * count if count <= 12 else 0)
    assert_saves(figure)


def test_numbers_are_bold_where_the_interval_excludes_0() -> None:
    figure = paths_figure(paths(["one", "two"]), 0.95)
    for axes, margin in zip(figure.axes, (0.1, 6), strict=False):
        for text in axes.texts:
            certain = abs(float(text.get_text())) > margin
            assert (text.get_weight() == "bold") == certain  # type: ignore[attr-defined]


def test_cells_without_a_sample_or_an_interval_are_drawn_and_never_bold() -> None:
    table = paths(["one", "two"])
    table[["low", "high"]] = np.nan
    table.loc[table["class"] == "two", "points"] = np.nan
    figure = paths_figure(table, 0.95)
    whole, by_class, _ = figure.axes
    texts = [*whole.texts, *by_class.texts]
    assert len(texts) == 3 * len(SOURCES)
    assert {text.get_weight() for text in texts} == {"normal"}  # type: ignore[attr-defined]
    blank = [text.get_position()[0] for text in by_class.texts if text.get_text() == "–"]
    assert blank == [1] * len(SOURCES)
    (image,) = by_class.get_images()
    assert np.isfinite(image.get_clim()).all()
    assert_saves(figure)


def headroom(count: int) -> dict[str, Any]:
    names = ["oracle", "uniform mixture", "best single", "student", "baseline", "headroom"]
    values = {
        name: {"value": 0.9 - 0.1 * row, "low": 0.85 - 0.1 * row, "high": 0.95 - 0.1 * row}
        for row, name in enumerate(names)
    }
    group = {"best_single": "audio/hidden", "disputed": 0.1, "accuracy": values, "nll": values}
    return dict.fromkeys(["teachers", "specialists"][:count], group)


@pytest.mark.parametrize("count", [1, 2])
def test_headroom_has_a_row_for_each_group_and_a_point_for_each_model(count: int) -> None:
    figure = headroom_figure(headroom(count), 0.95)
    assert len(figure.axes) == 2 * count
    left, right = figure.axes[:2]
    assert [line.get_xdata()[0] for line in left.get_lines()] == pytest.approx([90, 80, 70, 60, 50])
    assert [line.get_xdata()[0] for line in right.get_lines()] == pytest.approx(
        [0.9, 0.8, 0.7, 0.6, 0.5]
    )
    assert left.get_yticklabels()[2].get_text() == "best single: audio/hidden"
    assert "headroom 40.00 points (95% interval 35.00 to 45.00)" in left.get_title()
    assert_saves(figure)


def test_headroom_without_an_interval_is_titled_so() -> None:
    report = headroom(1)
    for name in ("oracle", "headroom"):
        report["teachers"]["accuracy"][name] |= {"low": None, "high": None}
    figure = headroom_figure(report, 0.95)
    left, _ = figure.axes
    assert left.get_title().endswith("headroom 40.00 points (no interval)")
    assert [len(lines.get_segments()[0]) for lines in left.collections] == [0, 2, 2, 2, 2]  # type: ignore[attr-defined]
    assert_saves(figure)


SHAPES = {
    "vector": ((35,), (35,)),
    "matrix": ((13, 32), (13, 32)),
    "image": ((1, 8, 8), (8, 8)),
    "photo": ((3, 64, 96), (32, 32)),
    "video": ((3, 9, 12, 12), (9, 12, 12)),
    "features": ((64, 7, 7), (7, 7)),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_drift_shows_the_sample_and_every_saliency_map(kind: str) -> None:
    shape, map_shape = SHAPES[kind]
    rng = np.random.default_rng(0)
    examples = [
        DriftExample(
            f"a class\nsample-{row}-with-a-name-that-is-much-too-long",
            rng.random(shape),
            {name: rng.random(map_shape) for name in ("student", "multimodal teacher", "x/y")},
            {"multimodal teacher": 0.25, "x/y": 0.5},
        )
        for row in range(3)
    ]
    figure = drift_figure(examples, kind)
    assert len(figure.axes) == 3 * 4
    first = [axes.get_title() for axes in figure.axes[:4]]
    assert first[0].startswith("a class\nsample-0")
    assert len(first[0]) < 40
    assert first[1:] == ["student", "multimodal teacher\noverlap 0.25", "x/y\noverlap 0.50"]
    if len(map_shape) == 2:
        (image,) = figure.axes[1].get_images()
        np.testing.assert_allclose(np.asarray(image.get_array()), examples[0].maps["student"])
    assert_saves(figure)
