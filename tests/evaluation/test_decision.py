"""The decision on the default against figures by hand and by scipy's paired test."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mst_distill.evaluation.decision import ALL, decide_on, gain_table, gather, pair_table
from mst_distill.evaluation.decision_page import decision_page
from mst_distill.evaluation.figures import gains_figure
from mst_distill.evaluation.markdown import numbers
from mst_distill.parameters import Contrasts

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
OPPONENTS = ("none", "dml")


def make_gains(*tables, opponents=OPPONENTS):
    names = [f"set{place}/heldout-all" for place in range(len(tables))]
    return gain_table(gather(dict(zip(names, tables, strict=True)), "accuracy"), opponents, 0.95)


def decide(candidates=("mst",)) -> Contrasts:
    return Contrasts(candidates=candidates, opponents=OPPONENTS, floor="none")


def test_a_method_stands_in_a_cell_with_its_best_teacher():
    other = {**GAINS, ("dml", "a"): 0.03}
    tables = {"x/heldout-all": make_comparison(GAINS), "y/random-50": make_comparison(other)}
    trials = gather(tables, "accuracy")
    own = trials[(trials["rule"] == "accuracy") & (trials["method"] == "dml")]
    assert (
        own.groupby("cell")["title"].unique().str[0].tolist() == ["dml <- b"] * 2 + ["dml <- a"] * 2
    )
    means = own.groupby("cell")["accuracy"].mean()
    assert list(means.index) == ["x, audio", "x, image", "y, audio", "y, image"]
    expected = [0.52 + NOISE[2].mean(), 0.52 + NOISE[6].mean()]
    expected += [0.53 + NOISE[1].mean(), 0.53 + NOISE[5].mean()]
    assert means.to_numpy() == pytest.approx(expected)


def test_a_benchmark_that_would_count_twice_is_refused():
    tables = {name: make_comparison(GAINS) for name in ("x/heldout-all", "x/heldout-50")}
    with pytest.raises(ValueError, match=r"'x' would count twice, as x/heldout-all and x/"):
        gather(tables, "accuracy")


def died(table, title, seed, target="image"):
    """The table with one trial that died."""
    row = (table["title"] == title) & (table["seed"] == seed) & (table["target"] == target)
    note = {"target": target, "method": title.split(" <- ")[0], "title": title, "seed": seed}
    note |= {"rule": "", "error": "MemoryError: too little"}
    return pd.concat([table[~row], pd.DataFrame([note])], ignore_index=True)


def test_a_teacher_with_a_trial_that_died_stands_for_no_method():
    table = died(make_comparison(GAINS), "dml <- b", 0)
    trials = gather({"x/heldout-all": table}, "accuracy")
    dml = trials[(trials["method"] == "dml") & (trials["rule"] == "accuracy")]
    image = dml[dml["cell"] == "x, image"]
    assert image["accuracy"].to_numpy() == pytest.approx(0.51 + NOISE[5])  # of the other teacher
    assert len(dml) == 2 * SEEDS


def test_who_lost_a_trial_cannot_be_decided_on():
    whole, table = make_comparison(GAINS), make_comparison(GAINS)
    for broken in (died(table, "mst", 3), died(table, "none", 3)):
        gains = make_gains(whole, broken)
        with pytest.raises(ValueError, match=r"'mst' cannot be held against 'none' over all cells"):
            decide_on(gains, decide(), "accuracy", 0.95)


@pytest.mark.parametrize("seeds", [(5, 6), (4, 5, 6)])
def test_three_seeds_must_be_common_to_all_cells(seeds):
    rule = rf"at least 3 seeds must be common.*no interval.*set1, image: \{list(seeds)}"
    with pytest.raises(ValueError, match=rule):
        make_gains(make_comparison(GAINS), make_comparison(GAINS, seeds=seeds))


def test_equal_differences_in_a_cell_are_no_proof():
    """Here every seed says 0.25 of accuracy; calibration errors do not differ at all."""
    scores = make_comparison({("none", ""): 0.0, ("dml", ""): 0.1, ("mst", ""): 0.25})
    scores["accuracy"] = scores["method"].map({"none": 0.25, "dml": 0.375, "mst": 0.5})
    trials = gather({"x/heldout-all": scores}, "accuracy")
    gains = gain_table(trials, OPPONENTS, 0.95)
    rows = gains[(gains["method"] == "mst") & (gains["against"] == "none")]
    assert rows["difference"].to_numpy() == pytest.approx(0.25)
    assert rows[["low", "high", "p"]].isna().all(axis=None)
    assert (rows["calibration_error_p"] == 1).all()
    found = decide_on(gains, decide(), "accuracy", 0.95)
    assert found["adopted"] == ""
    assert "is measurably above no opponent" in found["sentences"][0]
    assert found["candidates"]["mst"]["against"]["none"]["low"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    page = decision_page(found, trials, gains, pair_table(trials, {"q": [("mst", "dml")]}, 0.95))
    candidate, over, pair = (
        next(line for line in page.splitlines() if line.startswith(start))
        for start in ("| mst | none | 6 |", "| mst | +25.00 |", "| q | `mst` − `dml` |")
    )
    for line in (candidate, over, pair):
        assert "no interval: all differences are equal" in line
    assert "| +25.00 | no interval: all differences are equal | – |" in candidate
    assert "**" not in page
    assert "nan" not in page
    (lines,) = gains_figure(gains, "accuracy", "none").axes[0].collections
    assert not any(map(len, lines.get_segments()))


def test_over_all_cells_a_seed_counts_with_its_mean():
    gains = make_gains(make_comparison(GAINS), make_comparison({**GAINS, ("mst", ""): 0.01}))
    rows = gains[(gains["method"] == "mst") & (gains["against"] == "none")]
    row = rows[(rows["cell"] == ALL) & (rows["rule"] == "accuracy")].iloc[0]
    by_target = [NOISE[3] - NOISE[0], NOISE[7] - NOISE[4]]
    per_seed = 0.03 + np.mean(by_target, axis=0)  # (0.05 + 0.01) / 2, on the same noise
    assert row["difference"] == pytest.approx(per_seed.mean())
    assert row["p"] == pytest.approx(stats.ttest_1samp(per_seed, 0).pvalue)
    assert row["pairs"] == SEEDS
    assert row["nll"] == pytest.approx(-per_seed.mean())
    assert row["calibration_error"] == pytest.approx(0)


def test_seeds_that_a_cell_lacks_do_not_count_over_all():
    gains = make_gains(make_comparison(GAINS), make_comparison(GAINS, seeds=range(2, 9)))
    rows = gains[(gains["method"] == "mst") & (gains["rule"] == "ce")].set_index("cell")
    assert rows.loc["set1, image", "pairs"].tolist() == [7, 7]
    assert rows.loc[ALL, "pairs"].tolist() == [4, 4]


def test_a_method_that_a_cell_lacks_is_not_told_over_all():
    less = {key: gain for key, gain in GAINS.items() if key[0] != "mst"}
    gains = make_gains(make_comparison(GAINS), make_comparison(less))
    rows = gains[gains["method"] == "mst"]
    assert set(rows["cell"]) == {"set0, audio", "set0, image"}
    with pytest.raises(ValueError, match=r"'mst' cannot be held.*In every cell are dml, none"):
        decide_on(gains, decide(), "accuracy", 0.95)


def test_an_unknown_opponent_is_named_beside_the_nearest():
    with pytest.raises(ValueError, match=r"unknown decide.opponents 'dmm'.*did you mean 'dml'"):
        make_gains(make_comparison(GAINS), opponents=("none", "dmm"))


def test_above_all_opponents_and_below_the_floor_nowhere_is_adopted():
    gains = make_gains(make_comparison(GAINS), make_comparison(GAINS))
    found = decide_on(gains, decide(), "accuracy", 0.95)
    assert found["adopted"] == "mst"
    assert found["sentences"][-1] == "`mst` may become the default."
    verdict = found["candidates"]["mst"]
    # There is one candidate, and its hardest opponent counts.
    assert verdict["p_corrected"] == max(row["p"] for row in verdict["against"].values())
    assert "measurably above every opponent (`none`, `dml`)" in found["sentences"][0]


def test_a_candidate_s_likelihood_is_told_where_it_is_measurably_worse():
    tables = [make_comparison(GAINS) for _ in range(2)]
    sentences = decide_on(make_gains(*tables), decide(), "accuracy", 0.95)["sentences"]
    assert not any("likelihood" in sentence for sentence in sentences)
    for table in tables:
        table.loc[table["method"] == "mst", "nll"] += 0.3
    sentences = decide_on(make_gains(*tables), decide(), "accuracy", 0.95)["sentences"]
    (told,) = [sentence for sentence in sentences if "likelihood" in sentence]
    # NLL was 1 - accuracy, of which `mst` has 0.05 more but for the noise.
    assert told.startswith("The likelihood of `mst` is measurably worse than that of `none`: NLL ")
    assert float(told.split("NLL ")[1].split()[0]) == pytest.approx(0.25, abs=0.005)


def test_harm_in_one_cell_forbids_it():
    harmed = {**GAINS, ("mst", ""): -0.02}
    better = {**GAINS, ("mst", ""): 0.2}
    gains = make_gains(make_comparison(better), make_comparison(harmed))
    found = decide_on(gains, decide(), "accuracy", 0.95)
    verdict = found["candidates"]["mst"]
    assert verdict["p_corrected"] < 0.05
    assert verdict["harmed"] == ["set1, audio", "set1, image"]
    assert found["adopted"] == ""
    assert found["sentences"][-1] == "The default stays."


def test_who_does_not_beat_every_opponent_is_not_adopted():
    gains = make_gains(make_comparison({**GAINS, ("mst", ""): 0.018}))
    found = decide_on(gains, decide(), "accuracy", 0.95)
    assert found["candidates"]["mst"]["p_corrected"] > 0.05
    assert "is measurably above `none`; against" in found["sentences"][0]
    assert found["adopted"] == ""


def test_p_values_are_corrected_for_the_candidates():
    several = {**GAINS, ("plain", ""): 0.04}
    del several["dml", "a"]
    gains = make_gains(make_comparison(several))
    found = decide_on(gains, decide(("mst", "plain")), "accuracy", 0.95)
    verdicts = [found["candidates"][name] for name in ("mst", "plain")]
    raw = [max(row["p"] for row in verdict["against"].values()) for verdict in verdicts]
    smaller, larger = sorted(raw)
    corrected = sorted(verdict["p_corrected"] for verdict in verdicts)
    assert corrected == pytest.approx([2 * smaller, max(2 * smaller, larger)])
    assert found["adopted"] == "mst"


def test_a_floor_that_is_no_opponent_is_refused():
    with pytest.raises(ValueError, match=r"unknown decide.floor 'non'.*did you mean 'none'"):
        Contrasts(candidates=("mst",), opponents=OPPONENTS, floor="non")
    with pytest.raises(ValueError, match=r"'dml' is a candidate and an opponent"):
        Contrasts(candidates=("mst", "dml"), opponents=OPPONENTS, floor="none")


def test_the_page_has_every_table_and_the_figure_every_method():
    comparisons = {"x/heldout-all": make_comparison(GAINS)}
    trials = gather(comparisons, "accuracy")
    gains = gain_table(trials, OPPONENTS, 0.95)
    pairs = pair_table(trials, {"all or one": [("mst", "dml")]}, 0.95)
    page = decision_page(decide_on(gains, decide(), "accuracy", 0.95), trials, gains, pairs)
    lines = page.splitlines()
    assert lines[0] == "# 2 cells, 6 seeds"
    point = 100 * (0.05 + np.mean([NOISE[3] - NOISE[0], NOISE[7] - NOISE[4]]))
    assert any(line.startswith(f"| mst | {point:+.2f} | ") for line in lines)
    against = next(line for line in lines if line.startswith("| mst | none | 6 |"))
    # The losses of these trials are one minus their accuracies, so they are as sure as the points.
    assert against.split(" | ")[3] == f"{point:+.2f}"
    assert against.endswith(f"| <.001 | {-point / 100:+.3f} | <.001 | +0.0 |")
    audio = 100 * (0.05 + np.mean(NOISE[3] - NOISE[0]))
    assert any(line.startswith(f"| mst | **{audio:+.2f}** | ") for line in lines)
    assert "## Calibration error, %" in lines
    row = next(line for line in lines if line.startswith("| all or one | `mst` − `dml` |"))
    over = gains[(gains["cell"] == ALL) & (gains["against"] == "dml") & (gains["method"] == "mst")]
    points = numbers(over["difference"], 100, "+.2f")
    assert row.split(" | ")[2] == points[0]
    assert row.split(" | ")[6] == points[1]  # by cross-entropy
    axes = gains_figure(gains, "accuracy", "none").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dml", "mst"]


def test_pairs_are_held_against_each_other_over_all_cells():
    tables = {"x/heldout-all": make_comparison(GAINS), "y/heldout-all": make_comparison(GAINS)}
    trials = gather(tables, "accuracy")
    pairs = {"taught": [("mst", "none"), ("dml", "none")], "who": [("mst", "dml")]}
    table = pair_table(trials, pairs, 0.95)
    assert table["question"].tolist() == ["taught"] * 4 + ["who"] * 2
    own = table[table["rule"] == "accuracy"]
    per_seed = 0.05 + np.mean([NOISE[3] - NOISE[0], NOISE[7] - NOISE[4]], axis=0)
    test = stats.ttest_1samp(per_seed, 0)
    first = own.iloc[0]
    assert first["difference"] == pytest.approx(per_seed.mean())
    assert first["p"] == pytest.approx(test.pvalue)
    assert first["nll"] == pytest.approx(-per_seed.mean())
    assert first["nll_p"] == pytest.approx(test.pvalue)
    assert own["p_corrected"].min() == pytest.approx(3 * own["p"].min())
    with pytest.raises(ValueError, match=r"unknown method in decide.pairs 'mts'.*mean 'mst'"):
        pair_table(trials, {"typo": [("mts", "none")]}, 0.95)


@pytest.mark.parametrize("lacked", [{"mst"}, {"mst", "dml"}])
def test_a_pair_that_a_cell_lacks_is_refused(lacked):
    less = {key: gain for key, gain in GAINS.items() if key[0] not in lacked}
    tables = {"x/heldout-all": make_comparison(GAINS), "y/heldout-all": make_comparison(less)}
    with pytest.raises(ValueError, match=r"mst and dml, of decide.pairs, share no full set of"):
        pair_table(gather(tables, "accuracy"), {"who": [("mst", "dml")]}, 0.95)


def test_without_candidates_and_pairs_there_is_nothing_to_decide():
    trials = gather({"x/heldout-all": make_comparison(GAINS)}, "accuracy")
    gains = gain_table(trials, OPPONENTS, 0.95)
    found = decide_on(gains, decide(()), "accuracy", 0.95)
    assert found["adopted"] == ""
    assert found["sentences"] == []
    page = decision_page(found, trials, gains, pair_table(trials, {}, 0.95))
    assert "Candidates" not in page
    assert "single changes" not in page
