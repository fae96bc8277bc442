"""Students and what they cost: whose accuracy is shown, intervals, and who is beaten."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mst_distill.compare.plots import sizes_figure
from mst_distill.compare.ranking_page import size_section
from mst_distill.compare.student_sizes import size_sentences, size_table

SEEDS = 4


def make_costs(**milliseconds: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "student": list(milliseconds),
            "modality": "image",
            "type": "Net",
            "parameters": 1000,
            "multiply_adds": 2000,
            "bytes": 3000,
            "milliseconds": list(milliseconds.values()),
            "milliseconds_p95": 2.0,
            "milliseconds_of_32": 0.1,
            "milliseconds_of_32_p95": 0.2,
        }
    )


def make_trials(accuracies: dict[tuple[str, str], tuple[float, float]]) -> pd.DataFrame:
    """Trials of students and methods with a mean test and validation accuracy."""
    rows = [
        {
            "target": student,
            "title": title,
            "seed": seed,
            "selection": selection,
            "accuracy": test + 0.01 * (seed - 1.5) - (selection == "ce"),
            "valid_accuracy": valid,
            "error": "",
        }
        for (student, title), (test, valid) in accuracies.items()
        for seed in range(SEEDS)
        for selection in ("accuracy", "ce")
    ]
    return pd.DataFrame(rows)


TRIALS = make_trials(
    {
        ("small", "baseline"): (0.70, 0.70),
        ("small", "kd"): (0.80, 0.75),
        ("small", "dml"): (0.72, 0.78),
        ("wide", "baseline"): (0.75, 0.75),
        ("wide", "kd"): (0.71, 0.77),
    }
)


@pytest.fixture
def sizes() -> pd.DataFrame:
    return size_table(make_costs(small=1.0, wide=3.0), TRIALS, "accuracy", "baseline", 0.95)


def test_the_method_is_chosen_by_validation(sizes):
    assert sizes[["student", "method"]].to_numpy().tolist() == [
        ["small", "baseline"],
        ["small", "dml"],
        ["wide", "baseline"],
        ["wide", "kd"],
    ]
    np.testing.assert_allclose(sizes["accuracy"], [0.70, 0.72, 0.75, 0.71])


def test_intervals_are_those_of_the_mean_over_the_seeds(sizes):
    values = 0.72 + 0.01 * (np.arange(SEEDS) - 1.5)
    low, high = stats.t.interval(0.95, SEEDS - 1, values.mean(), stats.sem(values))
    row = sizes.iloc[1]
    assert row["low"] == pytest.approx(low)
    assert row["high"] == pytest.approx(high)
    assert row["seeds"] == SEEDS
    two = TRIALS[TRIALS["seed"] < 2]
    few = size_table(make_costs(small=1.0), two, "accuracy", "baseline", 0.95)
    assert few["low"].isna().all()


def test_a_student_is_beaten_by_one_that_is_better_in_both(sizes):
    assert sizes["beaten_by"].tolist() == ["", "", "", "small"]
    slow = size_table(make_costs(small=5.0, wide=3.0), TRIALS, "accuracy", "baseline", 0.95)
    assert slow["beaten_by"].tolist() == ["", "", "", ""]


def test_students_of_other_modalities_beat_no_one():
    costs = make_costs(small=1.0, wide=3.0).assign(modality=["audio", "image"])
    assert size_table(costs, TRIALS, "accuracy", "baseline", 0.95)["beaten_by"].eq("").all()


def test_sentences_name_the_fastest_and_the_most_accurate(sizes):
    (sentence,) = size_sentences(sizes, "baseline")
    assert sentence == (
        "Of the students of image, small is the fastest: 1 ms for a sample, 72.0%, which is also "
        "the largest mean accuracy."
    )
    wide = make_trials({("small", "kd"): (0.7, 0.7), ("wide", "kd"): (0.9, 0.9)})
    table = size_table(make_costs(small=1.0, wide=3.0), wide, "accuracy", None, 0.95)
    (sentence,) = size_sentences(table, None)
    assert sentence.endswith("wide has the largest mean accuracy, 90.0%, in 3 times the time.")


def test_failed_trials_and_students_without_any_are_left_out():
    trials = TRIALS.assign(error=np.where(TRIALS["target"] == "wide", "failed", ""))
    costs = make_costs(small=1.0, wide=3.0)
    assert set(size_table(costs, trials, "accuracy", "baseline", 0.95)["student"]) == {"small"}


def test_the_page_has_a_table_and_the_figure_is_drawn(sizes):
    report = {"baseline": "baseline", "confidence": 0.95}
    section = size_section(sizes, report)
    table = section["sizes"]
    assert table.loc[3, "beaten by"] == "small"
    assert table.loc[0, "ms"] == "1 (2)"
    assert table.loc[1, "95% interval"].count(" to ") == 1
    assert size_section(sizes[:0], report)["sizes"] is None
    figure = sizes_figure(sizes, "baseline")
    assert len(figure.axes) == 4
    assert len(sizes_figure(sizes[:0], "baseline").axes) == 0
