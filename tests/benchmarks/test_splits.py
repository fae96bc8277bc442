"""Splits: shares, limits, the reference's protocol, and tables that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mst_distill.benchmarks.splits import (
    assign_splits,
    check_splits,
    deal_groups,
    stratified_limit,
    stratified_split,
)
from mst_distill.data.samples import SPLITS, rows_of


def make_index(
    cells: dict[tuple[str, int], int] | None = None, total: int = 100, seed: int = 0
) -> pd.DataFrame:
    """A shuffled index with so many samples in each (split, label) cell."""
    if cells is None:
        labels = np.arange(total) % 4
        split = stratified_split(labels, np.random.default_rng(seed))
        rows = list(zip(split, labels, strict=True))
    else:
        rows = [cell for cell, count in cells.items() for _ in range(count)]
    order = np.random.default_rng(seed).permutation(len(rows))
    index = pd.DataFrame([rows[row] for row in order], columns=["split", "label"])
    index.insert(0, "id", [f"s{row:04d}" for row in range(len(index))])
    index.insert(1, "group", "g")
    return index.assign(extra=np.arange(len(index)))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([100, 50, 10], [(60, 20, 20), (30, 10, 10), (6, 2, 2)]),
        ([5, 5], [(3, 1, 1), (3, 1, 1)]),
        ([7], [(4, 2, 1)]),
        ([1, 3], [(1, 0, 0), (2, 0, 1)]),
    ],
)
def test_every_class_is_dealt_60_20_20(
    counts: list[int], expected: list[tuple[int, int, int]]
) -> None:
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    split = stratified_split(labels, rng)
    found = [
        tuple(int(((split == name) & (labels == label)).sum()) for name in SPLITS)
        for label in range(len(counts))
    ]
    assert found == expected


@pytest.mark.parametrize("count", [11, 38, 97, 1001, 99_999])
def test_the_shares_hold_to_one_sample(count: int) -> None:
    split = stratified_split(np.zeros(count, dtype=int), np.random.default_rng(0))
    for name, share in (("train", 0.6), ("valid", 0.2), ("test", 0.2)):
        assert abs((split == name).sum() - share * count) <= 1


def test_the_generator_decides_who_goes_where() -> None:
    labels = np.arange(60) % 3
    one, same, other = (stratified_split(labels, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize(
    ("count", "expected"),
    [(3, (1, 1, 1)), (4, (2, 1, 1)), (6, (4, 1, 1)), (24, (14, 5, 5)), (250, (150, 50, 50))],
)
def test_groups_are_dealt_60_20_20_and_at_least_one_to_each_split(
    count: int, expected: tuple[int, int, int]
) -> None:
    for kinds in (None, np.arange(count) % 2, np.zeros(count)):
        dealt = deal_groups(count, "actors", np.random.default_rng(0), kinds)
        assert tuple((dealt == name).sum() for name in SPLITS) == expected


@pytest.mark.parametrize("seed", range(5))
def test_every_split_gets_its_share_of_every_kind(seed: int) -> None:
    for kinds in (np.arange(24) % 2, np.arange(24) < 8, np.arange(24) % 3):
        dealt = deal_groups(24, "actors", np.random.default_rng(seed), kinds)
        for name in SPLITS:
            for kind in np.unique(kinds):
                fair = (dealt == name).sum() * (kinds == kind).mean()
                assert abs(((dealt == name) & (kinds == kind)).sum() - fair) <= 1


def test_the_generator_decides_to_whom_a_group_is_dealt() -> None:
    for kinds in (None, np.arange(24) % 2):
        one, same, other = (
            deal_groups(24, "actors", np.random.default_rng(seed), kinds) for seed in (0, 0, 1)
        )
        assert (one == same).all()
        assert (one != other).any()


def test_fewer_groups_than_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="2 speakers: at least 3 are needed"):
        deal_groups(2, "speakers", np.random.default_rng(0))


def test_rows_of_a_split_are_ascending_and_leave_none_out() -> None:
    splits = make_index()
    rows = [rows_of(splits, name) for name in SPLITS]
    assert sorted(np.concatenate(rows)) == list(range(100))
    for name, part in zip(SPLITS, rows, strict=True):
        assert part.tolist() == splits.index[splits["split"] == name].tolist()


def test_heldout_takes_the_benchmark_s_own_splits_whatever_the_seed() -> None:
    index = make_index()
    index["group"] = index["id"]
    expected = index[["id", "group", "label", "split"]]
    for seed in (0, 1):
        pd.testing.assert_frame_equal(assign_splits(index, "heldout", seed), expected)


def test_heldout_refuses_a_group_in_two_splits() -> None:
    index = make_index()
    index["group"] = index["id"]
    rows = [index.index[index["split"] == split][0] for split in ("train", "test")]
    index.loc[rows, "group"] = "speaker 7"
    message = r"group 'speaker 7' stands in the splits \['test', 'train'\]"
    with pytest.raises(ValueError, match=message):
        assign_splits(index, "heldout", 0)
    assert len(assign_splits(index, "random", 0)) == len(index)


def test_random_permutes_all_samples_by_the_seed() -> None:
    index = make_index(total=250)
    before = index.copy()
    one, same, other = (assign_splits(index, "random", seed) for seed in (3, 3, 4))
    assert one["split"].value_counts().to_dict() == {"train": 150, "valid": 50, "test": 50}
    pd.testing.assert_frame_equal(one, same)
    assert (one["split"] != other["split"]).any()
    columns = ["id", "group", "label"]
    pd.testing.assert_frame_equal(one[columns], index[columns])
    pd.testing.assert_frame_equal(index, before)
    # A random split of 250 leaves the benchmark's own in about 44 % of the samples.
    assert 0.3 < (one["split"] == index["split"]).mean() < 0.6


def test_random_gives_every_sample_its_share_of_every_split() -> None:
    index = make_index(total=20)
    seeds = 400
    tested = sum(assign_splits(index, "random", seed)["split"] == "test" for seed in range(seeds))
    # Binomial: 0.2 with a deviation of 0.02.
    assert np.abs(tested / seeds - 0.2).max() < 0.09


CELLS = {
    ("train", 0): 300,
    ("train", 1): 120,
    ("valid", 0): 100,
    ("valid", 1): 40,
    ("test", 0): 38,
    ("test", 1): 2,
}


@pytest.mark.parametrize("limit", [10, 60, 150, 300, 599])
def test_a_limit_shrinks_every_cell_alike_and_empties_none(limit: int) -> None:
    index = make_index(CELLS)
    kept = stratified_limit(index, limit)
    assert abs(len(kept) - limit) <= len(CELLS)
    counts = kept.groupby(["split", "label"]).size()
    for cell, count in CELLS.items():
        assert counts[cell] >= 1
        assert abs(counts[cell] - limit * count / 600) <= 1.5, cell


def test_a_limit_of_one_a_cell_keeps_one_of_each() -> None:
    kept = stratified_limit(make_index(CELLS), len(CELLS))
    assert kept.groupby(["split", "label"]).size().to_dict() == dict.fromkeys(CELLS, 1)


def test_a_limit_keeps_rows_whole_and_in_order() -> None:
    index = make_index(CELLS)
    kept = stratified_limit(index, 150)
    assert kept.index.tolist() == list(range(len(kept)))
    assert kept["extra"].is_monotonic_increasing
    expected = index.loc[kept["extra"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, expected)


@pytest.mark.parametrize("limit", [600, 601, 10**6])
def test_a_limit_that_is_no_limit_keeps_all(limit: int) -> None:
    index = make_index(CELLS)
    pd.testing.assert_frame_equal(stratified_limit(index, limit), index)


def test_a_limit_keeps_the_same_samples_every_time() -> None:
    index = make_index(CELLS)
    pd.testing.assert_frame_equal(stratified_limit(index, 77), stratified_limit(index, 77))


def test_a_limit_does_not_simply_take_the_first_rows() -> None:
    kept = stratified_limit(make_index(CELLS), 150)
    # The mean of a quarter of 0..599, drawn evenly, has a deviation of 12.
    assert abs(kept["extra"].mean() - 299.5) < 60
    assert kept["extra"].max() > 550


def test_dense_samples_are_limited_by_split_alone() -> None:
    index = make_index({("train", -1): 60, ("valid", -1): 20, ("test", -1): 20})
    counts = stratified_limit(index, 10)["split"].value_counts()
    assert counts.to_dict() == {"train": 6, "valid": 2, "test": 2}


def test_good_splits_pass() -> None:
    check_splits(make_index())
    check_splits(assign_splits(make_index(), "random", 0))


def rename(splits: pd.DataFrame) -> None:
    splits.loc[7, "split"] = "validation"


def mistype(splits: pd.DataFrame) -> None:
    splits.loc[7, "split"] = "tets"


def repeat(splits: pd.DataFrame) -> None:
    splits.loc[7, "id"] = "s0003"
    splits.loc[7, "split"] = splits.loc[3, "split"]


def leak(splits: pd.DataFrame) -> None:
    splits.loc[[3, 5, 7], "id"] = "s0003"
    splits.loc[[3, 5, 7], "split"] = ["train", "test", "train"]


def empty(splits: pd.DataFrame) -> None:
    splits["split"] = splits["split"].replace("valid", "train")


@pytest.mark.parametrize(
    ("damage", "rules"),
    [
        (rename, ["split 'validation'", "train, valid, test", "did you mean 'valid'?"]),
        (mistype, ["split 'tets'", "did you mean 'test'?"]),
        (repeat, ["sample id 's0003' appears 2 times"]),
        (leak, ["sample id 's0003' appears 3 times", "in the splits ['test', 'train']", "leaks"]),
        (empty, ["the split 'valid' is empty", "`limit`"]),
    ],
)
def test_splits_that_no_figure_can_be_trusted_on_are_refused(damage: Any, rules: list[str]) -> None:
    splits = make_index()
    damage(splits)
    with pytest.raises(ValueError, match="split") as error:
        check_splits(splits)
    assert all(rule in str(error.value) for rule in rules), str(error.value)


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="the split 'train' is empty"):
        check_splits(make_index().iloc[:0])
