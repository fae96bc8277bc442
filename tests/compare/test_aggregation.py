"""The comparisons of several benchmarks against figures by hand and by scipy's paired test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mst_distill.compare.aggregation import ALL, gain_table, gather
from mst_distill.compare.aggregation_page import aggregation_page
from mst_distill.compare.plots import gains_figure

SEEDS = 6
NOISE = np.random.default_rng(0).normal(0, 0.004, (8, SEEDS))


def make_comparison(gains, seeds=range(SEEDS), rules=("accuracy", "ce")):
    """A benchmark with two targets; every method's accuracy is 0.5, its gain and some noise."""
    rows = []
    for target in ("audio", "image"):
        for place, ((method, teacher), gain) in enumerate(gains.items()):
            for seed in seeds:
                accuracy = 0.5 + gain + NOISE[place + 4 * (target == "image"), seed % SEEDS]
                for rule in rules:
                    rows.append(
                        {
                            "target": target,
                            "method": method,
                            "title": f"{method} <- {teacher}" if teacher else method,
                            "seed": seed,
                            "rule": rule,
                            "accuracy": accuracy - 0.01 * (rule == "ce"),
                            "nll": 1 - accuracy,
                            "calibration_error": 0.1,
                            "error": "",
                        }
                    )
    return pd.DataFrame(rows)


GAINS = {("none", ""): 0.0, ("dml", "a"): 0.01, ("dml", "b"): 0.02, ("mst", ""): 0.05}


def make_gains(*tables, baseline="none"):
    names = [f"set{place}/heldout-all" for place in range(len(tables))]
    return gain_table(gather(dict(zip(names, tables, strict=True)), "accuracy"), baseline, 0.95)


def test_a_method_is_represented_in_a_setting_by_its_best_teacher():
    other = {**GAINS, ("dml", "a"): 0.03}
    tables = {"x/heldout-all": make_comparison(GAINS), "y/random-50": make_comparison(other)}
    trials = gather(tables, "accuracy")
    own = trials[(trials["rule"] == "accuracy") & (trials["method"] == "dml")]
    by_setting = own.groupby("setting")
    titles = by_setting["title"].unique().str[0].tolist()
    assert titles == ["dml <- b"] * 2 + ["dml <- a"] * 2
    means = by_setting["accuracy"].mean()
    assert list(means.index) == ["x, audio", "x, image", "y, audio", "y, image"]
    expected = [0.52 + NOISE[2].mean(), 0.52 + NOISE[6].mean()]
    expected += [0.53 + NOISE[1].mean(), 0.53 + NOISE[5].mean()]
    assert means.to_numpy() == pytest.approx(expected)


def test_a_benchmark_that_would_count_twice_is_an_error():
    tables = {name: make_comparison(GAINS) for name in ("x/heldout-all", "x/heldout-50")}
    with pytest.raises(ValueError, match=r"'x' would count twice, as x/heldout-all and x/"):
        gather(tables, "accuracy")


def failed(table, title, seed, target="image"):
    """The table with one trial that failed."""
    row = (table["title"] == title) & (table["seed"] == seed) & (table["target"] == target)
    note = {"target": target, "method": title.split(" <- ")[0], "title": title, "seed": seed}
    note |= {"rule": "", "error": "MemoryError: too little"}
    return pd.concat([table[~row], pd.DataFrame([note])], ignore_index=True)


def test_a_teacher_with_a_failed_trial_represents_no_method():
    table = failed(make_comparison(GAINS), "dml <- b", 0)
    trials = gather({"x/heldout-all": table}, "accuracy")
    dml = trials[(trials["method"] == "dml") & (trials["rule"] == "accuracy")]
    image = dml[dml["setting"] == "x, image"]
    assert image["accuracy"].to_numpy() == pytest.approx(0.51 + NOISE[5])  # of the other teacher
    assert len(dml) == 2 * SEEDS


def test_a_method_with_a_failed_trial_is_not_in_the_mean_over_all_settings():
    table = failed(make_comparison(GAINS), "mst", 3)
    gains = make_gains(make_comparison(GAINS), table)
    rows = gains[gains["method"] == "mst"]
    assert set(rows["setting"]) == {"set0, audio", "set0, image", "set1, audio"}
    assert ALL in set(gains[gains["method"] == "dml"]["setting"])


