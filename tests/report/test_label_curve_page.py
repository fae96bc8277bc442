"""The report on the curve over the share of labels: one file with sentences and tables."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest

from html_pages import check_is_one_file
from mst_distill.compare.label_curve import BestMethod, label_curve_table
from mst_distill.compare.plots import label_curve_figure
from mst_distill.compare.ranking import paired
from mst_distill.report.label_curve_page import (
    CurveResults,
    label_curve_page,
    percent,
    sentence,
    share_table,
    summary,
)

ERROR = "MemoryError: <script>a|b</script>"
ACCURACIES = {
    (0.1, "baseline"): [0.50, 0.51, 0.52],
    (0.1, "mst"): [0.60, 0.62, 0.64],
    (0.1, "pseudo_labels <- audio"): [0.54, 0.55, 0.57],
    (0.1, "self_training"): [0.56, 0.57, 0.59],
    (1.0, "baseline"): [0.70, 0.71, 0.72],
    (1.0, "mst"): [0.72, 0.74],
}
LABELS = pd.DataFrame({"labelled": [0.1, 1], "train": [120, 1200], "valid": [40, 400]})


def make_trials(seeds: int = 3) -> pd.DataFrame:
    rows = [
        {
            **{"target": target, "title": title, "method": title.split(" ")[0], "seed": seed},
            **{"labelled": share, "selection": "accuracy", "accuracy": accuracy, "error": ""},
        }
        for target in ("image", "audio")
        for (share, title), accuracies in ACCURACIES.items()
        for seed, accuracy in enumerate(accuracies[:seeds])
    ]
    failed = {"target": "audio", "title": "mst", "method": "mst", "seed": 2, "labelled": 1.0}
    return pd.DataFrame([*rows, {**failed, "selection": "", "error": ERROR}])


def make_page(trials: pd.DataFrame, baseline: str | None = "baseline") -> str:
    pseudo_labels = frozenset({"pseudo_labels", "self_training"})
    results = CurveResults(trials, LABELS, "accuracy", 0.95, baseline, pseudo_labels)
    picture = io.BytesIO()
    curve = label_curve_table(trials, "accuracy", 0.95)
    label_curve_figure(curve).savefig(picture, format="png", dpi=40)
    return label_curve_page(results, picture.getvalue(), "toys.Toy", {"compare": {"seeds": 3}})


def test_the_page_has_summaries_sentences_figure_and_tables_of_all_targets() -> None:
    found = check_is_one_file(make_page(make_trials()))
    assert found.text.startswith("Toy: the image and audio students over the share of labels")
    first = found.text.index(
        "The audio student: With 10% of the labels, the best method is measurably better than "
        "baseline, and also measurably better than pseudo-labels alone."
    )
    assert first < found.text.index("With 10% of the labels, mst is the best method")
    # Accuracies and gains of two targets, labels, failed trials and versions.
    assert len(found.tags("table")) == 2 * 2 + 3
    (image,) = found.tags("img")
    assert "95% intervals" in (image["alt"] or "")
    assert "seeds: 3" in found.text
    assert "training1201,200 validation40400" in found.text
    assert "toys.Toy" in found.text


def test_cells_have_half_the_width_of_the_interval_a_number_of_seeds_or_a_dash() -> None:
    text = check_is_one_file(make_page(make_trials())).text  # cells follow without a space
    # Three seeds that differ by 2 points: t = 4.3027 times 2 / sqrt(3) is 4.97 points.
    assert "mst62.0 ± 5.073.0 (2 seeds)" in text
    assert "self_training57.3 ± 3.8–" in text
    # Gains of 10, 11 and 12 points.
    assert "mst+11.0 ± 2.5+2.5 (2 seeds)" in text


def test_errors_of_failed_trials_are_shown_as_they_are() -> None:
    html = make_page(make_trials())
    assert "<script" not in html
    assert f"audio100%mst2{ERROR}" in check_is_one_file(html).text


def test_with_two_seeds_the_page_has_no_interval_and_says_so() -> None:
    text = check_is_one_file(make_page(make_trials(seeds=2)[lambda table: table["seed"] < 2])).text
    assert "cannot be determined from 2 seeds: intervals need at least 3." in text
    assert "+10.5 points (no interval: 2 seeds) against baseline" in text
    assert "whether this is beyond chance cannot be determined" in text
    assert "mst+10.5+2.5" in text
    assert "Failed trials" not in text
    assert "interval +" not in text


def test_without_a_baseline_there_are_no_gains() -> None:
    for trials, baseline in (
        (make_trials(), None),
        (make_trials()[lambda table: table["title"] != "baseline"], "baseline"),
    ):
        text = check_is_one_file(make_page(trials, baseline)).text
        assert "No gain can be computed" in text
        assert "There are no finished trials of a baseline and another method." in text


def best(
    gain: list[float], over: list[float], pseudo_labels: str = "self_training", share: float = 0.1
) -> BestMethod:
    """A best method with these differences, seed by seed."""
    differences = (paired(np.array(points) / 100, 0.95) for points in (gain, over))
    gained, exceeded = differences
    return BestMethod("image", share, "mst", 0.62, gained, pseudo_labels, exceeded)


START = "With 10% of the labels, mst is the best method with a mean accuracy of 62.0%"


@pytest.mark.parametrize(
    ("method", "text"),
    [
        # The half width is 4.3027 times the standard deviation, 1 point, by sqrt(3): 2.48 points.
        (
            best([3, 4, 5], [2, 3, 4]),
            ", +4.0 points (95% interval +1.5 to +6.5) against baseline: a measurable gain. "
            "Against self_training it is +3.0 points (95% interval +0.5 to +5.5): a measurable "
            "gain over pseudo-labels alone.",
        ),
        (
            best([3, 4, 5], [-1, 0, 1]),
            ", +4.0 points (95% interval +1.5 to +6.5) against baseline: a measurable gain. "
            "Against self_training it is +0.0 points (95% interval -2.5 to +2.5): no measurable "
            "gain over pseudo-labels alone.",
        ),
        (
            best([-5, -4, -3], [], "mst"),
            ", -4.0 points (95% interval -6.5 to -1.5) against baseline: a measurable loss. "
            "It uses pseudo-labels alone, and no other method has a larger mean.",
        ),
        (
            best([2, 2, 2], [], ""),
            ", +2.0 points (no interval: all differences are equal) against baseline: no "
            "measurable gain. Pseudo-labels have no trials here; they alone may give as much.",
        ),
        (
            best([2], [1]),
            ", +2.0 points (no interval: 1 seed) against baseline: whether this is beyond chance "
            "cannot be determined. Against self_training it is +1.0 points (no interval: 1 seed): "
            "whether this is beyond chance cannot be determined.",
        ),
        (best([], [], ""), "; there is no trial of a baseline with the same seed. Pseudo-labels"),
    ],
)
def test_a_sentence_states_gain_interval_and_what_pseudo_labels_give(
    method: BestMethod, text: str
) -> None:
    assert sentence(method, "baseline", 0.95).startswith(START + text)


SURE, UNSURE = [3.0, 4.0, 5.0], [-1.0, 0.0, 1.0]
BETTER = "the best method is measurably better than baseline"


@pytest.mark.parametrize(
    ("methods", "text"),
    [
        (
            [best(SURE, SURE, share=0.02), best(SURE, UNSURE, share=0.05), best(UNSURE, SURE)],
            f"With 2% and 5% of the labels, {BETTER}, and with 2% also measurably better than "
            "pseudo-labels alone.",
        ),
        (
            [best(SURE, [], "mst")],
            f"With 10% of the labels, {BETTER}, but never measurably better than pseudo-labels "
            "alone.",
        ),
        (
            [best(SURE, [], "")],
            f"With 10% of the labels, {BETTER}; pseudo-labels, which may give the same gain, have "
            "no trials.",
        ),
        (
            [best(UNSURE, SURE, share=0.02), best(UNSURE, SURE)],
            "With 2% and 10% of the labels, no best method is measurably better than baseline.",
        ),
        ([], "No trial of a method other than the baseline with a share of the labels finished."),
    ],
)
def test_the_summary_names_the_shares_with_a_measurable_gain(
    methods: list[BestMethod], text: str
) -> None:
    assert summary(methods, "baseline") == text


def test_a_table_has_a_column_for_each_share_also_without_a_trial() -> None:
    rows = pd.DataFrame(
        [("kd", 0.02, 3, 0.5, 0.4, 0.6), ("dml", 1.0, 2, np.nan, np.nan, np.nan)],
        columns=["title", "labelled", "seeds", "accuracy", "low", "high"],
    )
    table = share_table(rows, "accuracy", "seeds", 3, ".1f", (0.02, 0.3, 1.0))
    assert table.columns.tolist() == ["method", "2%", "30%", "100%"]
    assert table.to_numpy().tolist() == [["kd", "50.0 ± 10.0", "–", "–"], ["dml", "–", "–", "–"]]


def test_a_share_is_written_without_an_error_of_rounding() -> None:
    assert [percent(share) for share in (0.07, 0.125, 0.005, 1)] == ["7%", "12.5%", "0.5%", "100%"]
