"""The table of paths, against pandas and against the paired difference of `evaluate`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from mst_distill.datasets.validators import check_paths
from mst_distill.diagnose.path_effects import ALL, path_table, path_title
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.verdict import paired_difference
from projects import ROOT
from toy_diagnoses import matrix_of

RNG = np.random.default_rng(0)
BOOTSTRAP = Bootstrap(2000, 0.9, 1)
LABELS = RNG.integers(3, size=200)
RIGHT = {
    "baseline": (RNG.random(200) < 0.5).astype(int),
    path_title("b"): (RNG.random(200) < 0.8).astype(int),
    "another model": np.zeros(200),
    path_title("a/x"): (RNG.random(200) < 0.4).astype(int),
}
CLASSES = ["zero", "one", "two", "never"]


@pytest.fixture(scope="module")
def table():
    matrix = matrix_of(RIGHT, labels=LABELS)
    return path_table(matrix, "baseline", CLASSES, BOOTSTRAP)


def test_rows_are_in_the_order_of_sources_then_classes_with_all_first(table):
    check_paths(table)
    assert table[["source", "class"]].to_numpy().tolist() == [
        [source, name] for source in ("b", "a/x") for name in (ALL, *CLASSES)
    ]


def test_a_class_without_held_out_samples_has_a_row_of_nan(table, tmp_path):
    never = table[table["class"] == "never"]
    assert never["samples"].tolist() == [0, 0]
    metrics = ["accuracy", "baseline", "points", "low", "high"]
    assert never[metrics].isna().all(axis=None)
    entry = yaml.safe_load((ROOT / "conf/base/catalog.yml").read_text())["paths"]
    table.to_csv(tmp_path / "paths.csv", index=False)
    read = pd.read_csv(tmp_path / "paths.csv", **entry["load_args"])
    check_paths(read)
    pd.testing.assert_frame_equal(read, table)


def test_a_sample_without_a_target_counts_in_no_class():
    matrix = matrix_of({"baseline": [0, 0], path_title("b"): [1, 0]}, [0, 1], [1, 0])
    table = path_table(matrix, "baseline", ("zero", "ignored"), BOOTSTRAP)
    assert table["samples"].tolist() == [2, 1, 0]
    check_paths(table)


def test_a_class_of_one_sample_has_no_interval():
    """All resamples of one sample are equal, here with the path correct and the baseline wrong."""
    matrix = matrix_of({"baseline": [0, 1, 0], path_title("b"): [1, 1, 0]}, [0, 1, 1])
    table = path_table(matrix, "baseline", ("lone", "pair"), BOOTSTRAP).set_index("class")
    check_paths(table.reset_index())
    assert table["points"].to_dict() == pytest.approx({ALL: 100 / 3, "lone": 100, "pair": 0})
    # On the pair, path and baseline are correct on the same samples.
    assert table["low"].isna().to_dict() == {ALL: False, "lone": True, "pair": True}
    assert table["high"].isna().to_dict() == {ALL: False, "lone": True, "pair": True}


def test_metrics_are_those_of_pandas_by_class(table):
    right = pd.DataFrame(RIGHT).assign(label=LABELS)
    for row in table[table["samples"] > 0].itertuples():
        of_class = right
        if row[2] != ALL:
            of_class = right[right["label"] == CLASSES.index(row[2])]
        assert row.samples == len(of_class)
        assert row.accuracy == pytest.approx(of_class[path_title(row.source)].mean())
        assert row.baseline == pytest.approx(of_class["baseline"].mean())
        assert row.points == pytest.approx(100 * (row.accuracy - row.baseline))
        assert row.low <= row.points <= row.high


def test_the_interval_equals_that_of_the_paired_difference(table):
    predictions = pd.concat(
        pd.DataFrame(
            {
                "id": range(200),
                "group": range(200),
                "model": model,
                "correct": RIGHT[model].astype(int),
                "labelled": 1,
            }
        )
        for model in ("baseline", path_title("b"))
    )
    expected = paired_difference(predictions, path_title("b"), "baseline", BOOTSTRAP)
    found = table.iloc[0]
    assert found["low"] == pytest.approx(100 * expected["low"])
    assert found["high"] == pytest.approx(100 * expected["high"])


def test_with_dense_labels_there_is_only_the_row_of_all():
    matrix = matrix_of({"baseline": [5, 9], path_title("b"): [7, 30]}, [-1, -1], [10, 40])
    table = path_table(matrix, "baseline", (), BOOTSTRAP)
    assert table["class"].tolist() == [ALL]
    assert table["points"].tolist() == pytest.approx([100 * (37 - 14) / 50])
