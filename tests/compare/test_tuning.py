"""Settings are chosen by validation, on seeds that are not reported, without any test sample."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mst_distill.artifacts.provenance import read_sidecar
from mst_distill.compare.comparison import Comparison
from mst_distill.compare.ranking import difference_table, rank, report_on
from mst_distill.compare.ranking_page import ranking_page
from mst_distill.compare.trial_store import TrialLog
from mst_distill.compare.trials import chosen_settings, run_trials
from mst_distill.compare.tuning import COLUMNS, choose_settings
from mst_distill.data.samples import rows_of
from mst_distill.metric import metric_of
from toy_comparisons import METHODS, make_comparison_plan
from toy_runs import make_run, route, vary

KD = METHODS["kd"]["type"]
SETTINGS = {
    "baseline": METHODS["baseline"],
    "kd": {"type": KD, "settings": [{"weight": 0.99}, {"weight": 0.1, "temperature": 1}]},
}


def make_comparison(folder: Path, **changes: Any) -> Comparison:
    run, _ = make_run()
    terms = {"seeds": 1, "targets": "image", "tuning_seeds": 2, **changes}
    return Comparison(
        run.samples, make_comparison_plan(methods=SETTINGS, **terms), TrialLog(folder)
    )


def test_each_title_chooses_the_setting_of_the_best_mean_validation_accuracy(
    tmp_path: Path,
) -> None:
    comparison = make_comparison(tmp_path)
    table = choose_settings(comparison)
    assert list(table) == list(COLUMNS)
    assert table.groupby("title", sort=False)["setting"].apply(list).to_dict() == {
        "baseline": [0],
        "kd <- multimodal": [0, 1, 2],
        "kd <- audio": [0, 1, 2],
    }
    assert (table[table["method"] == "kd"]["seeds"] == 2).all()
    for title, rows in table.groupby("title"):
        assert rows["chosen"].sum() == 1
        if title != "baseline":
            scores = list(zip(rows["valid_accuracy"].round(9), -rows["valid_ce"], strict=True))
            assert scores.index(max(scores)) == rows["chosen"].to_list().index(True)
    # The scores are those of the epochs that the criterion selects, over both seeds.
    found = []
    for seed in (1000, 1001):
        path = tmp_path / f"image/seed-{seed}/setting-1/kd-audio.result.json"
        found.append(json.loads(path.read_text())["metrics"]["accuracy"])
        assert not path.with_name("kd-audio.safetensors").exists()
    row = table[(table["title"] == "kd <- audio") & (table["setting"] == 1)].iloc[0]
    for name in ("valid_accuracy", "valid_ce"):
        assert row[name] == pytest.approx(np.mean([of[name] for of in found]))


def test_the_trials_have_the_chosen_arguments(tmp_path: Path) -> None:
    comparison = make_comparison(tmp_path)
    table = choose_settings(comparison)
    forced = table.assign(
        chosen=table["setting"] == table.groupby("title")["setting"].transform("max")
    )
    assert chosen_settings(forced)["image", "kd <- audio"] == 2
    first = run_trials(comparison).set_index(["title", "selection"])
    trials = run_trials(comparison, forced).set_index(["title", "selection"])
    origin = read_sidecar(tmp_path / "image/seed-0/kd-audio.result.json").origin
    assert origin.parameters["method"] == {
        "type": KD,
        "arguments": {"weight": 0.1, "temperature": 1},
    }
    assert trials.loc[("kd <- audio", "last"), "nll"] != first.loc[("kd <- audio", "last"), "nll"]
    assert trials.loc[("baseline", "last"), "nll"] == first.loc[("baseline", "last"), "nll"]
    assert trials["valid_accuracy"].notna().all()


def test_no_test_sample_has_a_part_in_the_choice(tmp_path: Path) -> None:
    tables = []
    for name in ("plain", "poisoned"):
        comparison = make_comparison(tmp_path / name)
        run, _ = make_run()
        rows = rows_of(run.splits, "test")
        if name == "poisoned":  # any use of these gives a loss that is not finite, or an error
            for values in comparison.samples.modalities.values():
                values[rows] = np.nan
        tables.append(choose_settings(comparison))
    assert tables[0].equals(tables[1])
    for result in (tmp_path / "plain").rglob("setting-*/*.result.json"):
        for metrics in json.loads(result.read_text())["metrics"].values():
            assert all(metric.startswith("valid_") for metric in metrics)


def test_without_tuning_every_method_has_its_first_setting(tmp_path: Path) -> None:
    table = choose_settings(make_comparison(tmp_path, tuning_seeds=0))
    assert table["setting"].tolist() == [0, 0, 0]
    assert table["chosen"].all()
    assert not any(tmp_path.iterdir())


def test_if_every_setting_fails_the_first_is_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing = {"kd": {"type": KD, "arguments": {"weight": 8}, "settings": [{"weight": 7}]}}
    run, _ = make_run()
    plan = make_comparison_plan(methods=failing, seeds=1, targets="image", tuning_seeds=1)
    table = choose_settings(Comparison(run.samples, plan, TrialLog(tmp_path)))
    assert table["chosen"].tolist() == [True, False] * 2
    warning = (
        "kd <- audio (image): every setting failed on some seed, so that the first one is used"
    )
    assert warning in caplog.messages


def test_a_setting_that_fails_is_not_chosen(tmp_path: Path) -> None:
    failing = {"kd": {"type": KD, "settings": [{"weight": 7}]}}
    run, _ = make_run()
    plan = make_comparison_plan(methods=failing, seeds=1, targets="image", tuning_seeds=1)
    table = choose_settings(Comparison(run.samples, plan, TrialLog(tmp_path)))
    assert table["chosen"].tolist() == [True, False] * 2
    assert table["seeds"].tolist() == [1, 0] * 2


def test_tuning_on_reported_seeds_or_on_their_test_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seed 2 would be reported and used.*tuning_seed to 3"):
        choose_settings(make_comparison(tmp_path, seeds=3, first_tuning_seed=2))
    comparison = make_comparison(tmp_path)
    plan = comparison.plan.model_copy(update={"protocol": "random"})
    with pytest.raises(ValueError, match="with protocol=random, the seeds of tuning validate"):
        choose_settings(replace(comparison, plan=plan))


@pytest.mark.parametrize(("key", "value"), [("learning_rate", 0.02), ("batch_size", 16)])
def test_stages_with_different_terms_are_an_error(tmp_path: Path, key: str, value: float) -> None:
    comparison = make_comparison(tmp_path)
    plan = vary(comparison.plan, route={key: value})
    first = getattr(route(), key)
    message = rf"teachers\.{key} is {first} and route\.{key} is {value}: MST-Distill would be"
    with pytest.raises(ValueError, match=message):
        run_trials(replace(comparison, plan=plan))


def test_another_metric_chooses_settings_selects_epochs_and_orders_methods(tmp_path: Path) -> None:
    comparison = make_comparison(tmp_path, seeds=3, tuning_seeds=1)
    comparison = replace(comparison, plan=vary(comparison.plan, evaluate={"metric": "auroc"}))
    table = choose_settings(comparison)
    assert list(table)[6] == "valid_auroc"
    for _, rows in table[table["method"] == "kd"].groupby("title"):
        scores = list(zip(rows["valid_auroc"].round(9), -rows["valid_ce"], strict=True))
        assert scores.index(max(scores)) == rows["chosen"].to_list().index(True)
    trials = run_trials(comparison, table)
    assert list(trials["selection"].unique()) == ["auroc", "ce", "last"]
    metric = metric_of("auroc")
    ranking = rank(trials, "auroc", metric)
    means = trials[trials["selection"] == "auroc"].groupby("title")["auroc"].mean()
    assert means[ranking["title"]].is_monotonic_decreasing
    rows = difference_table(trials, "baseline", "auroc", 0.95, metric=metric)
    row = rows[(rows["against"] == "baseline") & (rows["selection"] == "auroc")].iloc[0]
    assert row["difference"] == pytest.approx(means[row["title"]] - means["baseline"])
    report = report_on(trials, ranking, rows, comparison.plan.compare, "auroc", 0.95, table, metric)
    (first, *_) = report["verdicts"]["image"]
    best = ranking["title"].iloc[0]
    assert first == f"Best mean AUROC: {best} with {100 * means[best]:.2f} %."
    page = ranking_page(report, ranking, rows)
    assert "| AUROC, % (selected by auroc) | accuracy, % |" in page
    assert "| validation AUROC, % | of the first setting, % |" in page


def test_trials_of_another_metric_are_trained_anew(tmp_path: Path) -> None:
    comparison = make_comparison(tmp_path, tuning_seeds=0)
    run_trials(comparison)
    path = tmp_path / "image/seed-0/baseline.result.json"
    before = read_sidecar(path).origin.parameters
    run_trials(replace(comparison, plan=vary(comparison.plan, evaluate={"metric": "macro_f1"})))
    after = read_sidecar(path).origin.parameters
    assert "metric" not in before
    assert after["metric"] == "macro_f1"
    assert set(json.loads(path.read_text())["metrics"]) == {"macro_f1", "ce", "last"}
