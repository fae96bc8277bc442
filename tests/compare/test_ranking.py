"""Rankings and differences against figures by hand and by other libraries' tests."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mst_distill.compare.plots import differences_figure
from mst_distill.compare.ranking import (
    BEST,
    conclude,
    difference_table,
    holm,
    less_likely,
    paired,
    rank,
    report_on,
)
from mst_distill.compare.ranking_page import ranking_page
from mst_distill.parameters import Compare

RULES = ("accuracy", "ce", "last")
SCORES = {
    "none": [0.50, 0.52, 0.54, 0.56, 0.58],
    "kd <- audio": [0.60, 0.61, 0.65, 0.66, 0.69],
    "dist <- audio": [0.40, 0.50, 0.56, 0.52, 0.60],
}


def make_trials(scores=SCORES, changes=None, died=()):
    """Every rule keeps a student of the same accuracy, unless `changes` says (title, rule)."""
    rows = []
    for title, values in scores.items():
        for seed, value in enumerate(values):
            base = {"target": "image", "title": title, "seed": seed}
            if (title, seed) in died:
                rows.append({**base, "rule": "", "error": "MemoryError: too little"})
                continue
            for rule in RULES:
                shift = (changes or {}).get((title, rule), 0.0)
                figures = {"accuracy": value + shift, "nll": 2 - value, "calibration_error": 0.1}
                cost = {"student_epochs": 5, "seconds": 2.0, "extra_parameters": 0}
                rows.append({**base, "rule": rule, **figures, **cost, "error": ""})
    return pd.DataFrame(rows)


def test_means_and_spreads_are_over_seeds_and_the_best_comes_first():
    table = rank(make_trials(changes={("none", "ce"): 0.1}), "accuracy").set_index("title")
    assert list(table.index) == ["kd <- audio", "none", "dist <- audio"]
    assert table.loc["none", "accuracy"] == pytest.approx(0.54)
    assert table.loc["none", "accuracy_sd"] == pytest.approx(np.sqrt(0.004 / 4))
    assert table.loc["none", "accuracy_by_ce"] == pytest.approx(0.64)
    assert table.loc["none", "nll"] == pytest.approx(1.46)
    assert table["runs"].tolist() == [5, 5, 5]
    assert table["peak_bytes"].isna().all()


def test_a_trial_that_died_is_counted_as_missing():
    died = {("kd <- audio", 1), ("kd <- audio", 3)}
    table = rank(make_trials(died=died), "accuracy").set_index("title")
    assert table.loc["kd <- audio", ["runs", "missing"]].tolist() == [3, 2]
    assert table.loc["kd <- audio", "accuracy"] == pytest.approx((0.60 + 0.65 + 0.69) / 3)
    all_died = rank(make_trials(died={("none", seed) for seed in range(5)}), "accuracy")
    assert all_died.iloc[-1][["title", "runs", "missing"]].tolist() == ["none", 0, 5]


def test_holm_on_an_example_worked_by_hand():
    corrected = holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    assert corrected == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])


def test_differences_interval_and_p_are_those_of_the_paired_test():
    table = difference_table(make_trials(), "none", "accuracy", 0.95)
    rows = table[(table["against"] == "none") & (table["rule"] == "accuracy")].set_index("title")
    gain = np.array(SCORES["kd <- audio"]) - np.array(SCORES["none"])
    kd, test = rows.loc["kd <- audio"], stats.ttest_rel(SCORES["kd <- audio"], SCORES["none"])
    assert kd["difference"] == pytest.approx(gain.mean()) == pytest.approx(0.102)
    assert kd["p"] == pytest.approx(test.pvalue)
    # 2.776 is the two-sided 95 % point of Student's t with 4 degrees of freedom.
    half = 2.7764451 * np.sqrt(np.sum((gain - gain.mean()) ** 2) / 4) / np.sqrt(5)
    assert [kd["low"], kd["high"]] == pytest.approx([gain.mean() - half, gain.mean() + half])
    other = rows.loc["dist <- audio", "p"]
    assert kd["p_corrected"] == pytest.approx(2 * min(kd["p"], other))


def test_the_best_other_is_the_best_of_all_but_oneself():
    table = difference_table(make_trials(), "none", "accuracy", 0.95)
    rows = table[(table["against"] == BEST) & (table["rule"] == "last")].set_index("title")
    assert rows["opponent"].to_dict() == {
        "none": "kd <- audio",
        "dist <- audio": "kd <- audio",
        "kd <- audio": "none",
    }
    assert rows.loc["kd <- audio", "difference"] == pytest.approx(0.102)


def test_seeds_that_one_of_a_pair_lacks_do_not_count():
    died = {("kd <- audio", 0), ("none", 4)}
    table = difference_table(make_trials(died=died), "none", "accuracy", 0.95)
    rows = table[(table["against"] == "none") & (table["rule"] == "accuracy")].set_index("title")
    assert rows.loc["kd <- audio", "pairs"] == 3
    assert rows.loc["kd <- audio", "difference"] == pytest.approx((0.09 + 0.11 + 0.10) / 3)


def test_one_seed_has_differences_but_no_interval():
    table = difference_table(make_trials({k: v[:1] for k, v in SCORES.items()}), "none", "ce", 0.9)
    assert table["difference"].notna().all()
    assert table[["sd", "low", "high", "p", "p_corrected"]].isna().all(axis=None)


def test_two_seeds_have_no_interval_and_no_test():
    scores = {"none": [0.50, 0.60], "equal": [0.5225, 0.6225], "apart": [0.61, 0.70]}
    table = difference_table(make_trials(scores), "none", "accuracy", 0.95)
    assert (table["pairs"] == 2).all()
    assert table[["low", "high", "p", "p_corrected"]].isna().all(axis=None)
    rows = table[(table["against"] == "none") & (table["rule"] == "accuracy")].set_index("title")
    assert rows["difference"].to_dict() == pytest.approx({"equal": 0.0225, "apart": 0.105})
    # Of 0.11 and 0.10: half their distance, times the root of two.
    assert rows.loc["apart", "sd"] == pytest.approx(0.005 * np.sqrt(2))
    assert conclude(table, 0.95)["image"]["undecided"] == ["apart", "equal"]


def test_three_seeds_have_both():
    gain = np.array([0.02, 0.03, 0.07])
    found = paired(gain, 0.9)
    half = 2.9199856 * np.sqrt(0.0014 / 2 / 3)  # the two-sided 90 % point of t with 2 degrees
    assert [found["low"], found["high"]] == pytest.approx([0.04 - half, 0.04 + half])
    assert found["p"] == pytest.approx(stats.ttest_1samp(gain, 0).pvalue)


def test_equal_differences_have_no_interval():
    scores = {"none": [0.5, 0.6, 0.7], "kd": [0.5, 0.6, 0.7], "rkd": [0.75, 0.85, 0.95]}
    table = difference_table(make_trials(scores), "none", "accuracy", 0.95)
    rows = table[(table["against"] == "none") & (table["rule"] == "accuracy")].set_index("title")
    assert rows.loc["kd", ["difference", "sd", "p"]].tolist() == [0, 0, 1]
    # Student's t is not defined where all differences are the same.
    assert rows.loc["rkd", "difference"] == pytest.approx(0.25)
    assert np.isnan(rows.loc["rkd", "p"])
    assert rows[["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize("count", [1, 2])
def test_the_report_of_one_or_two_seeds_gives_no_verdict(count):
    scores = {"none": [0.5, 0.6][:count], "kd": [0.5225, 0.6225][:count]}
    report, ranking, differences = reported(scores=scores)
    assert report["verdicts"]["image"][1:] == [
        f"Whether any method is better than the image student alone cannot be told from {count} "
        f"seed{'s' if count == 2 else ''}: intervals and tests need at least 3."
    ]
    page = ranking_page(report, ranking, differences)
    seeds = {1: "1 seed", 2: "2 seeds"}[count]
    assert f"| kd | accuracy | +2.25 | no interval: {seeds} | – | – |" in page
    assert "nan" not in page
    (axes,) = differences_figure(differences).axes
    assert "no intervals: fewer than 3 seeds" in axes.get_xlabel()


def test_what_one_rule_alone_shows_is_no_gain():
    clear = conclude(difference_table(make_trials(), "none", "accuracy", 0.95), 0.95)
    assert clear == {
        "image": {"better": ["kd <- audio"], "worse": [], "undecided": ["dist <- audio"]}
    }
    only_one = {("kd <- audio", rule): -0.1 for rule in ("ce", "last")}
    table = difference_table(make_trials(changes=only_one), "none", "accuracy", 0.95)
    assert conclude(table, 0.95)["image"]["better"] == []
    worse = {("kd <- audio", rule): -0.2 for rule in RULES}
    table = difference_table(make_trials(changes=worse), "none", "accuracy", 0.95)
    assert conclude(table, 0.95)["image"]["worse"] == ["kd <- audio"]


def with_likelihoods(shifts, died=()):
    """Trials in which a title's NLL is that of the student alone plus a shift a seed."""
    trials = make_trials(died=died)
    for title, values in shifts.items():
        for seed, shift in enumerate(values):
            here = (trials["title"] == title) & (trials["seed"] == seed) & (trials["rule"] != "")
            trials.loc[here, "nll"] = 1.0 + shift
    return trials


