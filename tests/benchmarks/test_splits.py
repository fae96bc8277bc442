"""Tests of the splits: shares, limits, the protocol of the reference, and invalid tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mst_distill.benchmarks.splits import (
    assign_splits,
    check_splits,
    checked_splits,
    deal_groups,
    deal_splits,
    keep_labels,
    stratified_group_split,
    stratified_limit,
    stratified_split,
)
from mst_distill.data.samples import LABELLED, SPLITS, rows_of
from mst_distill.folds import fold_numbers


def make_index(
    counts: dict[tuple[str, int], int] | None = None, total: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Return a shuffled index with so many samples for each split and label."""
    if counts is None:
        labels = np.arange(total) % 4
        split = stratified_split(labels, np.random.default_rng(seed))
        rows = list(zip(split, labels, strict=True))
    else:
        rows = [stratum for stratum, count in counts.items() for _ in range(count)]
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
def test_each_class_is_split_60_20_20(
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
def test_the_shares_are_exact_to_one_sample(count: int) -> None:
    split = stratified_split(np.zeros(count, dtype=int), np.random.default_rng(0))
    for name, share in (("train", 0.6), ("valid", 0.2), ("test", 0.2)):
        assert abs((split == name).sum() - share * count) <= 1


def test_the_generator_determines_the_split_of_samples() -> None:
    labels = np.arange(60) % 3
    first, again, other = (
        stratified_split(labels, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize(
    ("count", "expected"),
    [(3, (1, 1, 1)), (4, (2, 1, 1)), (6, (4, 1, 1)), (24, (14, 5, 5)), (250, (150, 50, 50))],
)
def test_groups_are_split_60_20_20_with_at_least_one_in_each_split(
    count: int, expected: tuple[int, int, int]
) -> None:
    for kinds in (None, np.arange(count) % 2, np.zeros(count)):
        split = deal_groups(count, "actors", np.random.default_rng(0), kinds)
        assert tuple((split == name).sum() for name in SPLITS) == expected


@pytest.mark.parametrize("seed", range(5))
def test_each_split_gets_its_share_of_each_kind(seed: int) -> None:
    for kinds in (np.arange(24) % 2, np.arange(24) < 8, np.arange(24) % 3):
        split = deal_groups(24, "actors", np.random.default_rng(seed), kinds)
        for name in SPLITS:
            for kind in np.unique(kinds):
                share = (split == name).sum() * (kinds == kind).mean()
                assert abs(((split == name) & (kinds == kind)).sum() - share) <= 1


def test_the_generator_determines_the_split_of_groups() -> None:
    for kinds in (None, np.arange(24) % 2):
        first, again, other = (
            deal_groups(24, "actors", np.random.default_rng(seed), kinds) for seed in (0, 0, 1)
        )
        assert (first == again).all()
        assert (first != other).any()


def test_fewer_groups_than_splits_raise_an_error() -> None:
    with pytest.raises(ValueError, match="2 speakers: at least 3 are needed"):
        deal_groups(2, "speakers", np.random.default_rng(0))


def test_the_rows_of_a_split_are_ascending_and_complete() -> None:
    splits = make_index()
    rows = [rows_of(splits, name) for name in SPLITS]
    assert sorted(np.concatenate(rows)) == list(range(100))
    for name, split_rows in zip(SPLITS, rows, strict=True):
        assert split_rows.tolist() == splits.index[splits["split"] == name].tolist()


def test_heldout_uses_the_own_splits_of_the_benchmark_for_all_seeds() -> None:
    index = make_index()
    index["group"] = index["id"]
    expected = index[["id", "group", "label", "split"]]
    for seed in (0, 1):
        pd.testing.assert_frame_equal(assign_splits(index, "heldout", seed), expected)


def test_under_heldout_a_group_in_two_splits_raises_an_error() -> None:
    index = make_index()
    index["group"] = index["id"]
    rows = [index.index[index["split"] == split][0] for split in ("train", "test")]
    index.loc[rows, "group"] = "speaker 7"
    message = r"group 'speaker 7' is in the splits \['test', 'train'\]"
    with pytest.raises(ValueError, match=message):
        assign_splits(index, "heldout", 0)
    assert len(assign_splits(index, "random", 0)) == len(index)


def test_random_permutes_all_samples_by_the_seed() -> None:
    index = make_index(total=250)
    before = index.copy()
    first, again, other = (assign_splits(index, "random", seed) for seed in (3, 3, 4))
    assert first["split"].value_counts().to_dict() == {"train": 150, "valid": 50, "test": 50}
    pd.testing.assert_frame_equal(first, again)
    assert (first["split"] != other["split"]).any()
    columns = ["id", "group", "label"]
    pd.testing.assert_frame_equal(first[columns], index[columns])
    pd.testing.assert_frame_equal(index, before)
    # Two random splits of 250 samples agree in about 44 % of them.
    assert 0.3 < (first["split"] == index["split"]).mean() < 0.6


def test_random_puts_each_sample_into_each_split_with_its_share() -> None:
    index = make_index(total=20)
    seeds = 400
    test_counts = sum(
        assign_splits(index, "random", seed)["split"] == "test" for seed in range(seeds)
    )
    # The shares are binomial with mean 0.2 and standard deviation 0.02.
    assert np.abs(test_counts / seeds - 0.2).max() < 0.09


COUNTS = {
    ("train", 0): 300,
    ("train", 1): 120,
    ("valid", 0): 100,
    ("valid", 1): 40,
    ("test", 0): 38,
    ("test", 1): 2,
}


@pytest.mark.parametrize("limit", [10, 60, 150, 300, 599])
def test_a_limit_reduces_all_strata_by_one_factor_and_empties_none(limit: int) -> None:
    index = make_index(COUNTS)
    limited = stratified_limit(index, limit)
    assert abs(len(limited) - limit) <= len(COUNTS)
    counts = limited.groupby(["split", "label"]).size()
    for stratum, count in COUNTS.items():
        assert counts[stratum] >= 1
        assert abs(counts[stratum] - limit * count / 600) <= 1.5, stratum


def test_the_smallest_limit_keeps_one_sample_of_each_stratum() -> None:
    limited = stratified_limit(make_index(COUNTS), len(COUNTS))
    assert limited.groupby(["split", "label"]).size().to_dict() == dict.fromkeys(COUNTS, 1)


def test_a_limit_keeps_rows_unchanged_and_in_order() -> None:
    index = make_index(COUNTS)
    limited = stratified_limit(index, 150)
    assert limited.index.tolist() == list(range(len(limited)))
    assert limited["extra"].is_monotonic_increasing
    expected = index.loc[limited["extra"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(limited, expected)


@pytest.mark.parametrize("limit", [600, 601, 10**6])
def test_a_limit_above_the_number_of_samples_keeps_all(limit: int) -> None:
    index = make_index(COUNTS)
    pd.testing.assert_frame_equal(stratified_limit(index, limit), index)


def test_a_limit_is_deterministic() -> None:
    index = make_index(COUNTS)
    pd.testing.assert_frame_equal(stratified_limit(index, 77), stratified_limit(index, 77))


def test_a_limit_draws_samples_from_all_rows() -> None:
    limited = stratified_limit(make_index(COUNTS), 150)
    # The mean of a random quarter of 0..599 has a standard deviation of 12.
    assert abs(limited["extra"].mean() - 299.5) < 60
    assert limited["extra"].max() > 550


def test_samples_with_dense_labels_are_limited_by_split_only() -> None:
    index = make_index({("train", -1): 60, ("valid", -1): 20, ("test", -1): 20})
    counts = stratified_limit(index, 10)["split"].value_counts()
    assert counts.to_dict() == {"train": 6, "valid": 2, "test": 2}


def test_valid_splits_pass() -> None:
    check_splits(make_index())
    check_splits(assign_splits(make_index(), "random", 0))


def rename_split(splits: pd.DataFrame) -> None:
    splits.loc[7, "split"] = "validation"


def misspell_split(splits: pd.DataFrame) -> None:
    splits.loc[7, "split"] = "tets"


def repeat_id(splits: pd.DataFrame) -> None:
    splits.loc[7, "id"] = "s0003"
    splits.loc[7, "split"] = splits.loc[3, "split"]


def repeat_id_in_two_splits(splits: pd.DataFrame) -> None:
    splits.loc[[3, 5, 7], "id"] = "s0003"
    splits.loc[[3, 5, 7], "split"] = ["train", "test", "train"]


def empty_split(splits: pd.DataFrame) -> None:
    splits["split"] = splits["split"].replace("valid", "train")


@pytest.mark.parametrize(
    ("damage", "rules"),
    [
        (rename_split, ["split 'validation'", "train, valid, test", "did you mean 'valid'?"]),
        (misspell_split, ["split 'tets'", "did you mean 'test'?"]),
        (repeat_id, ["sample id 's0003' appears 2 times"]),
        (
            repeat_id_in_two_splits,
            ["sample id 's0003' appears 3 times", "in the splits ['test', 'train']", "leak"],
        ),
        (empty_split, ["the split 'valid' is empty", "`limit`"]),
    ],
)
def test_invalid_splits_raise_an_error(damage: Any, rules: list[str]) -> None:
    splits = make_index()
    damage(splits)
    with pytest.raises(ValueError, match="split") as error:
        check_splits(splits)
    assert all(rule in str(error.value) for rule in rules), str(error.value)


def test_a_table_without_rows_raises_an_error() -> None:
    with pytest.raises(ValueError, match="the split 'train' is empty"):
        check_splits(make_index().iloc[:0])


@pytest.mark.parametrize(("count", "least"), [(3, 1), (4, 2), (7, 3)])
def test_few_groups_are_whole_and_each_split_has_one(count: int, least: int) -> None:
    groups = np.arange(60) % count
    labels = np.arange(60) // count % 2
    split = stratified_group_split(labels, groups, {"train": 3, "valid": 1, "test": 1}, seed=0)
    of_group = pd.DataFrame({"group": groups, "split": split}).drop_duplicates()
    assert len(of_group) == count
    assert set(split) == set(SPLITS)
    assert (of_group["split"] == "train").sum() >= least


def test_groups_of_one_class_are_spread_over_the_splits() -> None:
    """Ten groups of six samples for each of two classes: three fifths of each are for training."""
    groups = np.repeat(np.arange(20), 6)
    labels = groups % 2
    split = stratified_group_split(labels, groups, {"train": 3, "valid": 1, "test": 1}, seed=1)
    counts = pd.crosstab(labels, split)[list(SPLITS)].to_numpy()
    assert counts.tolist() == [[36, 12, 12]] * 2


def test_fewer_groups_than_splits_cannot_be_stratified() -> None:
    labels = groups = np.arange(10) % 2
    with pytest.raises(ValueError, match="there are 2 groups, but 3 are needed"):
        stratified_group_split(labels, groups, {"train": 3, "valid": 1, "test": 1}, seed=0)


def single(index: pd.DataFrame) -> pd.DataFrame:
    """Make each sample a group of its own."""
    return index.assign(group=index["id"])


def kept(share: float, seed: int = 0, valid: float = 1.0, total: int = 400) -> pd.DataFrame:
    splits = assign_splits(single(make_index(total=total)), "heldout", 0)
    return keep_labels(splits, {"train": share, "valid": valid}, seed)


@pytest.mark.parametrize(("share", "each"), [(0.5, 30), (0.1, 6), (0.02, 1), (0.0001, 1)])
def test_a_share_of_the_labels_of_each_class_is_kept_and_at_least_one(
    share: float, each: int
) -> None:
    splits = kept(share)
    train = splits[splits["split"] == "train"]
    counts = train.groupby("label")[LABELLED].sum().tolist()
    assert sum(counts) == max(4, round(share * 240))
    assert all(abs(count - each) <= 1 for count in counts)
    assert min(counts) >= 1
    assert splits.loc[splits["split"] != "train", LABELLED].all()


def test_a_smaller_share_is_part_of_a_larger_one_and_follows_from_the_seed() -> None:
    shares = [set(kept(share).query(LABELLED)["id"]) for share in (0.05, 0.1, 0.3)]
    assert shares[0] < shares[1] < shares[2]
    assert kept(0.1).equals(kept(0.1))
    assert not kept(0.1).equals(kept(0.1, seed=1))


def test_labels_of_the_validation_split_are_hidden_by_their_own_share() -> None:
    splits = kept(1.0, valid=0.25)
    counts = splits.groupby("split")[LABELLED].sum()
    assert counts.to_dict() == {"train": 240, "valid": 20, "test": 80}
    assert len(rows_of(splits, "valid")) == 20
    assert len(rows_of(splits, "train")) == 240


def test_with_all_labels_the_table_is_that_without_any_hiding() -> None:
    splits = assign_splits(single(make_index()), "heldout", 0)
    assert keep_labels(splits, {"train": 1, "valid": 1.0}, 0) is splits


def test_with_dense_labels_whole_samples_are_hidden() -> None:
    splits = assign_splits(single(make_index()).assign(label=-1), "heldout", 0)
    counts = keep_labels(splits, {"train": 0.1}, 0).groupby("split")[LABELLED].sum()
    assert counts.to_dict() == {"train": 6, "valid": 20, "test": 20}


def test_under_random_samples_without_a_label_are_training_samples() -> None:
    index = make_index(total=100)
    more = make_index(total=40, seed=1).assign(label=-1)
    more["id"] = "more " + more["id"]
    for seed in range(3):
        expected = assign_splits(index, "random", seed)["split"].tolist()
        splits = assign_splits(pd.concat([index, more]), "random", seed)
        assert splits["split"].tolist() == expected + ["train"] * 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"split": "test", "label": -1},
            r"'s0000' of the split 'test' has no label: only training",
        ),
        ({"split": "valid", "label": -1}, r"'s0000' of the split 'valid' has no label"),
    ],
)
def test_a_held_out_sample_without_a_label_is_an_error(
    change: dict[str, Any], message: str
) -> None:
    index = single(make_index())
    index.loc[index["id"] == "s0000", list(change)] = list(change.values())
    with pytest.raises(ValueError, match=message):
        checked_splits(index, ["a", "b", "c", "d"], None, "heldout", 0)


def test_a_class_without_any_training_label_is_an_error() -> None:
    index = single(make_index())
    index.loc[(index["label"] == 2) & (index["split"] == "train"), "label"] = -1
    with pytest.raises(ValueError, match=r"the class 'c' has no sample in 'train', but 5"):
        checked_splits(index, ["a", "b", "c", "d"], None, "heldout", 0)


def incomplete_index(absent: dict[int, str]) -> pd.DataFrame:
    """An index of 24 samples: twelve for training and six for each of the others, three classes."""
    rows = np.arange(24)
    return pd.DataFrame(
        {
            "id": [f"s{row}" for row in rows],
            "group": [f"s{row}" for row in rows],
            "split": ["train"] * 12 + ["valid"] * 6 + ["test"] * 6,
            "label": rows % 3,
            "absent": [absent.get(row, "") for row in rows],
        }
    )


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        (dict.fromkeys(range(12), "a"), "have the modality 'a', the split 'train' is empty"),
        (dict.fromkeys(range(18, 24), "b"), "have the modality 'b', the split 'test' is empty"),
        (
            {row: "ab"[row % 2] for row in range(12, 18)},
            "have all modalities, the split 'valid' is empty",
        ),
        (
            {row: "a" for row in range(12) if row % 3},
            "have the modality 'a', the split 'train' contains only one class, 'x'",
        ),
        (
            {row: "a" for row in range(12) if row % 3 == 1},
            "have the modality 'a', the class 'y' has no sample in 'train', but 2 in 'valid'",
        ),
    ],
)
def test_the_samples_with_each_modality_and_with_all_must_suffice(absent, message):
    index = incomplete_index(absent)
    with pytest.raises(ValueError, match=f"of the samples that {message}"):
        checked_splits(index, ["x", "y", "z"], None, "heldout", 0)
    checked_splits(index.drop(columns="absent"), ["x", "y", "z"], None, "heldout", 0)


