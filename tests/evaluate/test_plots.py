"""The figures of the report: their content, and that they can be saved."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from mst_distill.evaluate.plots import (
    confusion_figure,
    learning_curves,
    reliability_figure,
    risk_coverage_figure,
    routing_figure,
)

SPECIALISTS = ["multimodal/fusion", "multimodal/hidden", "audio/hidden"]


def assert_saves(figure: Figure) -> None:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")


def names(count: int) -> list[str]:
    return [f"class {label}" for label in range(count)]


def counts_of_model(classes: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    count = rng.integers(0, 30, 10) * (np.arange(10) > 2)
    confidence = count * (np.arange(10) + 0.5) / 10
    calibration = {
        "count": count.tolist(),
        "confidence": confidence.tolist(),
        "correct": (0.8 * confidence).tolist(),
    }
    return {
        "confusion": rng.integers(0, 20, (classes, classes)).tolist(),
        "nll": 1.0,
        "calibration": calibration,
        "calibration_scaled": calibration,
        "temperature": 1.5,
    }


@pytest.mark.parametrize("classes", [3, 50])
@pytest.mark.parametrize("models", [["student"], ["student", "baseline"]])
def test_confusion_shows_a_matrix_for_each_model(classes: int, models: list[str]) -> None:
    metric_counts = {
        model: counts_of_model(classes, seed) for seed, model in enumerate(["student", "baseline"])
    }
    figure = confusion_figure(metric_counts, names(classes), models)
    drawn = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in drawn] == models
    for axes, model in zip(drawn, models, strict=True):
        (image,) = axes.get_images()
        assert isinstance(image, AxesImage)
        counts = np.array(metric_counts[model]["confusion"], dtype=float)
        shares = counts / counts.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(np.asarray(image.get_array()), shares)
        ticks = [label.get_text() for label in axes.get_yticklabels()]
        assert set(ticks) <= set(names(classes))
        assert ticks[0] == "class 0"
        assert len(ticks) == {3: 3, 50: 25}[classes]
        assert (len(axes.texts) > 0) == (classes == 3)
    assert_saves(figure)


def test_confusion_writes_the_share_in_percent_of_the_true_class() -> None:
    metric_counts = {"student": {"confusion": [[3, 1, 0], [0, 0, 0], [0, 0, 5]]}}
    (axes, _colorbar) = confusion_figure(metric_counts, names(3), ["student"]).axes
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "75", (1, 0): "25", (2, 2): "100"}


def test_reliability_shows_accuracy_against_confidence_as_is_and_scaled() -> None:
    calibration = {"count": [0, 40, 60], "confidence": [0, 20.0, 54.0], "correct": [0, 10, 60]}
    scaled = {"count": [50, 1, 49], "confidence": [10.0, 0.5, 44.1], "correct": [20, 0, 49]}
    counts = {"calibration": calibration, "calibration_scaled": scaled, "temperature": 0.754}
    figure = reliability_figure({"student": counts}, ["student"])
    (axes,) = figure.axes
    assert axes.get_title() == "student"
    diagonal, as_is, _, after, _ = axes.get_lines()
    np.testing.assert_allclose(diagonal.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_allclose(as_is.get_xydata(), [[0.5, 0.25], [0.9, 1.0]])
    np.testing.assert_allclose(after.get_xydata(), [[0.2, 0.4], [0.9, 1.0]])
    legend = axes.get_legend()
    assert legend is not None
    first, second = (points.get_offsets() for points in axes.collections)
    np.testing.assert_allclose(first, [[0.5, 0.25], [0.9, 1.0]])
    np.testing.assert_allclose(second, [[0.2, 0.4], [0.5, 0.0], [0.9, 1.0]])  # one sample: no line
    # |10 - 20| + |60 - 54|, and |20 - 10| + |0 - 0.5| + |49 - 44.1|, over 100 samples.
    assert [text.get_text() for text in legend.get_texts()] == [
        "as is: error 16.0 %",
        "scaled, T = 0.75: error 15.4 %",
    ]
    assert_saves(figure)


def test_risk_coverage_shows_a_step_curve_of_each_model() -> None:
    curves = pd.DataFrame(
        {
            "model": ["student", "student", "student", "baseline"],
            "coverage": [0.04, 0.25, 1.0, 1.0],  # too few samples, at first
            "accuracy": [0.0, 1.0, 0.75, 0.5],
            "confidence": [0.95, 0.9, 0.4, 0.5],
        }
    )
    figure = risk_coverage_figure(curves)
    (axes,) = figure.axes
    texts = axes.get_legend_handles_labels()[1]
    assert texts == ["student", "baseline"]
    student, baseline = axes.get_lines()[:2]
    np.testing.assert_allclose(student.get_xydata(), [[0.25, 1.0], [1.0, 0.75]])
    np.testing.assert_allclose(baseline.get_xydata(), [[1.0, 0.5]])
    assert_saves(figure)


def test_reliability_has_axes_for_each_model() -> None:
    models = ["multimodal teacher", "student", "baseline"]
    metric_counts = {model: counts_of_model(50, seed) for seed, model in enumerate(models)}
    figure = reliability_figure(metric_counts, models)
    assert [axes.get_title() for axes in figure.axes] == models
    assert_saves(figure)


def histories(epochs: int) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)

    def history(*columns: str) -> pd.DataFrame:
        return pd.DataFrame({"epoch": range(epochs), **{c: rng.random(epochs) for c in columns}})

    members = ["multimodal", "image", "audio"]
    metrics = ("valid_accuracy", "valid_ce")
    return {
        "teachers": history(
            "train_loss", *(f"{metric}_{member}" for metric in metrics for member in members)
        ),
        "masks": history("train_loss", *(f"valid_kd_{name}" for name in SPECIALISTS)),
        "route": history("train_loss", "train_ce", "train_kd", "train_balance", *metrics),
        "baseline": pd.concat(
            [history(*metrics).assign(phase=phase) for phase in ("teachers", "route")],
            ignore_index=True,
        ),
    }


@pytest.mark.parametrize("epochs", [1, 30])
def test_learning_curves_show_every_stage_and_the_baseline(epochs: int) -> None:
    tables = histories(epochs)
    figure = learning_curves(**tables)
    members = ["multimodal", "image", "audio", "baseline"]
    shown = [[line.get_label() for line in axes.get_lines()] for axes in figure.axes]
    assert shown == [
        members,
        SPECIALISTS,
        ["student", "baseline"],
        members,
        ["ce", "kd", "balance"],
        ["student", "baseline"],
    ]
    baseline = tables["baseline"].query("phase == 'route'")["valid_accuracy"]
    for position, expected in (
        (2, [tables["route"]["valid_accuracy"], baseline]),
        (0, [tables["teachers"]["valid_accuracy_multimodal"]]),
        (3, [tables["teachers"]["valid_ce_multimodal"]]),
        (1, [tables["masks"]["valid_kd_multimodal/fusion"]]),
        (4, [tables["route"]["train_ce"], tables["route"]["train_kd"]]),
    ):
        for line, values in zip(figure.axes[position].get_lines(), expected, strict=False):
            np.testing.assert_array_equal(line.get_ydata(), values)
    assert_saves(figure)


def routing(classes: list[str], epochs: int = 4) -> pd.DataFrame:
    table = pd.MultiIndex.from_product(
        [range(epochs), classes, SPECIALISTS], names=["epoch", "class", "specialist"]
    ).to_frame(index=False)
    return table.assign(samples=np.random.default_rng(0).integers(0, 9, len(table)))


@pytest.mark.parametrize("count", [3, 50])
def test_routing_shows_a_bar_for_each_class_in_order(count: int) -> None:
    table = routing(names(count))
    figure = routing_figure(table)
    left, right = figure.axes
    assert left.get_legend_handles_labels()[1] == SPECIALISTS
    assert [label.get_text() for label in right.get_yticklabels()] == names(count)
    bars = [[bar.get_width() for bar in bars] for bars in right.containers]
    assert [len(widths) for widths in bars] == [count] * 3
    for index, specialist in enumerate(SPECIALISTS):
        of_class = table[table["class"] == "class 1"]
        selected = of_class.loc[of_class["specialist"] == specialist, "samples"]
        share = selected.sum() / of_class["samples"].sum()
        assert bars[index][1] == pytest.approx(share)
    np.testing.assert_allclose(np.sum(bars, axis=0), 1)
    starts = [[bar.get_x() for bar in bars] for bars in right.containers]
    np.testing.assert_allclose(starts, np.cumsum([np.zeros(count), *bars[:-1]], axis=0))
    assert_saves(figure)


@pytest.mark.parametrize("epochs", [1, 4])
def test_routing_of_a_dense_task_has_one_bar(epochs: int) -> None:
    table = routing(["all"], epochs)
    figure = routing_figure(table)
    left, right = figure.axes
    assert [label.get_text() for label in right.get_yticklabels()] == ["all"]
    # The lowest band of the stack is the first specialist's share of each epoch's samples.
    band = left.collections[0].get_paths()[0].vertices
    for epoch, of_epoch in table.groupby("epoch"):
        share = of_epoch["samples"].iloc[0] / of_epoch["samples"].sum()
        assert band[band[:, 0] == epoch, 1].max() == pytest.approx(share)
    assert_saves(figure)


def test_a_class_without_samples_has_no_bar() -> None:
    table = routing(names(3))
    table.loc[table["class"] == "class 2", "samples"] = 0
    figure = routing_figure(table)
    widths = [[bar.get_width() for bar in bars] for bars in figure.axes[1].containers]
    np.testing.assert_allclose(np.sum(widths, axis=0), [1, 1, 0])
    assert_saves(figure)
