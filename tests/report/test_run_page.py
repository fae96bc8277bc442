"""The report of a run: one file, whole structure, escaped texts, with and without a diagnosis."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from matplotlib.figure import Figure

from html_pages import check_is_one_file
from mst_distill.evaluate.accumulate import TERMS
from mst_distill.evaluate.by_value import metrics_by_value
from mst_distill.metric import metric_of
from mst_distill.report.run_page import DIAGNOSIS_FIGURES, FIGURES, RunOrigin, run_page
from mst_distill.report.worst_samples import SHOWN, worst_samples
from toy_reports import BOOTSTRAP, evaluated

NAMES = ("<script>alert(1)</script>", "a|b", "c & d")
ORIGIN = RunOrigin(
    "mine.Own",
    {"run": "<b>main</b>", "seed": 3, "protocol": "heldout", "limit": "all", "note": NAMES[0]},
    ("nets.Image", 1234, "ab" * 32),
    "Adam, constant learning rate",
)
PICTURE = io.BytesIO()
Figure(figsize=(1, 1)).savefig(PICTURE, format="png")
PNG = PICTURE.getvalue()


@cache
def page_of(kind: str = "two modalities", figures=(), diagnosis=None, names=()):
    samples, results = evaluated(kind, names)
    html = run_page(samples, results, ORIGIN, dict.fromkeys(figures, PNG), diagnosis)
    return html, check_is_one_file(html), samples, results


def test_the_verdict_comes_first_and_then_student_and_baseline() -> None:
    _, page, _, results = page_of()
    verdict = page.text.index(results.metrics["verdict"])
    assert verdict < page.text.index("Student and baseline on the test split")
    assert page.text.startswith("Own: the image student")
    assert "8 test samples of 8 groups, 3 classes" in page.text
    assert page.text.index("macro recall, %") < page.text.index("multimodal teacher")
    # All other models are folded, and so are the classes, the parameters and the origin.
    assert len(page.tags("details")) == 4
    assert "1,234 weights, SHA-256 abab" in page.text
    assert "seed: 3" in page.text


def test_texts_of_the_user_are_shown_as_they_are() -> None:
    html, page, _, _ = page_of(names=NAMES)
    assert "<script" not in html
    assert "<b>main</b>" not in html
    for text in (*NAMES, "run <b>main</b>"):
        assert text in page.text


def test_figures_that_were_made_are_inlined_in_the_order_of_the_page() -> None:
    _, page, _, _ = page_of(figures=("routing_shares", "learning_curves", "paths_figure"))
    captions = [image["alt"] for image in page.tags("img")]
    assert captions[:2] == [FIGURES["learning_curves"], FIGURES["routing_shares"]]
    assert not set(DIAGNOSIS_FIGURES.values()) & set(captions)  # without a diagnosis


def test_a_run_without_a_diagnosis_states_how_to_get_one() -> None:
    _, page, _, _ = page_of()
    assert "kedro run --pipeline=diagnose" in page.text


def test_a_diagnosis_is_shown_with_its_figures() -> None:
    _, page, _, _ = page_of(figures=tuple(DIAGNOSIS_FIGURES), diagnosis=("The router is <idle>.",))
    assert "The router is <idle>." in page.text
    assert "--pipeline=diagnose" not in page.text
    captions = [image["alt"] for image in page.tags("img")]
    assert captions[-3:] == list(DIAGNOSIS_FIGURES.values())


def test_the_samples_with_the_largest_loss_come_first() -> None:
    html, page, samples, results = page_of(names=NAMES)
    student = results.predictions[results.predictions["model"] == "student"].set_index("id")
    worst = worst_samples(samples, results.predictions, "image")
    assert [sample.id for sample in worst] == student["nll"].sort_values()[::-1].index.tolist()
    labels = samples.index.set_index("id")["label"]
    for sample in worst:
        assert sample.true == NAMES[labels[sample.id]]
        assert sample.predicted == NAMES[student["prediction"][sample.id]]
        assert sample.nll == student["nll"][sample.id]
    first = worst[0]
    shown = f"{first.true}, predicted {first.predicted} with confidence {first.confidence:.1%}"
    assert shown.replace("%", "\u00a0%") in page.text.replace(" %", "\u00a0%")
    assert html.count("data:image/png") == len(worst) == 8


def test_no_more_than_a_few_samples_are_shown() -> None:
    samples, results = evaluated()
    many = results.predictions.loc[results.predictions.index.repeat(3)]
    assert len(worst_samples(samples, many, "image")) == SHOWN


def test_dense_labels_have_a_map_and_shares_of_pixels() -> None:
    _, page, samples, results = page_of("dense labels")
    assert "of the labelled pixels correct, mean confidence" in page.text
    assert "test pixels" in page.text
    for sample in worst_samples(samples, results.predictions, results.target):
        assert sample.true == sample.predicted == ""
        assert 0 <= sample.correct <= 1


def test_samples_without_a_labelled_pixel_are_left_out() -> None:
    samples, results = evaluated("dense labels")
    predictions = results.predictions.copy()
    name = predictions["id"].iloc[0]
    predictions.loc[predictions["id"] == name, "labelled"] = 0
    worst = worst_samples(samples, predictions, results.target)
    assert name not in [sample.id for sample in worst]
    assert len(worst) == predictions["id"].nunique() - 1


def test_every_modality_is_drawn() -> None:
    samples, results = evaluated("three modalities")
    two, _ = evaluated()
    wide, narrow = (
        int.from_bytes(worst_samples(of, results.predictions, "image")[0].picture[16:20])
        for of in (samples, two)
    )
    assert wide == 3 * narrow / 2


@pytest.mark.parametrize("kind", ["two modalities", "dense labels"])
def test_the_page_is_small(kind: str) -> None:
    html, _, _, _ = page_of(kind)
    # Twelve pictures of samples, at most 20 kB each as base64, and 60 kB of text and style.
    assert len(html.encode()) < 300_000


def test_a_test_split_of_few_groups_is_a_limit() -> None:
    samples, results = evaluated()
    index = samples.index.assign(group="one")
    html = run_page(replace(samples, index=index), results, ORIGIN, {})
    assert "only 1 group (" in check_is_one_file(html).text


def test_values_of_a_column_are_by_the_metric_that_decides() -> None:
    samples, results = evaluated()
    metric, classes = metric_of("macro_recall"), np.eye(len(samples.classes))
    predictions = results.predictions
    right, predicted, true = (
        classes[predictions[name].to_numpy()] for name in ("label", "prediction", "label")
    )
    right = right * predictions[["correct"]].to_numpy()
    predictions = predictions.assign(**{TERMS: [*np.hstack([right, predicted, true])]})
    by = metrics_by_value(predictions, samples.index, ["split"], BOOTSTRAP, metric)
    metrics = {**results.metrics, "metric": metric.setting, "by": by}
    page = run_page(
        samples, replace(results, metrics=metrics, predictions=predictions), ORIGIN, {}, None
    )
    assert "Macro recall in percent by split" in page
    assert "Accuracy in percent" not in page
    assert f"{100 * metrics['models']['student']['macro_recall']:.1f}" in page