def test_a_method_that_wins_in_accuracy_may_be_told_to_lose_in_likelihood():
    dearer = [0.2, 0.3, 0.25, 0.2, 0.3]
    noise = [0.3, -0.2, 0.1, -0.1, 0.05]
    zero = [0.0] * 5
    trials = with_likelihoods({"none": zero, "kd <- audio": dearer, "dist <- audio": noise})
    table = difference_table(trials, "none", "accuracy", 0.95)
    rows = table[(table["against"] == "none") & (table["rule"] == "accuracy")].set_index("title")
    assert rows.loc["kd <- audio", "nll"] == pytest.approx(0.25)
    assert rows.loc["kd <- audio", "nll_p"] == pytest.approx(stats.ttest_1samp(dearer, 0).pvalue)
    assert less_likely(table, "accuracy", 0.95) == {"image": ["kd <- audio"]}
    cheaper = {"none": zero, "kd <- audio": [-shift for shift in dearer], "dist <- audio": noise}
    table = difference_table(with_likelihoods(cheaper), "none", "accuracy", 0.95)
    assert less_likely(table, "accuracy", 0.95) == {}


def test_the_report_says_who_loses_in_likelihood():
    shifts = {"none": [0.0] * 5, "kd <- audio": [0.2, 0.3, 0.25, 0.2, 0.3]}
    trials = with_likelihoods(shifts)
    differences = difference_table(trials, "none", "accuracy", 0.95)
    compare = Compare.model_validate({"methods": {"none": {"type": "x"}}})
    report = report_on(trials, rank(trials, "accuracy"), differences, compare, "accuracy", 0.95)
    said = report["verdicts"]["image"]
    assert "Better than the image student alone, beyond chance: kd <- audio." in said
    assert said[-1] == "With a measurably worse likelihood than its: dist <- audio, kd <- audio."


