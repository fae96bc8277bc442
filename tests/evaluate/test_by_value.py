"""Metrics by the values of a column, against sums by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mst_distill.data.samples import check_columns
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.by_value import metrics_by_value, sentences_by_value
from mst_distill.metric import metric_of
from mst_distill.report.tables import value_tables
from toy_reports import results_of

BOOTSTRAP = Bootstrap(2000, 0.95, 0)


def make_run(counts: dict[str, int], seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions of student and baseline, and an index of as many test samples by actor."""
    rng = np.random.default_rng(seed)
    actors = np.repeat(list(counts), list(counts.values()))
    ids = np.array([f"s{row}" for row in range(len(actors))])
    index = pd.DataFrame({"id": ids, "actor": actors, "half": np.arange(len(ids)) % 2})
    tables = [
        pd.DataFrame(
            {
                "id": ids,
                "group": ids,
                "model": model,
                "correct": (rng.random(len(ids)) < share).astype(int),
                "labelled": 1,
            }
        )
        for model, share in (("student", 0.7), ("baseline", 0.5), ("audio teacher", 0.9))
    ]
    # The store is in another order, and has samples of other splits.
    more = pd.DataFrame({"id": ["t0"], "actor": ["other"], "half": [0]})
    return pd.concat(tables), pd.concat([more, index.sample(frac=1, random_state=0)])


def test_each_value_has_the_metrics_of_its_samples() -> None:
    predictions, index = make_run({"ann": 40, "bob": 60})
    found = metrics_by_value(predictions, index, ["actor", "half"], BOOTSTRAP)
    assert {column: list(values) for column, values in found.items()} == {
        "actor": ["ann", "bob"],
        "half": ["0", "1"],
    }
    wide = predictions.pivot_table("correct", "id", "model")
    of_bob = wide.loc[index.loc[index["actor"] == "bob", "id"]]
    bob = found["actor"]["bob"]
    assert bob["samples"] == 60
    assert bob["accuracy"] == of_bob["student"].mean()
    assert bob["baseline"] == of_bob["baseline"].mean()
    gain = (of_bob["student"] - of_bob["baseline"]).to_numpy()
    assert bob["difference"] == pytest.approx(gain.mean())
    draws = np.random.default_rng(9).choice(gain, (4000, 60)).mean(axis=1)
    assert [bob["low"], bob["high"]] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)


def test_the_groups_of_a_value_are_resampled_if_there_are_enough() -> None:
    predictions, index = make_run({"ann": 80, "bob": 80})
    rows = predictions["id"].str[1:].astype(int)
    # Ann's samples are of eight groups, in each of which all are alike; those of Bob are of one.
    ann = rows < 80
    for model, sign in (("student", 0), ("baseline", 1)):
        alike = ann & (predictions["model"] == model)
        predictions.loc[alike, "correct"] = ((rows[alike] // 10) % 2 == sign).astype(int)
    predictions["group"] = np.where(ann, "g" + (rows // 10).astype(str), "bob")
    found = metrics_by_value(predictions, index, ["actor"], BOOTSTRAP)["actor"]
    assert found["ann"]["high"] - found["ann"]["low"] > 1  # of eight groups with +1 or -1
    plain = predictions.assign(group=predictions["id"])
    single = metrics_by_value(plain, index, ["actor"], BOOTSTRAP)["actor"]
    assert found["bob"] == single["bob"]
    assert single["ann"]["high"] - single["ann"]["low"] < 0.5


def test_values_with_few_samples_are_named_and_not_compared() -> None:
    predictions, index = make_run({"ann": 29, "bob": 30, "cid": 50, "dan": 3})
    found = metrics_by_value(predictions, index, ["actor"], BOOTSTRAP)
    assert [of["enough"] for of in found["actor"].values()] == [False, True, True, False]
    found["actor"]["cid"]["accuracy"] = 0.2
    found["actor"]["ann"]["accuracy"] = 0.1
    worst, few = sentences_by_value(found)
    assert "cid has the lowest accuracy: 20.0% of 50 samples" in worst
    assert few.endswith("for the values of 'actor': ann, dan.")


def test_the_table_of_a_report_has_a_row_for_each_value() -> None:
    predictions, index = make_run({"ann": 40, "bob": 5})
    results = results_of([[3, 1], [1, 3]], 0.9)
    assert value_tables(results) == {}
    results.metrics["by"] = metrics_by_value(predictions, index, ["actor"], BOOTSTRAP)
    table = value_tables(results)["actor"]
    ann = results.metrics["by"]["actor"]["ann"]
    assert table["actor"].tolist() == ["ann", "bob"]
    assert table.iloc[0, 2] == f"{100 * ann['accuracy']:.1f}"
    assert table.iloc[0, 4].startswith(f"{100 * ann['difference']:+.1f} (")
    assert table.iloc[1, 4] == "too few samples"


def test_a_column_must_exist_and_have_few_values() -> None:
    _, index = make_run({"ann": 40, "bob": 60})
    with pytest.raises(ValueError, match=r"column in evaluate\.by 'actr'.*did you mean 'actor'"):
        check_columns(index, ["half", "actr"])
    with pytest.raises(ValueError, match=r"the column 'id', which has 101 values; at most 50"):
        check_columns(index, ["id"])
    check_columns(index, [])


def test_each_value_has_the_metric_that_decides() -> None:
    predictions, index = make_run({"ann": 40, "bob": 60, "cid": 35})
    metric = metric_of("auroc")
    rng = np.random.default_rng(5)
    ids = index.set_index("id").loc[predictions["id"], "actor"].to_numpy()
    labels = np.where(ids == "cid", 1, np.arange(len(ids)) % 135 % 2)  # cid has one class
    scores = rng.random(len(ids)) + 0.5 * labels * (predictions["model"] == "student").to_numpy()
    terms = np.column_stack([1 - scores, scores, labels])
    found = metrics_by_value(
        predictions.assign(metric_terms=list(terms)), index, ["actor"], BOOTSTRAP, metric
    )["actor"]
    for name in ("ann", "bob"):
        of = (ids == name) & (predictions["model"] == "student").to_numpy()
        expected = roc_auc_score(labels[of], scores[of])
        assert found[name]["auroc"] == pytest.approx(expected)
        assert found[name]["low"] < found[name]["difference"] < found[name]["high"]
    assert np.isnan(found["cid"]["auroc"])
    assert not found["cid"]["enough"]
    first, second = sentences_by_value({"actor": found}, metric)
    worst = min(("ann", "bob"), key=lambda name: found[name]["auroc"])
    assert f"{worst} has the lowest AUROC: {found[worst]['auroc']:.1%}" in first
    assert second == (
        "Too few test samples to tell anything, fewer than 30 or without a defined AUROC, for the "
        "values of 'actor': cid."
    )
