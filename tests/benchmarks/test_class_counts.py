"""Tests of the class counts of the splits: counts by hand, errors and warnings."""

from __future__ import annotations

import numpy as np
import pytest

from mst_distill.benchmarks.class_counts import FEW, LISTED, ClassCounts
from mst_distill.data.samples import SPLITS

NAMES = ("ant", "bee", "cat", "dog")


def counts(dense: bool = False, **rows: tuple[int, int, int]) -> ClassCounts:
    """Return counts with so many samples of each class in train, valid and test."""
    samples = [
        (label, split)
        for label, name in enumerate(rows)
        for split, count in zip(SPLITS, rows[name], strict=True)
        for _ in range(count)
    ]
    labels = np.array([label for label, _ in samples])
    split = np.array([split for _, split in samples])
    order = np.random.default_rng(0).permutation(len(samples))
    shaped = labels[order, None, None] if dense else labels[order]
    return ClassCounts.of(shaped, split[order], list(rows), None)


def test_samples_are_counted_by_class_and_split() -> None:
    labels = np.array([0, 3, 0, 1, 3, 3, 0, -1, 9])
    split = ["train", "train", "test", "train", "valid", "test", "train", "test", "test"]
    found = ClassCounts.of(labels, split, NAMES, None)
    assert not found.dense
    assert found.table.T.to_dict(orient="list") == {
        "ant": [2, 0, 1],
        "bee": [1, 0, 0],
        "cat": [0, 0, 0],
        "dog": [1, 1, 1],
    }
    assert list(found.table.columns) == list(SPLITS)
    without = ClassCounts.of(labels, split, NAMES, 3)
    assert list(without.table.index) == ["ant", "bee", "cat"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_pixels_are_counted_in_blocks(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 255], size=(11, 3, 5)).astype(dtype)
    split = rng.choice(SPLITS, size=11)
    monkeypatch.setattr("mst_distill.benchmarks.class_counts.BLOCK", 40)  # two images of 15
    found = ClassCounts.of(labels, split, NAMES, 255)
    assert found.dense
    for label, name in enumerate(NAMES):
        for split_name in SPLITS:
            expected = sum((image == label).sum() for image in labels[split == split_name])
            assert found.table.loc[name, split_name] == expected


GOOD = {"ant": (9, 3, 3), "bee": (9, 3, 3)}


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ({"ant": (9, 3, 3)}, "'train' contains only one class, 'ant': at least two .* to learn"),
        ({"ant": (9, 0, 3), "bee": (0, 3, 3)}, "'train' contains only one class, 'ant'"),
        ({"ant": (9, 3, 3), "bee": (9, 0, 3)}, "'valid' contains only one class, 'ant'.* epoch"),
        ({"ant": (9, 3, 0), "bee": (9, 3, 3)}, "'test' contains only one class, 'bee'.* student"),
        ({"ant": (9, 3, 0), "bee": (9, 3, 0)}, "'test' contains no class"),
    ],
)
def test_a_split_with_fewer_than_two_classes_raises_an_error(
    rows: dict[str, tuple[int, int, int]], rule: str, dense: bool
) -> None:
    with pytest.raises(ValueError, match=rule):
        counts(dense, **rows).check()


@pytest.mark.parametrize(
    ("cat", "found"), [((0, 0, 1), "1 in 'test'"), ((0, 2, 1), "2 in 'valid' and 1 in 'test'")]
)
def test_a_class_without_training_data_is_an_error_for_samples_and_a_warning_for_pixels(
    cat: tuple[int, int, int], found: str
) -> None:
    with pytest.raises(ValueError, match=f"the class 'cat' has no sample in 'train', but {found}:"):
        counts(**GOOD, cat=cat).check()
    pixels = counts(dense=True, **GOOD, cat=cat)
    pixels.check()
    assert (
        "Classes that are in 'valid' or 'test' without training pixels, so that they cannot be "
        "learned: 'cat'."
    ) in pixels.warnings()


def test_valid_splits_yield_no_warning() -> None:
    valid = counts(**dict.fromkeys(NAMES, (FEW, 1, 1)))
    valid.check()
    assert valid.warnings() == []


def test_each_problem_with_classes_has_its_own_warning() -> None:
    problematic = counts(
        **GOOD, lone=(1, 0, 0), few=(FEW - 1, 1, 2), absent=(0, 0, 0), untested=(8, 2, 0)
    )
    problematic.check()
    assert problematic.warnings() == [
        "Classes without any samples, for which no metric is computed: 'absent'.",
        "Classes with fewer than 5 training samples, which can hardly be learned: 'lone' (1), "
        "'few' (4).",
        "Classes without samples in 'valid', which do not count when an epoch is selected: 'lone'.",
        "Classes without samples in 'test', for which no test metric is computed: 'lone', "
        "'untested'.",
    ]


def test_a_warning_names_the_first_of_many_classes() -> None:
    many = counts(**GOOD, **{f"c{number:02d}": (1, 1, 1) for number in range(LISTED + 3)})
    (warning,) = many.warnings()
    assert warning.endswith("'c08' (1), 'c09' (1) and 3 more.")