def reported(**changes):
    trials = make_trials(**changes)
    ranking = rank(trials, "accuracy")
    differences = difference_table(trials, "none", "accuracy", 0.95)
    compare = Compare.model_validate({"methods": {"none": {"type": "x"}}})
    return report_on(trials, ranking, differences, compare, "accuracy", 0.95), ranking, differences


def test_the_page_shows_means_differences_and_what_is_missing():
    page = ranking_page(*reported(died={("dist <- audio", 2)}))
    lines = page.splitlines()
    assert "- Best mean accuracy: kd <- audio with 64.20 %." in lines
    assert "- Better than the image student alone, beyond chance: kd <- audio." in lines
    (row,) = [line for line in lines if line.startswith("| dist <- audio | 4 (1 missing)")]
    assert "50.50 ± 8.23" in row
    assert "| image | dist <- audio | 2 | MemoryError: too little |" in lines
    assert any("+10.20" in line and "kd <- audio" in line for line in lines)
    widths = {line.count("|") for line in lines if line.startswith("| kd <- audio | accuracy")}
    assert len(widths) <= 2  # with and without the opponent


def test_where_every_trial_died_the_report_says_so():
    died = {(title, seed) for title in SCORES for seed in range(5)}
    report, ranking, differences = reported(died=died)
    assert report["verdicts"] == {"image": ["No trial came to its end."]}
    assert len(report["missing"]) == 15
    assert "## Missing" in ranking_page(report, ranking, differences)
    assert "nothing to compare" in differences_figure(differences).texts[0].get_text()


def test_the_figure_shows_every_method_with_its_interval():
    _, _, differences = reported(changes={("kd <- audio", "ce"): 0.05})
    (axes,) = differences_figure(differences).axes
    assert axes.get_xlabel() == "points of accuracy against the student alone"
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "dist <- audio",
        "kd <- audio",
    ]
    by_rule = {line.get_label(): line.get_xdata() for line in axes.lines[1:]}
    assert by_rule["by accuracy"] == pytest.approx([-2.4, 10.2])
    assert by_rule["by ce"] == pytest.approx([-2.4, 15.2])
