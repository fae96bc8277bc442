"""The table of paths: against pandas, and against the paired difference of evaluate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from mst_distill.datasets.rules import check_paths
from mst_distill.diagnose.path_effects import ALL, path_table, path_title
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.verdict import paired_difference
from projects import ROOT
from toy_diagnoses import outcomes_of

RNG = np.random.default_rng(0)
BOOTSTRAP = Bootstrap(2000, 0.9, 1)
LABELS = RNG.integers(3, size=200)
RIGHT = {
    "control": (RNG.random(200) < 0.5).astype(int),
    path_title("b"): (RNG.random(200) < 0.8).astype(int),
    "somebody else": np.zeros(200),
    path_title("a/x"): (RNG.random(200) < 0.4).astype(int),
}
CLASSES = ["zero", "one", "two", "never"]


@pytest.fixture(scope="module")
def table():
    outcomes = outcomes_of(RIGHT, labels=LABELS)
    return path_table(outcomes, "control", CLASSES, BOOTSTRAP)


def test_a_row_a_source_and_class_all_first_in_the_order_of_the_sources(table):
    check_paths(table)
    assert table[["source", "class"]].to_numpy().tolist() == [
        [source, name] for source in ("b", "a/x") for name in (ALL, *CLASSES)
    ]


def test_a_class_without_a_held_out_sample_is_there_with_none(table, tmp_path):
    never = table[table["class"] == "never"]
    assert never["samples"].tolist() == [0, 0]
    figures = ["accuracy", "control", "points", "low", "high"]
    assert never[figures].isna().all(axis=None)
    entry = yaml.safe_load((ROOT / "conf/base/catalog.yml").read_text())["paths"]
    table.to_csv(tmp_path / "paths.csv", index=False)
    back = pd.read_csv(tmp_path / "paths.csv", **entry["load_args"])
    check_paths(back)
    pd.testing.assert_frame_equal(back, table)


def test_a_sample_that_is_not_judged_counts_in_no_class():
    outcomes = outcomes_of({"control": [0, 0], path_title("b"): [1, 0]}, [0, 1], [1, 0])
    table = path_table(outcomes, "control", ("zero", "ignored"), BOOTSTRAP)
    assert table["samples"].tolist() == [2, 1, 0]
    check_paths(table)


def test_a_class_of_one_sample_has_no_interval():
    """The path's student is right about it and the control is not, in whatever is drawn of one."""
    outcomes = outcomes_of({"control": [0, 1, 0], path_title("b"): [1, 1, 0]}, [0, 1, 1])
    table = path_table(outcomes, "control", ("lone", "pair"), BOOTSTRAP).set_index("class")
    check_paths(table.reset_index())
    assert table["points"].to_dict() == pytest.approx({ALL: 100 / 3, "lone": 100, "pair": 0})
    # Of the pair both students say the same about either sample.
    assert table["low"].isna().to_dict() == {ALL: False, "lone": True, "pair": True}
    assert table["high"].isna().to_dict() == {ALL: False, "lone": True, "pair": True}


def test_figures_are_counted_by_class(table):
    right = pd.DataFrame(RIGHT).assign(label=LABELS)
    for row in table[table["samples"] > 0].itertuples():
        here = right
        if row[2] != ALL:
            here = right[right["label"] == CLASSES.index(row[2])]
        assert row.samples == len(here)
        assert row.accuracy == pytest.approx(here[path_title(row.source)].mean())
        assert row.control == pytest.approx(here["control"].mean())
        assert row.points == pytest.approx(100 * (row.accuracy - row.control))
        assert row.low <= row.points <= row.high


def test_the_interval_is_that_of_the_paired_difference(table):
    predictions = pd.concat(
        pd.DataFrame(
            {"id": range(200), "model": model, "correct": RIGHT[model].astype(int), "judged": 1}
        )
        for model in ("control", path_title("b"))
    )
    expected = paired_difference(predictions, path_title("b"), "control", BOOTSTRAP)
    found = table.iloc[0]
    assert found["low"] == pytest.approx(100 * expected["low"])
    assert found["high"] == pytest.approx(100 * expected["high"])


def test_of_dense_labels_there_is_all_and_no_class():
    outcomes = outcomes_of({"control": [5, 9], path_title("b"): [7, 30]}, [-1, -1], [10, 40])
    table = path_table(outcomes, "control", (), BOOTSTRAP)
    assert table["class"].tolist() == [ALL]
    assert table["points"].tolist() == pytest.approx([100 * (37 - 14) / 50])
