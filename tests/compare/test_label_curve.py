"""The trials for each share of labels, and their curve."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from mst_distill.compare.label_curve import (
    best_methods,
    label_counts,
    label_curve_gains,
    label_curve_table,
    pseudo_label_methods,
    run_label_curve,
)
from mst_distill.compare.plots import label_curve_figure
from mst_distill.compare.trial_store import TrialLog
from mst_distill.data.samples import ABSENT
from mst_distill.plan import Plan
from toy_comparisons import METHODS, make_comparison_plan
from toy_runs import make_run

SHARES = (0.2, 1.0)


def make_curve_plan(methods: str = "baseline kd") -> Plan:
    plan = make_comparison_plan(methods=METHODS, seeds=2, targets="image")
    curve = type(plan.label_curve)(shares=SHARES, methods=methods)
    return plan.model_copy(update={"label_curve": curve})


def test_each_share_has_its_trials_and_a_second_call_trains_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples, plan = make_run()[0].samples, make_curve_plan()
    trials = run_label_curve(samples, plan, TrialLog(tmp_path))
    assert trials.groupby("labelled")["title"].nunique().to_dict() == dict.fromkeys(SHARES, 3)
    assert set(trials["seed"]) == {0, 1}
    assert (trials["error"] == "").all()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.result.json")}
    students = [path for path in files if "/image/" in str(path)]
    assert len(students) == 2 * 2 * 3
    again = run_label_curve(samples, plan, TrialLog(tmp_path))
    pd.testing.assert_frame_equal(trials, again)
    assert files == {path: path.stat().st_mtime_ns for path in files}
    few, every = (
        json.loads((tmp_path / f"labelled-{share:g}/image/seed-0/baseline.result.json").read_text())
        for share in SHARES
    )
    assert few["metrics"]["last"] != every["metrics"]["last"]


def test_an_unknown_method_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"method in label_curve.methods 'kdd'.*mean 'kd'"):
        run_label_curve(make_run()[0].samples, make_curve_plan("kdd"), TrialLog(tmp_path))


def trials_of(accuracies: dict[tuple[str, float], list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "target": "image",
                "title": title,
                "method": title.split(" ")[0],
                "labelled": share,
                "seed": seed,
                "selection": selection,
                "error": "",
                "accuracy": accuracy if selection == "accuracy" else 0.0,
            }
            for (title, share), values in accuracies.items()
            for seed, accuracy in enumerate(values)
            for selection in ("accuracy", "ce")
        ]
    )


def test_a_share_that_cannot_be_evaluated_is_an_error_before_the_first_trial_of_any(
    tmp_path: Path,
) -> None:
    # With hidden labels, no training sample of a class needs to have all modalities.
    samples = make_run()[0].samples
    first = (samples.index["split"] == "train") & (samples.index["label"] == 0)
    index = samples.index.assign(**{ABSENT: np.where(first, "audio", "")})
    incomplete = dataclasses.replace(samples, index=index)
    with pytest.raises(ValueError, match="of the samples that have the modality 'audio'"):
        run_label_curve(incomplete, make_curve_plan(), TrialLog(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_curve_has_means_and_students_intervals() -> None:
    trials = trials_of({("kd", 0.1): [0.5, 0.6, 0.7], ("kd", 1.0): [0.8, 0.9]})
    failed = trials.iloc[:1].assign(seed=9, error="broke", accuracy=np.nan)
    curve = label_curve_table(pd.concat([trials, failed]), "accuracy", 0.95)
    assert curve["seeds"].tolist() == [3, 2]
    assert curve["accuracy"].tolist() == pytest.approx([0.6, 0.85])
    half = t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert curve.loc[0, ["low", "high"]].tolist() == pytest.approx([0.6 - half, 0.6 + half])
    assert curve.loc[1, ["low", "high"]].isna().all()


def test_the_figure_has_a_line_for_each_method_and_the_shares_as_ticks() -> None:
    trials = trials_of({("kd", 0.1): [0.5, 0.6, 0.7], ("kd", 1.0): [0.8, 0.9], ("dml", 1.0): [0.7]})
    figure = label_curve_figure(label_curve_table(trials, "accuracy", 0.95))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["kd", "dml"]
    assert axes.get_xticks().tolist() == [10, 100]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([60, 85])


FEW = {
    ("baseline", 0.1): [0.50, 0.60, 0.55],
    ("kd <- audio", 0.1): [0.53, 0.64, 0.60],
    ("pseudo_labels <- audio", 0.1): [0.51, 0.61, 0.56],
    ("self_training", 0.1): [0.53, 0.62, 0.59],
    ("baseline", 1.0): [0.8, 0.8],
    ("kd <- audio", 1.0): [0.9, 0.8],
}


def test_gains_are_paired_by_seed_within_target_and_share() -> None:
    image = trials_of(FEW)
    # In another order of the seeds, and with a seed that only one of the two has.
    audio = trials_of({("baseline", 0.1): [0.1, 0.2, 0.3], ("kd", 0.1): [0.2, 0.4, 0.6, 0.99]})
    shuffled = pd.concat([image, audio.assign(target="audio")]).sample(frac=1, random_state=0)
    gains = label_curve_gains(shuffled, "accuracy", 0.95, "baseline")
    gains = gains.set_index(["target", "labelled", "title"])
    assert len(gains) == 5
    # 3, 4 and 5 points: mean 4, standard deviation 1, and t of two degrees of freedom is 4.3027.
    kd = gains.loc[("image", 0.1, "kd <- audio")]
    half = 0.01 * 4.302653 / np.sqrt(3)
    assert kd["pairs"] == 3
    assert kd[["difference", "low", "high"]].tolist() == pytest.approx(
        [0.04, 0.04 - half, 0.04 + half]
    )
    # 10 and 0 points: two seeds have no interval.
    every = gains.loc[("image", 1.0, "kd <- audio")]
    assert every[["pairs", "difference"]].tolist() == pytest.approx([2, 0.05])
    assert every[["low", "high"]].isna().all()
    # 10, 20 and 30 points.
    other = gains.loc[("audio", 0.1, "kd")]
    assert other[["pairs", "difference"]].tolist() == pytest.approx([3, 0.2])
    # 1 point for each seed: Student's t is not defined.
    assert gains.loc[("image", 0.1, "pseudo_labels <- audio"), ["low", "high"]].isna().all()


def test_without_common_seeds_or_a_baseline_there_is_no_gain() -> None:
    trials = trials_of({("baseline", 0.1): [0.5], ("kd", 0.1): [0.6, 0.7]})
    apart = trials[(trials["title"] == "baseline") | (trials["seed"] == 1)]
    (row,) = label_curve_gains(apart, "accuracy", 0.95, "baseline").to_dict(orient="records")
    assert row["pairs"] == 0
    assert np.isnan(row["difference"])
    assert label_curve_gains(trials, "accuracy", 0.95, None).empty
    assert label_curve_gains(trials, "accuracy", 0.95, "other").empty


def test_the_best_method_of_each_share_is_compared_with_baseline_and_pseudo_labels() -> None:
    names = {"pseudo_labels", "self_training"}
    (best,) = best_methods(trials_of(FEW), "accuracy", 0.95, "baseline", names)
    assert (best.target, best.share, best.title) == ("image", 0.1, "kd <- audio")
    assert best.value == pytest.approx(0.59)
    assert best.gain["difference"] == pytest.approx(0.04)
    # Of the two, self_training has the larger mean: 0, 2 and 1 points less than kd.
    assert best.pseudo_labels == "self_training"
    assert best.over_pseudo_labels["difference"] == pytest.approx(0.01)
    assert best.over_pseudo_labels["low"] == pytest.approx(0.01 - 0.01 * 4.302653 / np.sqrt(3))
    alone = trials_of({key: values for key, values in FEW.items() if key[0] != "kd <- audio"})
    (best,) = best_methods(alone, "accuracy", 0.95, "baseline", names)
    assert best.title == best.pseudo_labels == "self_training"
    assert best.over_pseudo_labels["pairs"] == 0
    (best,) = best_methods(trials_of(FEW), "accuracy", 0.95, None, ())
    assert best.pseudo_labels == ""
    assert best.gain["pairs"] == best.over_pseudo_labels["pairs"] == 0


def test_the_methods_with_pseudo_labels_alone_are_found_by_their_class() -> None:
    assert pseudo_label_methods(make_curve_plan().compare) == {"pseudo_labels", "self_training"}


def test_labels_are_counted_for_each_share() -> None:
    run, _ = make_run()
    counts = label_counts(run.samples, make_curve_plan())
    known = run.samples.index["split"].value_counts()
    assert counts["labelled"].tolist() == list(SHARES)
    for split in ("train", "valid"):
        few = max(round(0.2 * known[split]), len(run.samples.classes))
        assert counts[split].tolist() == [few, known[split]]
    plan = make_curve_plan().model_copy(update={"labelled_validation": 1.0})
    assert label_counts(run.samples, plan)["valid"].tolist() == [known["valid"]] * 2
