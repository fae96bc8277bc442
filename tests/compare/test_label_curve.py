"""The trials for each share of labels, and their curve."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from mst_distill.compare.label_curve import label_curve_table, run_label_curve
from mst_distill.compare.plots import label_curve_figure
from mst_distill.compare.trial_store import TrialLog
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