def test_with_hidden_labels_a_class_may_be_without_a_label_among_complete_samples():
    index = incomplete_index({row: "a" for row in range(12) if row not in (0, 1, 2)})
    shares = {"train": 0.5}
    splits = keep_labels(assign_splits(index, "heldout", 8), shares, 8)
    used = splits["labelled"] & (index["absent"] == "") & (index["split"] == "train")
    assert index.loc[used, "label"].nunique() == 2
    checked_splits(index, ["x", "y", "z"], None, "heldout", 8, shares)


def grouped_index(groups: int = 15) -> pd.DataFrame:
    """An index of groups of different sizes, with all four classes in each."""
    sizes = 4 + 4 * (np.arange(groups) % 3)
    names = np.repeat([f"actor-{number:02d}" for number in range(groups)], sizes)
    index = pd.DataFrame({"group": names, "split": "train"})
    return index.assign(
        id=[f"s{row}" for row in range(len(index))], label=np.arange(len(index)) % 4
    )


@pytest.mark.parametrize("fold", [None, "2/5", "15/15", "actor-03"])
def test_whole_groups_are_dealt_to_splits(fold: str | None) -> None:
    index = grouped_index()
    split = deal_splits(index, 3, fold)
    assert set(split) == set(SPLITS)
    dealt = index.assign(split=split)
    assert len(dealt[["group", "split"]].drop_duplicates()) == 15
    assert deal_splits(index.sample(frac=1, random_state=0), 3, fold).tolist() != split.tolist()
    checked_splits(dealt, list("abcd"), None, "grouped", 0)
    test = set(dealt.loc[dealt["split"] == "test", "group"])
    if fold in ("15/15", "actor-03"):
        assert len(test) == 1
    if fold == "actor-03":
        assert test == {"actor-03"}