@pytest.mark.parametrize("seeds", [(5, 6), (4, 5, 6)])
def test_three_seeds_must_be_common_to_all_settings(seeds):
    rule = rf"at least 3 seeds must be common.*no interval.*set1, image: \{list(seeds)}"
    with pytest.raises(ValueError, match=rule):
        make_gains(make_comparison(GAINS), make_comparison(GAINS, seeds=seeds))


def test_equal_differences_are_no_proof():
    """Here every seed has a difference of 0.25; calibration errors do not differ at all."""
    scores = make_comparison({("none", ""): 0.0, ("dml", ""): 0.1, ("mst", ""): 0.25})
    scores["accuracy"] = scores["method"].map({"none": 0.25, "dml": 0.375, "mst": 0.5})
    trials = gather({"x/heldout-all": scores}, "accuracy")
    gains = gain_table(trials, "none", 0.95)
    rows = gains[gains["method"] == "mst"]
    assert rows["difference"].to_numpy() == pytest.approx(0.25)
    assert rows[["low", "high", "p"]].isna().all(axis=None)
    assert (rows["calibration_error_p"] == 1).all()
    page = aggregation_page(trials, gains, "none", "accuracy", 0.95)
    over = next(line for line in page.splitlines() if line.startswith("| mst | +25.00 |"))
    assert "no interval: all differences are equal" in over
    assert "**" not in page
    assert "nan" not in page
    (lines,) = gains_figure(gains, "accuracy", "none").axes[0].collections
    assert not any(map(len, lines.get_segments()))


def test_over_all_settings_a_seed_counts_with_its_mean():
    gains = make_gains(make_comparison(GAINS), make_comparison({**GAINS, ("mst", ""): 0.01}))
    rows = gains[gains["method"] == "mst"]
    row = rows[(rows["setting"] == ALL) & (rows["rule"] == "accuracy")].iloc[0]
    by_target = [NOISE[3] - NOISE[0], NOISE[7] - NOISE[4]]
    per_seed = 0.03 + np.mean(by_target, axis=0)  # (0.05 + 0.01) / 2, with the same noise
    assert row["difference"] == pytest.approx(per_seed.mean())
    assert row["p"] == pytest.approx(stats.ttest_1samp(per_seed, 0).pvalue)
    assert row["pairs"] == SEEDS
    assert row["nll"] == pytest.approx(-per_seed.mean())
    assert row["calibration_error"] == pytest.approx(0)


def test_seeds_that_a_setting_lacks_do_not_count_over_all():
    gains = make_gains(make_comparison(GAINS), make_comparison(GAINS, seeds=range(2, 9)))
    rows = gains[(gains["method"] == "mst") & (gains["rule"] == "ce")].set_index("setting")
    assert rows.loc["set1, image", "pairs"] == 7
    assert rows.loc[ALL, "pairs"] == 4


def test_a_method_that_a_setting_lacks_has_no_row_over_all():
    less = {key: gain for key, gain in GAINS.items() if key[0] != "mst"}
    gains = make_gains(make_comparison(GAINS), make_comparison(less))
    rows = gains[gains["method"] == "mst"]
    assert set(rows["setting"]) == {"set0, audio", "set0, image"}


def test_an_unknown_baseline_is_named_with_the_nearest_method():
    with pytest.raises(ValueError, match=r"unknown baseline 'dmm'.*did you mean 'dml'"):
        make_gains(make_comparison(GAINS), baseline="dmm")


def test_the_page_has_every_table_and_the_figure_every_method():
    less = {key: gain for key, gain in GAINS.items() if key[0] != "dml"}
    tables = {"x/heldout-all": make_comparison(GAINS), "y/heldout-all": make_comparison(less)}
    trials = gather(tables, "accuracy")
    gains = gain_table(trials, "none", 0.95)
    lines = aggregation_page(trials, gains, "none", "accuracy", 0.95).splitlines()
    assert lines[0] == "# 4 settings, 6 seeds"
    own = gains[(gains["method"] == "mst") & (gains["rule"] == "accuracy")].set_index("setting")
    point = 100 * own.loc[ALL, "difference"]
    assert any(line.startswith(f"| mst | {point:+.2f} | ") for line in lines)
    audio = 100 * (0.05 + np.mean(NOISE[3] - NOISE[0]))
    assert any(line.startswith(f"| mst | **{audio:+.2f}** | ") for line in lines)
    assert "## Calibration error, %" in lines
    assert "- `dml` is not in y, audio, y, image, or some of its trials failed." in lines
    whole = make_gains(make_comparison(GAINS))
    axes = gains_figure(whole, "accuracy", "none").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dml", "mst"]
