"""The comparisons of several benchmarks, against values by hand and scipy's paired test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mst_distill.compare.aggregation import (
    ALL,
    BETWEEN,
    against_best_control,
    gain_table,
    gather,
    setting_of,
)
from mst_distill.compare.aggregation_page import aggregation_page
from mst_distill.compare.plots import gains_figure
from mst_distill.compare.ranking import BEST_CONTROL

SEEDS = 6
NOISE = np.random.default_rng(0).normal(0, 0.004, (8, SEEDS))


def make_comparison(gains, seeds=range(SEEDS), selections=("accuracy", "ce")):
    """Make trials with two targets; the accuracy of a method is 0.5 plus its gain plus noise."""
    rows = []
    for target in ("audio", "image"):
        for number, ((method, teacher), gain) in enumerate(gains.items()):
            for seed in seeds:
                accuracy = 0.5 + gain + NOISE[number + 4 * (target == "image"), seed % SEEDS]
                for criterion in selections:
                    rows.append(
                        {
                            "target": target,
                            "method": method,
                            "title": f"{method} <- {teacher}" if teacher else method,
                            "seed": seed,
                            "selection": criterion,
                            "accuracy": accuracy - 0.01 * (criterion == "ce"),
                            "valid_accuracy": accuracy,
                            "nll": 1 - accuracy,
                            "calibration_error": 0.1,
                            "nll_scaled": 0.5 - accuracy / 2,
                            "calibration_error_scaled": 0.05,
                            "temperature": 2.0,
                            "error": "",
                        }
                    )
    return pd.DataFrame(rows)


TARGETS = ("audio", "image")
GAINS = {("baseline", ""): 0.0, ("dml", "a"): 0.01, ("dml", "b"): 0.02, ("mst", ""): 0.05}


def make_gains(*tables, baseline="baseline"):
    names = [f"set{number}/heldout-all" for number in range(len(tables))]
    return gain_table(gather(dict(zip(names, tables, strict=True)), "accuracy"), baseline, 0.95)


def test_each_method_is_represented_by_its_best_teacher_in_each_setting():
    other = {**GAINS, ("dml", "a"): 0.03}
    tables = {"x/heldout-all": make_comparison(GAINS), "y/random-50": make_comparison(other)}
    trials = gather(tables, "accuracy")
    dml = trials[(trials["selection"] == "accuracy") & (trials["method"] == "dml")]
    by_setting = dml.groupby("setting")
    titles = by_setting["title"].unique().str[0].tolist()
    assert titles == ["dml <- b"] * 2 + ["dml <- a"] * 2
    means = by_setting["accuracy"].mean()
    assert list(means.index) == ["x, audio", "x, image", "y, audio", "y, image"]
    expected = [0.52 + NOISE[2].mean(), 0.52 + NOISE[6].mean()]
    expected += [0.53 + NOISE[1].mean(), 0.53 + NOISE[5].mean()]
    assert means.to_numpy() == pytest.approx(expected)


def test_the_teacher_is_chosen_by_validation_and_not_by_test_samples():
    table = make_comparison(GAINS)
    worse = table["title"] == "dml <- b"  # the better one on the test samples
    table.loc[worse, "valid_accuracy"] -= 0.1
    trials = gather({"x/heldout-all": table}, "accuracy")
    assert set(trials.loc[trials["method"] == "dml", "title"]) == {"dml <- a"}


def test_the_best_control_of_each_setting_is_that_of_validation():
    gains = {("baseline", ""): 0.0, ("peer", ""): 0.02, ("smoothing", ""): 0.03, ("mst", ""): 0.05}
    table = make_comparison(gains)
    peer = (table["title"] == "peer") & (table["target"] == "audio")
    table.loc[peer, "valid_accuracy"] += 0.1  # although smoothing is better on the test samples
    trials = gather({"x/heldout-all": table}, "accuracy")
    joined = against_best_control(trials, "baseline", ["peer", "smoothing"], "accuracy")
    assert joined is not None
    assert set(joined["method"]) == {BEST_CONTROL, "mst"}
    controls = joined[joined["method"] == BEST_CONTROL].groupby("setting")["title"].unique()
    assert controls.map(list).to_dict() == {"x, audio": ["peer"], "x, image": ["smoothing"]}
    gains_found = gain_table(joined, BEST_CONTROL, 0.95)
    row = gains_found[gains_found["selection"] == "accuracy"].set_index("setting")
    assert set(row["method"]) == {"mst"}
    expected = 0.05 - 0.02 + np.mean(NOISE[3] - NOISE[1])
    assert row.loc["x, audio", "difference"] == pytest.approx(expected)
    both = pd.concat([gain_table(trials, "baseline", 0.95), gains_found])
    page = aggregation_page(trials, both, "baseline", "accuracy", 0.95)
    assert f"| mst | **{100 * expected:+.2f}** |" in page.split(f"against {BEST_CONTROL} by")[1]
    axes = gains_figure(both, "accuracy", "baseline").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["peer", "smoothing", "mst"]


def test_there_is_no_best_control_where_a_setting_lacks_one():
    gains = {("baseline", ""): 0.0, ("dml", "a"): 0.01, ("peer", ""): 0.02, ("mst", ""): 0.05}
    tables = {"x/heldout-all": make_comparison(gains), "y/heldout-all": make_comparison(GAINS)}
    trials = gather(tables, "accuracy")
    assert against_best_control(trials, "baseline", ["peer"], "accuracy") is None
    only = trials[trials["method"].isin(["baseline", "peer"]) & trials["setting"].eq("x, audio")]
    assert against_best_control(only, "baseline", ["peer"], "accuracy") is None


def test_the_tests_of_a_setting_are_corrected_together():
    """By Holm: of two p-values, the smaller is doubled, and the larger is not below it."""
    table = make_comparison({**GAINS, ("dml", "b"): 0.004, ("dml", "a"): 0.0})
    trials = gather({"x/heldout-all": table}, "accuracy")
    gains = gain_table(trials, "baseline", 0.95)
    for _, rows in gains[gains["setting"] != BETWEEN].groupby(["setting", "selection"]):
        p = rows.set_index("method")["p"].sort_values()
        corrected = rows.set_index("method")["p_corrected"]
        assert len(p) == 2
        assert corrected[p.index[0]] == pytest.approx(min(1, 2 * p.iloc[0]))
        assert corrected[p.index[1]] == pytest.approx(min(1, max(2 * p.iloc[0], p.iloc[1])))
    marked = gains.assign(p=0.01, p_corrected=0.2)
    page = aggregation_page(trials, marked, "baseline", "accuracy", 0.95)
    assert "| **+" not in page


def test_two_comparisons_of_one_benchmark_are_an_error():
    tables = {name: make_comparison(GAINS) for name in ("x/heldout-all", "x/heldout-50")}
    with pytest.raises(ValueError, match=r"'x' would count twice, as x/heldout-all and x/"):
        gather(tables, "accuracy")


def failed(table, title, seed, target="image"):
    """Replace one trial of the table by one that failed."""
    is_trial = (table["title"] == title) & (table["seed"] == seed) & (table["target"] == target)
    row = {"target": target, "method": title.split(" <- ")[0], "title": title, "seed": seed}
    row |= {"selection": "", "error": "MemoryError: too little"}
    return pd.concat([table[~is_trial], pd.DataFrame([row])], ignore_index=True)


def test_a_teacher_with_a_failed_trial_is_left_out():
    table = failed(make_comparison(GAINS), "dml <- b", 0)
    trials = gather({"x/heldout-all": table}, "accuracy")
    dml = trials[(trials["method"] == "dml") & (trials["selection"] == "accuracy")]
    image = dml[dml["setting"] == "x, image"]
    assert image["accuracy"].to_numpy() == pytest.approx(0.51 + NOISE[5])  # of the other teacher
    assert len(dml) == 2 * SEEDS


def test_a_method_with_a_failed_trial_has_no_mean_over_all_settings():
    table = failed(make_comparison(GAINS), "mst", 3)
    gains = make_gains(make_comparison(GAINS), table)
    rows = gains[gains["method"] == "mst"]
    assert set(rows["setting"]) == {"set0, audio", "set0, image", "set1, audio"}
    assert ALL in set(gains[gains["method"] == "dml"]["setting"])


@pytest.mark.parametrize("seeds", [(5, 6), (4, 5, 6)])
def test_three_seeds_must_be_common_to_all_settings(seeds):
    names = [f"seed {seed}" for seed in seeds]
    message = rf"at least 3 seeds must be common.*no interval.*set1, image: \{names}"
    with pytest.raises(ValueError, match=message):
        make_gains(make_comparison(GAINS), make_comparison(GAINS, seeds=seeds))


def test_equal_differences_have_no_interval_and_no_p():
    """All seeds have the difference 0.25, and all calibration errors are equal."""
    scores = make_comparison({("baseline", ""): 0.0, ("dml", ""): 0.1, ("mst", ""): 0.25})
    scores["accuracy"] = scores["method"].map({"baseline": 0.25, "dml": 0.375, "mst": 0.5})
    trials = gather({"x/heldout-all": scores}, "accuracy")
    gains = gain_table(trials, "baseline", 0.95)
    rows = gains[gains["method"] == "mst"]
    assert rows["difference"].to_numpy() == pytest.approx(0.25)
    assert rows[["low", "high", "p"]].isna().all(axis=None)
    assert (rows.loc[rows["setting"] != BETWEEN, "calibration_error_p"] == 1).all()
    page = aggregation_page(trials, gains, "baseline", "accuracy", 0.95)
    line = next(each for each in page.splitlines() if each.startswith("| mst | +25.00 |"))
    assert "no interval: all differences are equal" in line
    assert "| **+" not in page
    assert "nan" not in page
    (lines,) = gains_figure(gains, "accuracy", "baseline").axes[0].collections
    assert not any(map(len, lines.get_segments()))  # type: ignore[attr-defined]


def test_over_all_settings_the_value_of_a_seed_is_its_mean():
    gains = make_gains(make_comparison(GAINS), make_comparison({**GAINS, ("mst", ""): 0.01}))
    rows = gains[gains["method"] == "mst"]
    row = rows[(rows["setting"] == ALL) & (rows["selection"] == "accuracy")].iloc[0]
    by_target = [NOISE[3] - NOISE[0], NOISE[7] - NOISE[4]]
    per_seed = 0.03 + np.mean(by_target, axis=0)  # (0.05 + 0.01) / 2, with the same noise
    assert row["difference"] == pytest.approx(per_seed.mean())
    assert row["p"] == pytest.approx(stats.ttest_1samp(per_seed, 0).pvalue)
    assert row["pairs"] == SEEDS
    assert row["nll"] == pytest.approx(-per_seed.mean())
    assert row["nll_scaled"] == pytest.approx(-per_seed.mean() / 2)
    assert row["nll_scaled_p"] == pytest.approx(row["p"])
    assert row["calibration_error"] == pytest.approx(0)


def test_seeds_that_a_setting_lacks_do_not_count_over_all_settings():
    gains = make_gains(make_comparison(GAINS), make_comparison(GAINS, seeds=range(2, 9)))
    rows = gains[(gains["method"] == "mst") & (gains["selection"] == "ce")].set_index("setting")
    assert rows.loc["set1, image", "pairs"] == 7
    assert rows.loc[ALL, "pairs"] == 4


def test_a_method_that_a_setting_lacks_has_no_row_over_all_settings():
    less = {key: gain for key, gain in GAINS.items() if key[0] != "mst"}
    gains = make_gains(make_comparison(GAINS), make_comparison(less))
    rows = gains[gains["method"] == "mst"]
    assert set(rows["setting"]) == {"set0, audio", "set0, image"}


def test_the_error_of_an_unknown_baseline_names_the_nearest_method():
    with pytest.raises(ValueError, match=r"unknown baseline 'dmm'.*did you mean 'dml'"):
        make_gains(make_comparison(GAINS), baseline="dmm")


def test_the_page_has_all_tables_and_the_figure_all_methods():
    less = {key: gain for key, gain in GAINS.items() if key[0] != "dml"}
    tables = {"x/heldout-all": make_comparison(GAINS), "y/heldout-all": make_comparison(less)}
    trials = gather(tables, "accuracy")
    gains = gain_table(trials, "baseline", 0.95)
    lines = aggregation_page(trials, gains, "baseline", "accuracy", 0.95).splitlines()
    assert lines[0] == "# 4 settings, 6 seeds"
    assert "## Accuracy, %; bold: the best, italic: the second" in lines
    shown = next(line for line in lines if line.startswith("| mst | **5"))
    means = trials[trials["selection"] == "accuracy"].groupby(["method", "setting"])["accuracy"]
    assert f"| **{100 * means.mean()['mst', 'x, audio']:.2f} ±" in shown
    second = next(line for line in lines if line.startswith("| dml | *5"))
    assert f"| *{100 * means.mean()['dml', 'x, image']:.2f} ±" in second
    assert "## Cost of a trial, means over the settings" in lines
    mst = gains[(gains["method"] == "mst") & (gains["selection"] == "accuracy")].set_index(
        "setting"
    )
    point = 100 * mst.loc[ALL, "difference"]
    assert any(line.startswith(f"| mst | {point:+.2f} | ") for line in lines)
    audio = 100 * (0.05 + np.mean(NOISE[3] - NOISE[0]))
    assert any(line.startswith(f"| mst | **{audio:+.2f}** | ") for line in lines)
    assert "## Calibration error, %" in lines
    assert "## NLL, scaled" in lines
    assert "| mst | 2.00 ± 0.00 | 2.00 ± 0.00 | 2.00 ± 0.00 | 2.00 ± 0.00 |" in lines
    header = next(line for line in lines if line.startswith("| method | points against"))
    assert header.endswith(
        "| NLL | calibration error, points | NLL, scaled | calibration error, scaled, points |"
    )
    assert "- `dml` is not in y, audio, y, image, or some of its trials failed." in lines
    complete = make_gains(make_comparison(GAINS))
    axes = gains_figure(complete, "accuracy", "baseline").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dml", "mst"]


def test_a_setting_is_a_benchmark_its_labels_and_its_protocol() -> None:
    assert setting_of("digits/heldout-all") == ("digits", "")
    assert setting_of("digits/heldout-all-labelled-0.1") == ("digits, 10 % of the labels", "")
    assert setting_of("digits/random-300-labelled-0.05-1") == ("digits, 5 % of the labels", "")
    assert setting_of("ravdess/grouped-2of5-all") == ("ravdess, grouped", "2of5")
    assert setting_of("ravdess/grouped-actor-07-50") == ("ravdess, grouped", "actor-07")
    tables = {
        name: make_comparison(GAINS) for name in ("x/heldout-all", "x/heldout-all-labelled-0.1")
    }
    found = gather(tables, "accuracy")["setting"].unique().tolist()
    named = [
        f"x, {labels}{target}" for labels in ("", "10 % of the labels, ") for target in TARGETS
    ]
    assert found == named


def test_the_settings_as_the_unit_are_told_too() -> None:
    gains = make_gains(make_comparison(GAINS), make_comparison({**GAINS, ("mst", ""): -0.01}))
    rows = gains[(gains["method"] == "mst") & (gains["selection"] == "accuracy")]
    rows = rows.set_index("setting")
    values = rows.drop(index=[ALL, BETWEEN])["difference"].to_numpy()
    assert len(values) == 4
    between = rows.loc[BETWEEN]
    assert between["pairs"] == 4
    assert between["difference"] == pytest.approx(values.mean())
    assert between["p"] == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert between["p"] > 0.05 > rows.loc[ALL, "p"]


def make_folds(count=5, seeds=(0, 1)):
    """Comparisons of all folds, whose gains of `mst` are 0.01 times the number of the fold."""
    return {
        f"x/grouped-{fold}of{count}-all": make_comparison(
            {**GAINS, ("mst", ""): 0.01 * fold}, seeds=seeds
        )
        for fold in range(1, count + 1)
    }


def test_folds_are_one_setting_whose_variance_is_raised_for_what_they_share() -> None:
    """Nadeau and Bengio: (1 / 5 + 1 / 3) s^2, since a fold tests on 1 / 3 of what it trains on."""
    trials = gather(make_folds(), "accuracy")
    assert set(trials["setting"]) == {"x, grouped, audio", "x, grouped, image"}
    gains = gain_table(trials, "baseline", 0.95)
    assert ALL not in set(gains["setting"])
    rows = gains[(gains["method"] == "mst") & (gains["selection"] == "accuracy")]
    row = rows.set_index("setting").loc["x, grouped, audio"]
    noise = (NOISE[3] - NOISE[0])[:2].mean()
    values = 0.01 * np.arange(1, 6) + noise
    assert row["pairs"] == 5
    assert row["difference"] == pytest.approx(values.mean())
    error = values.std(ddof=1) * np.sqrt(1 / 5 + 1 / 3)
    assert row["p"] == pytest.approx(2 * stats.t.sf(values.mean() / error, 4))
    # 2.776 is the two-sided 95 % point of Student's t with 4 degrees of freedom.
    half = 2.7764451 * error
    assert [row["low"], row["high"]] == pytest.approx([values.mean() - half, values.mean() + half])
    page = aggregation_page(trials, gains, "baseline", "accuracy", 0.95)
    assert "the unit is a fold. Folds share training samples" in page
    assert "nan" not in page
    assert gains_figure(gains, "accuracy", "baseline").axes[0].get_yticklabels()


def test_fewer_than_three_folds_are_an_error() -> None:
    folds = dict(list(make_folds().items())[:2])
    with pytest.raises(ValueError, match=r"as many folds.*fold 1of5"):
        gain_table(gather(folds, "accuracy"), "baseline", 0.95)


def test_folds_of_different_deals_are_not_joined() -> None:
    tables = {**make_folds(), "x/grouped-1of3-all": make_comparison(GAINS)}
    with pytest.raises(ValueError, match=r"'x, grouped' has the folds 1of3, 1of5.*not of one deal"):
        gather(tables, "accuracy")


def test_a_baseline_alone_is_an_error() -> None:
    with pytest.raises(ValueError, match="there is no method but 'baseline'"):
        make_gains(make_comparison({("baseline", ""): 0.0}))


def test_a_setting_without_the_baseline_is_named() -> None:
    table = failed(make_comparison(GAINS), "baseline", 0)
    with pytest.raises(
        ValueError, match=r"'baseline' is not in set1, image, or some of its trials"
    ):
        make_gains(make_comparison(GAINS), table)