@pytest.mark.parametrize("count", [3, 5, 15])
def test_each_group_is_tested_in_one_fold_and_validated_in_one(count: int) -> None:
    index = grouped_index()
    tables = [
        deal_splits(index, seed, f"{number}/{count}")
        for seed, number in zip(range(count), range(1, count + 1), strict=True)
    ]
    for name in ("test", "valid"):
        assert (np.sum([split == name for split in tables], axis=0) == 1).all()
    # The next fold is tested on what this one validates on.
    for this, following in zip(tables, [*tables[1:], tables[0]], strict=True):
        assert ((this == "valid") == (following == "test")).all()


def test_without_a_fold_groups_are_dealt_by_the_seed() -> None:
    index = grouped_index()
    first, again, other = (deal_splits(index, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        ("0/5", "it must be I/K with I in 1"),
        ("6/5", "it must be I/K with I in 1"),
        ("1/2", "K at least 3"),
        ("1/16", "there are only 15 groups"),
        ("actor-3", r"unknown group in `fold` 'actor-3'.*did you mean 'actor-"),
    ],
)
def test_a_fold_that_does_not_exist_is_an_error(fold: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deal_splits(grouped_index(), 0, fold)


def test_the_numbers_of_a_fold() -> None:
    assert fold_numbers("3/10") == (3, 10)
    assert fold_numbers("actor-3") is None
