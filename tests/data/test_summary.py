"""The summary of the samples, compared with counts by hand on a store of eight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mst_distill.benchmarks.splits import assign_splits
from mst_distill.data.samples import Samples
from mst_distill.data.summary import LISTED, count_classes, describe

SPLIT = ["train", "train", "train", "train", "valid", "test", "test", "train"]
LABEL = [0, 2, 0, 2, 2, 0, 2, 0]
GROUP = ["ann", "ann", "bob", "bob", "eve", "joe", "joe", "bob"]


def store(**changes: Any) -> Samples:
    index = pd.DataFrame(
        {
            "id": [f"s{row}" for row in range(8)],
            "group": GROUP,
            "split": SPLIT,
            "label": LABEL,
            "seconds": [3.0, 1.0, 4.0, 0.0, 5.0, 9.0, 2.0, 0.0],
            "repaired": [0, 0, 0, 2, 0, 0, 0, 1],
        }
    )
    modalities = {"image": np.zeros((8, 3, 4, 5), np.float32), "text": np.zeros((8, 7), np.float32)}
    values = {
        "index": index,
        "modalities": modalities,
        "labels": index["label"].to_numpy(),
        "classes": ("zebra", "unseen", "ant"),
        "ignored_label": None,
        "digest": "0",
        "notes": ("seconds", "repaired"),
    }
    return Samples(**{**values, **changes})


def splits_of(samples: Samples) -> pd.DataFrame:
    return assign_splits(samples.index, "heldout", 0)


def test_classes_are_counted_by_split() -> None:
    table = count_classes(store(), splits_of(store())).set_index("class")
    assert list(table.columns) == ["train", "valid", "test", "all"]
    assert table.loc["zebra"].tolist() == [3, 0, 1, 4]
    assert table.loc["ant"].tolist() == [2, 1, 1, 4]
    assert table.loc["all"].tolist() == [5, 1, 2, 8]


def test_a_class_without_samples_is_a_row_of_zeros_in_class_order() -> None:
    table = count_classes(store(), splits_of(store())).set_index("class")
    assert table.index.tolist() == ["zebra", "unseen", "ant", "all"]
    assert table.loc["unseen"].tolist() == [0, 0, 0, 0]


def test_a_split_without_samples_is_a_column_of_zeros() -> None:
    splits = splits_of(store()).assign(split="train")
    table = count_classes(store(), splits).set_index("class")
    assert table.loc["all"].tolist() == [8, 0, 0, 8]


def test_dense_samples_are_counted_as_one_class() -> None:
    index = store().index.assign(label=-1)
    samples = store(index=index, labels=np.zeros((8, 2, 2), np.uint8))
    table = count_classes(samples, splits_of(samples)).set_index("class")
    assert table.index.tolist() == ["(dense)", "all"]
    assert table.loc["(dense)"].tolist() == [5, 1, 2, 8]


def test_the_report_has_samples_groups_and_shapes() -> None:
    report = describe(store(), splits_of(store()))
    assert report["samples"] == 8
    assert report["groups"] == 4
    assert report["splits"] == {"train": 5, "valid": 1, "test": 2}
    assert report["groups_by_split"] == {"train": 2, "valid": 1, "test": 1}
    assert {name: values["shape"] for name, values in report["modalities"].items()} == {
        "image": "3 x 4 x 5 float32",
        "text": "7 float32",
    }
    assert "sources" not in report
    assert "pixels" not in report


def test_classes_and_modalities_cause_warnings() -> None:
    rng = np.random.default_rng(0)
    sound = rng.integers(0, 200, (8, 9)).astype(np.float32)
    samples = store(modalities={"text": rng.random((8, 7), np.float32), "sound": sound})
    warnings = describe(samples, splits_of(samples))["warnings"]
    starts = [
        *("Classes without any samples", "Classes with fewer than 5 training samples"),
        *("Classes without samples in 'valid'", "The modality 'sound' is far from unit scale"),
    ]
    assert len(warnings) == len(starts)
    for warning, start in zip(warnings, starts, strict=True):
        assert warning.startswith(start)
    assert "'zebra' (3), 'ant' (2)." in warnings[1]
    assert warnings[2].endswith(": 'zebra'.")


def test_pixels_of_dense_labels_are_counted_by_class() -> None:
    labels = np.zeros((8, 2, 2), np.uint8)
    labels[:, 0, 0] = [1, 1, 1, 2, 1, 2, 1, 1]
    samples = store(index=store().index.assign(label=-1), labels=labels, ignored_label=0)
    report = describe(samples, splits_of(samples))
    assert report["pixels"] == {
        "unseen": {"train": 4, "valid": 1, "test": 1},
        "ant": {"train": 1, "valid": 0, "test": 1},
    }
    assert any("Classes without pixels in 'valid'" in warning for warning in report["warnings"])


def test_notes_are_summarized() -> None:
    notes = describe(store(), splits_of(store()))["notes"]
    assert notes == {
        # 0, 0, 1, 2, 3, 4, 5, 9
        "seconds": {"min": 0.0, "median": 2.5, "max": 9.0, "sum": 24.0, "samples_not_0": 6},
        "repaired": {"min": 0.0, "median": 0.0, "max": 2.0, "sum": 3.0, "samples_not_0": 2},
    }
    assert describe(store(notes=()), splits_of(store()))["notes"] == {}


def test_sources_are_counted_by_split() -> None:
    rooms = ["kitchen", "study", "study", "study", "study", "kitchen", "bath", "kitchen"]
    samples = store(index=store().index.assign(source=rooms))
    assert describe(samples, splits_of(samples))["sources"] == {
        "bath": {"train": 0, "valid": 0, "test": 1},
        "kitchen": {"train": 2, "valid": 0, "test": 1},
        "study": {"train": 3, "valid": 1, "test": 0},
    }


@pytest.mark.parametrize("count", [0, 2, LISTED, LISTED + 50])
def test_omitted_samples_are_counted_and_the_first_are_listed(count: int) -> None:
    omitted = {f"x{row}": f"reason {row}" for row in range(count)}
    reported = describe(store(omitted=omitted), splits_of(store()))["omitted"]
    assert reported["count"] == count
    assert reported["first"] == {f"x{row}": f"reason {row}" for row in range(min(count, 100))}


def test_the_report_can_be_saved_as_json(tmp_path: Path) -> None:
    samples = store(index=store().index.assign(source=np.arange(8) % 3), omitted={"x": "torn"})
    report = describe(samples, splits_of(samples))
    (tmp_path / "report.json").write_text(json.dumps(report))
    loaded = json.loads((tmp_path / "report.json").read_text())
    assert loaded["sources"] == {
        "0": {"train": 2, "valid": 0, "test": 1},
        "1": {"train": 2, "valid": 1, "test": 0},
        "2": {"train": 1, "valid": 0, "test": 1},
    }
    assert loaded["omitted"] == {"count": 1, "first": {"x": "torn"}}
