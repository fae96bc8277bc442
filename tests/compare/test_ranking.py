"""Rankings and differences, against values by hand and other libraries' tests."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mst_distill.compare.plots import differences_figure
from mst_distill.compare.ranking import (
    BEST_CONTROL,
    BEST_OTHER,
    conclude,
    difference_table,
    holm,
    likelihoods,
    paired,
    rank,
    report_on,
    smallest_found,
)
from mst_distill.compare.ranking_page import ranking_page
from mst_distill.parameters import Compare

CRITERIA = ("accuracy", "ce", "last")
SCORES = {
    "baseline": [0.50, 0.52, 0.54, 0.56, 0.58],
    "kd <- audio": [0.60, 0.61, 0.65, 0.66, 0.69],
    "dist <- audio": [0.40, 0.50, 0.56, 0.52, 0.60],
}


def make_trials(scores=SCORES, changes=None, failed=()):
    """Make trials; a student's accuracy depends on the criterion only by `changes`.

    Args:
        scores: Title to the accuracies by seed.
        changes: ``(title, criterion)`` to a shift of the accuracy.
        failed: ``(title, seed)`` of the trials that failed.
    """
    rows = []
    for title, values in scores.items():
        for seed, value in enumerate(values):
            base = {"target": "image", "title": title, "seed": seed}
            if (title, seed) in failed:
                rows.append({**base, "selection": "", "error": "MemoryError: too little"})
                continue
            for criterion in CRITERIA:
                shift = (changes or {}).get((title, criterion), 0.0)
                metrics = {
                    **{"accuracy": value + shift, "nll": 2 - value, "calibration_error": 0.1},
                    **{"nll_scaled": 1 - value, "calibration_error_scaled": value / 10},
                    "temperature": 1 + value,
                }
                cost = {"student_epochs": 5, "seconds": 2.0, "extra_parameters": 0}
                rows.append({**base, "selection": criterion, **metrics, **cost, "error": ""})
    return pd.DataFrame(rows)


def test_rank_has_means_and_deviations_over_seeds_and_the_best_method_first():
    table = rank(make_trials(changes={("baseline", "ce"): 0.1}), "accuracy").set_index("title")
    assert list(table.index) == ["kd <- audio", "baseline", "dist <- audio"]
    assert table.loc["baseline", "accuracy"] == pytest.approx(0.54)
    assert table.loc["baseline", "accuracy_sd"] == pytest.approx(np.sqrt(0.004 / 4))
    assert table.loc["baseline", "accuracy_by_ce"] == pytest.approx(0.64)
    assert table.loc["baseline", "nll"] == pytest.approx(1.46)
    assert table.loc["baseline", "nll_scaled"] == pytest.approx(0.46)
    assert table.loc["baseline", "calibration_error_scaled"] == pytest.approx(0.054)
    assert table.loc["baseline", ["temperature", "temperature_by_last"]].tolist() == pytest.approx(
        [1.54, 1.54]
    )
    assert table["runs"].tolist() == [5, 5, 5]
    assert table["peak_bytes"].isna().all()


def test_a_trial_that_failed_is_counted_as_missing():
    failed = {("kd <- audio", 1), ("kd <- audio", 3)}
    table = rank(make_trials(failed=failed), "accuracy").set_index("title")
    assert table.loc["kd <- audio", ["runs", "missing"]].tolist() == [3, 2]
    assert table.loc["kd <- audio", "accuracy"] == pytest.approx((0.60 + 0.65 + 0.69) / 3)
    none_finished = rank(make_trials(failed={("baseline", seed) for seed in range(5)}), "accuracy")
    assert none_finished.iloc[-1][["title", "runs", "missing"]].tolist() == ["baseline", 0, 5]


def test_holm_matches_an_example_by_hand():
    corrected = holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    assert corrected == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1.0, 1.0])


def test_difference_interval_and_p_are_those_of_the_paired_test():
    table = difference_table(make_trials(), "baseline", "accuracy", 0.95)
    rows = table[(table["against"] == "baseline") & (table["selection"] == "accuracy")].set_index(
        "title"
    )
    gain = np.array(SCORES["kd <- audio"]) - np.array(SCORES["baseline"])
    kd, test = rows.loc["kd <- audio"], stats.ttest_rel(SCORES["kd <- audio"], SCORES["baseline"])
    assert kd["difference"] == pytest.approx(gain.mean()) == pytest.approx(0.102)
    assert kd["p"] == pytest.approx(test.pvalue)
    # 2.776 is the two-sided 95 % point of Student's t with 4 degrees of freedom.
    half = 2.7764451 * np.sqrt(np.sum((gain - gain.mean()) ** 2) / 4) / np.sqrt(5)
    assert [kd["low"], kd["high"]] == pytest.approx([gain.mean() - half, gain.mean() + half])
    other = rows.loc["dist <- audio", "p"]
    assert kd["p_corrected"] == pytest.approx(2 * min(kd["p"], other))


def test_the_best_other_is_the_best_of_all_other_methods():
    table = difference_table(make_trials(), "baseline", "accuracy", 0.95)
    rows = table[(table["against"] == BEST_OTHER) & (table["selection"] == "last")].set_index(
        "title"
    )
    assert rows["comparator"].to_dict() == {
        "baseline": "kd <- audio",
        "dist <- audio": "kd <- audio",
        "kd <- audio": "baseline",
    }
    assert rows.loc["kd <- audio", "difference"] == pytest.approx(0.102)


def test_only_seeds_of_both_methods_count():
    failed = {("kd <- audio", 0), ("baseline", 4)}
    table = difference_table(make_trials(failed=failed), "baseline", "accuracy", 0.95)
    rows = table[(table["against"] == "baseline") & (table["selection"] == "accuracy")].set_index(
        "title"
    )
    assert rows.loc["kd <- audio", "pairs"] == 3
    assert rows.loc["kd <- audio", "difference"] == pytest.approx((0.09 + 0.11 + 0.10) / 3)


def test_one_seed_gives_differences_but_no_interval():
    table = difference_table(
        make_trials({k: v[:1] for k, v in SCORES.items()}), "baseline", "ce", 0.9
    )
    assert table["difference"].notna().all()
    assert table[["sd", "low", "high", "p", "p_corrected"]].isna().all(axis=None)


def test_two_seeds_give_no_interval_and_no_test():
    scores = {"baseline": [0.50, 0.60], "equal": [0.5225, 0.6225], "apart": [0.61, 0.70]}
    table = difference_table(make_trials(scores), "baseline", "accuracy", 0.95)
    assert (table["pairs"] == 2).all()
    assert table[["low", "high", "p", "p_corrected"]].isna().all(axis=None)
    rows = table[(table["against"] == "baseline") & (table["selection"] == "accuracy")].set_index(
        "title"
    )
    assert rows["difference"].to_dict() == pytest.approx({"equal": 0.0225, "apart": 0.105})
    # The standard deviation of 0.11 and 0.10 is half their difference times the root of two.
    assert rows.loc["apart", "sd"] == pytest.approx(0.005 * np.sqrt(2))
    assert conclude(table, 0.95)["image"]["undecided"] == ["apart", "equal"]


def test_three_seeds_give_an_interval_and_a_test():
    gain = np.array([0.02, 0.03, 0.07])
    found = paired(gain, 0.9)
    half = 2.9199856 * np.sqrt(0.0014 / 2 / 3)  # the two-sided 90 % point of t with 2 degrees
    assert [found["low"], found["high"]] == pytest.approx([0.04 - half, 0.04 + half])
    assert found["p"] == pytest.approx(stats.ttest_1samp(gain, 0).pvalue)


def test_equal_differences_have_no_interval():
    scores = {"baseline": [0.5, 0.6, 0.7], "kd": [0.5, 0.6, 0.7], "rkd": [0.75, 0.85, 0.95]}
    table = difference_table(make_trials(scores), "baseline", "accuracy", 0.95)
    rows = table[(table["against"] == "baseline") & (table["selection"] == "accuracy")].set_index(
        "title"
    )
    assert rows.loc["kd", ["difference", "sd", "p"]].tolist() == [0, 0, 1]
    # Student's t is not defined if all differences are equal.
    assert rows.loc["rkd", "difference"] == pytest.approx(0.25)
    assert np.isnan(rows.loc["rkd", "p"])
    assert rows[["low", "high"]].isna().all(axis=None)


@pytest.mark.parametrize("count", [1, 2])
def test_the_report_of_one_or_two_seeds_gives_no_verdict(count):
    scores = {"baseline": [0.5, 0.6][:count], "kd": [0.5225, 0.6225][:count]}
    report, ranking, differences = make_report(scores=scores)
    assert report["verdicts"]["image"][1:] == [
        f"Whether any method is better than the image baseline cannot be determined from {count} "
        f"seed{'s' if count == 2 else ''}: intervals and tests need at least 3."
    ]
    page = ranking_page(report, ranking, differences)
    seeds = {1: "1 seed", 2: "2 seeds"}[count]
    assert f"| kd | accuracy | +2.25 | no interval: {seeds} | – | – |" in page
    assert "nan" not in page
    (axes,) = differences_figure(differences).axes
    assert "no intervals: fewer than 3 seeds" in axes.get_xlabel()


def test_a_gain_under_one_criterion_only_does_not_count():
    clear = conclude(difference_table(make_trials(), "baseline", "accuracy", 0.95), 0.95)
    assert clear == {
        "image": {"better": ["kd <- audio"], "worse": [], "undecided": ["dist <- audio"]}
    }
    only_one = {("kd <- audio", criterion): -0.1 for criterion in ("ce", "last")}
    table = difference_table(make_trials(changes=only_one), "baseline", "accuracy", 0.95)
    assert conclude(table, 0.95)["image"]["better"] == []
    others_only = {("kd <- audio", "accuracy"): -0.1}  # +0.2 points by the run's own criterion
    table = difference_table(make_trials(changes=others_only), "baseline", "accuracy", 0.95)
    rows = table[(table["title"] == "kd <- audio") & (table["against"] == "baseline")]
    assert (rows["difference"] > 0).all()
    assert (rows["p_corrected"] < 0.05).tolist() == [False, True, True]
    assert conclude(table, 0.95)["image"]["better"] == []
    worse = {("kd <- audio", criterion): -0.2 for criterion in CRITERIA}
    table = difference_table(make_trials(changes=worse), "baseline", "accuracy", 0.95)
    assert conclude(table, 0.95)["image"]["worse"] == ["kd <- audio"]


def with_likelihoods(shifts, failed=(), metric="nll"):
    """Make trials in which the NLL of a title is 1 plus a shift for each seed."""
    trials = make_trials(failed=failed)
    for title, values in shifts.items():
        for seed, shift in enumerate(values):
            here = (
                (trials["title"] == title) & (trials["seed"] == seed) & (trials["selection"] != "")
            )
            trials.loc[here, metric] = 1.0 + shift
    return trials


def test_a_method_with_better_accuracy_may_have_worse_likelihood():
    worse = [0.2, 0.3, 0.25, 0.2, 0.3]
    noise = [0.3, -0.2, 0.1, -0.1, 0.05]
    zero = [0.0] * 5
    trials = with_likelihoods({"baseline": zero, "kd <- audio": worse, "dist <- audio": noise})
    table = difference_table(trials, "baseline", "accuracy", 0.95)
    rows = table[(table["against"] == "baseline") & (table["selection"] == "accuracy")].set_index(
        "title"
    )
    assert rows.loc["kd <- audio", "nll"] == pytest.approx(0.25)
    assert rows.loc["kd <- audio", "nll_p"] == pytest.approx(stats.ttest_1samp(worse, 0).pvalue)
    found = likelihoods(table, "accuracy", 0.95)["image"]
    assert found["nll"] == {"better": [], "worse": ["kd <- audio"]}
    assert found["nll_scaled"] == {"better": ["kd <- audio"], "worse": []}  # as the accuracy
    better = {
        "baseline": zero,
        "kd <- audio": [-shift for shift in worse],
        "dist <- audio": noise,
    }
    table = difference_table(with_likelihoods(better), "baseline", "accuracy", 0.95)
    found = likelihoods(table, "accuracy", 0.95)["image"]
    assert found["nll"] == {"better": ["kd <- audio"], "worse": []}


def test_differences_of_the_other_metrics_are_paired_and_tested():
    table = difference_table(make_trials(), "baseline", "accuracy", 0.95)
    rows = table[(table["against"] == "baseline") & (table["selection"] == "accuracy")]
    row = rows.set_index("title").loc["dist <- audio"]
    gain = np.array(SCORES["dist <- audio"]) - np.array(SCORES["baseline"])
    p = stats.ttest_1samp(gain, 0).pvalue
    for metric, factor in (("nll_scaled", -1), ("calibration_error_scaled", 0.1)):
        assert row[metric] == pytest.approx(factor * gain.mean())
        assert row[f"{metric}_p"] == pytest.approx(p)
    assert row["calibration_error"] == 0
    assert row["calibration_error_p"] == 1


def test_the_report_states_whether_a_likelihood_outlives_temperature_scaling():
    shifts = {
        "baseline": [0.0] * 5,
        "kd <- audio": [-0.2, -0.3, -0.25, -0.2, -0.3],
        "dist <- audio": [-0.2, 0.3, 0.1, -0.1, 0.05],
    }
    trials = with_likelihoods(shifts)
    after = {"baseline": shifts["kd <- audio"], "kd <- audio": shifts["baseline"]}
    scaled = with_likelihoods(after, metric="nll_scaled")["nll_scaled"]
    noise = with_likelihoods({"dist <- audio": [-0.4, 0.1, -0.2, -0.3, -0.3]}, metric="nll_scaled")
    scaled = scaled.where(trials["title"] != "dist <- audio", noise["nll_scaled"])
    trials["nll_scaled"] = scaled
    differences = difference_table(trials, "baseline", "accuracy", 0.95)
    compare = Compare.model_validate({"methods": {"baseline": {"type": "x"}}})
    report = report_on(trials, rank(trials, "accuracy"), differences, compare, "accuracy", 0.95)
    assert report["verdicts"]["image"][-3:] == [
        "Measurably better likelihood than the image baseline: kd <- audio.",
        "After temperature scaling, measurably better: no method; measurably worse: kd <- audio.",
        "With one temperature for the baseline and one for the method, the better likelihood of "
        "kd <- audio is no longer measurable.",
    ]


def test_the_report_names_methods_with_worse_likelihood():
    shifts = {"baseline": [0.0] * 5, "kd <- audio": [0.2, 0.3, 0.25, 0.2, 0.3]}
    trials = with_likelihoods(shifts)
    differences = difference_table(trials, "baseline", "accuracy", 0.95)
    compare = Compare.model_validate({"methods": {"baseline": {"type": "x"}}})
    report = report_on(trials, rank(trials, "accuracy"), differences, compare, "accuracy", 0.95)
    sentences = report["verdicts"]["image"]
    assert "Better than the image baseline, beyond chance: kd <- audio." in sentences
    assert sentences[-2:] == [
        "Measurably worse likelihood than the image baseline: dist <- audio, kd <- audio.",
        "After temperature scaling, measurably better: kd <- audio; measurably worse: no method.",
    ]


def test_a_gain_must_exceed_that_of_the_best_control():
    noise = [0.00, 0.01, 0.02, 0.01, 0.00]
    scores = {
        "baseline": [0.50, 0.52, 0.54, 0.56, 0.58],
        "label_smoothing": [0.60, 0.62, 0.64, 0.66, 0.68],
        "peer": [0.51, 0.53, 0.55, 0.57, 0.59],
        "kd <- audio": [0.60 + of + 0.02 * i for i, of in enumerate(noise)],
        "mst": [0.70 + of + 0.02 * i for i, of in enumerate(noise)],
    }
    trials, controls = make_trials(scores), ["label_smoothing", "peer"]
    differences = difference_table(trials, "baseline", "accuracy", 0.95, controls)
    rows = differences[differences["against"] == BEST_CONTROL]
    assert set(rows["title"]) == {"kd <- audio", "mst"}
    assert set(rows["comparator"]) == {"label_smoothing"}
    mst = rows[(rows["title"] == "mst") & (rows["selection"] == "ce")].iloc[0]
    assert mst["difference"] == pytest.approx(0.108)
    assert mst["p"] == pytest.approx(stats.ttest_1samp(np.array(noise) + 0.1, 0).pvalue)
    found = conclude(differences, 0.95, BEST_CONTROL)["image"]
    assert found == {"better": ["mst"], "worse": [], "undecided": ["kd <- audio"]}
    assert set(conclude(differences, 0.95)["image"]["better"]) == {"kd <- audio", "mst"}
    compare = Compare.model_validate({"methods": {"baseline": {"type": "x"}}})
    report = report_on(trials, rank(trials, "accuracy"), differences, compare, "accuracy", 0.95)
    sentence = "Better than the best control without another modality, beyond chance: mst."
    assert sentence in report["verdicts"]["image"]
    assert "### Against the best control" in ranking_page(
        report, rank(trials, "accuracy"), differences
    )


def test_a_control_without_all_seeds_is_not_the_best():
    scores = {**SCORES, "label_smoothing": [0.55] * 5, "peer": [0.9] * 5}
    failed = {("peer", seed) for seed in range(3)}
    table = difference_table(
        make_trials(scores, failed=failed),
        "baseline",
        "accuracy",
        0.95,
        ["label_smoothing", "peer"],
    )
    rows = table[table["against"] == BEST_CONTROL]
    assert set(rows["comparator"]) == {"label_smoothing"}
    assert set(rows["pairs"]) == {5}


def test_nothing_is_stated_of_controls_without_a_test():
    scores = {"label_smoothing": [0.5], "kd <- audio": [0.6]}
    trials = make_trials(scores)
    differences = difference_table(trials, None, "accuracy", 0.95, ["label_smoothing"])
    compare = Compare.model_validate({"methods": {"kd": {"type": "x"}}})
    report = report_on(trials, rank(trials, "accuracy"), differences, compare, "accuracy", 0.95)
    assert not any("control" in sentence for sentence in report["verdicts"]["image"])


@pytest.mark.parametrize(("pairs", "level"), [(3, 0.05), (5, 0.002), (10, 0.05)])
def test_the_smallest_difference_is_found_with_a_probability_of_80_percent(pairs, level):
    difference = smallest_found(2.0, pairs, level)
    rng = np.random.default_rng(0)
    samples = rng.normal(difference, 2.0, size=(20000, pairs))
    share = (stats.ttest_1samp(samples, 0, axis=1).pvalue < level).mean()
    assert share == pytest.approx(0.8, abs=0.01)


def test_the_report_states_what_it_could_have_found_and_the_trap_of_the_baseline():
    report, ranking, differences = make_report(changes={("baseline", "ce"): -0.2})
    found, trap = report["limits"]["image"]
    gains = [np.subtract(SCORES[title], SCORES["baseline"]) for title in SCORES]
    sd = np.median([gain.std(ddof=1) for gain in gains[1:]])
    single, corrected = (100 * smallest_found(sd, 5, level) for level in (0.05, 0.025))
    assert f"With 5 seeds, a true difference of {single:.1f} points would be found" in found
    assert f"one of {corrected:.1f} points after the correction for 2 comparisons" in found
    assert "an epoch of the baseline is selected that is 20.0 points worse" in trap
    assert found in ranking_page(report, ranking, differences)


def make_report(**changes):
    trials = make_trials(**changes)
    ranking = rank(trials, "accuracy")
    differences = difference_table(trials, "baseline", "accuracy", 0.95)
    compare = Compare.model_validate({"methods": {"baseline": {"type": "x"}}})
    return report_on(trials, ranking, differences, compare, "accuracy", 0.95), ranking, differences


def test_the_page_shows_means_differences_and_failed_trials():
    page = ranking_page(*make_report(failed={("dist <- audio", 2)}))
    lines = page.splitlines()
    assert "- Best mean accuracy: kd <- audio with 64.20 %." in lines
    assert "- Better than the image baseline, beyond chance: kd <- audio." in lines
    (row,) = [line for line in lines if line.startswith("| dist <- audio | 4 (1 failed)")]
    assert "50.50 ± 8.23" in row
    header = next(line for line in lines if line.startswith("| method | runs"))
    columns = [cell.strip() for cell in header.split("|")]
    values = [cell.strip() for cell in row.split("|")]
    shown = dict(zip(columns, values, strict=True))
    assert shown["NLL, scaled"].startswith("0.495 ± ")
    assert shown["calibration error, scaled, %"] == "5.1 ± 0.8"
    assert shown["temperature"].startswith("1.50 ± ")
    assert "*Scaled* metrics are those of the logits divided by the temperature" in page
    (difference,) = [line for line in lines if line.startswith("| kd <- audio | ce | +")]
    assert "| -0.102 | <.001 | -0.102 | <.001 |" in difference
    assert "| image | dist <- audio | 2 | MemoryError: too little |" in lines
    assert any("+10.20" in line and "kd <- audio" in line for line in lines)
    widths = {line.count("|") for line in lines if line.startswith("| kd <- audio | accuracy")}
    assert len(widths) <= 2  # with and without the column of comparators


def test_any_text_of_an_error_is_one_cell_of_the_page():
    report, ranking, differences = make_report(failed={("dist <- audio", 2)})
    report["missing"][0]["error"] = "RuntimeError: a|b at <module>\nin **kwargs and _x_"
    page = ranking_page(report, ranking, differences)
    cell = r"RuntimeError: a&#124;b at &lt;module&gt; in \*\*kwargs and \_x\_"
    assert f"| image | dist <- audio | 2 | {cell} |" in page.splitlines()


def test_the_report_states_that_no_trial_finished():
    failed = {(title, seed) for title in SCORES for seed in range(5)}
    report, ranking, differences = make_report(failed=failed)
    assert report["verdicts"] == {"image": ["No trial finished."]}
    assert len(report["missing"]) == 15
    assert "## Failed trials" in ranking_page(report, ranking, differences)
    assert "nothing to compare" in differences_figure(differences).texts[0].get_text()


def test_the_figure_shows_every_method_with_its_interval():
    _, _, differences = make_report(changes={("kd <- audio", "ce"): 0.05})
    (axes,) = differences_figure(differences).axes
    assert axes.get_xlabel() == "accuracy minus that of the baseline, points"
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "dist <- audio",
        "kd <- audio",
    ]
    by_criterion = {line.get_label(): line.get_xdata() for line in axes.lines[1:]}
    assert by_criterion["by accuracy"] == pytest.approx([-2.4, 10.2])
    assert by_criterion["by ce"] == pytest.approx([-2.4, 15.2])
