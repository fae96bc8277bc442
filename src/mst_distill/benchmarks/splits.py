"""Assigning samples to splits, limiting their number, and checking the splits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType

import numpy as np
import pandas as pd

from mst_distill.benchmarks.class_counts import ClassCounts
from mst_distill.benchmarks.source import Protocol
from mst_distill.data.samples import (
    ABSENT,
    LABELLED,
    SPLITS,
    UNLABELLED,
    Samples,
    are_complete,
    labelled_splits,
    lacks,
)
from mst_distill.errors import did_you_mean
from mst_distill.folds import fold_numbers

SHARES = {"train": 0.6, "valid": 0.2, "test": 0.2}
"""The shares of the splits in benchmarks without official splits."""


def stratified_split(
    labels: np.ndarray, rng: np.random.Generator, shares: Mapping[str, float] = SHARES
) -> np.ndarray:
    """Assign samples to splits at random, in the same shares within each class.

    Args:
        labels: ``(N,)`` class indices.
        rng: Random generator.
        shares: Split to its share; by default 60 / 20 / 20.

    Returns:
        ``(N,)`` split names.
    """
    split = np.empty(len(labels), dtype=object)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        split[rows] = _split_names(len(rows), shares)
    return split


def stratified_group_split(
    labels: np.ndarray, groups: np.ndarray, fifths: Mapping[str, int], seed: int
) -> np.ndarray:
    """Assign whole groups to splits, so that each split has its share of each class.

    If each sample is a group of its own, the shares of each class are exact apart from rounding.
    Otherwise, scikit-learn's `StratifiedGroupKFold` divides the groups into five folds, as closely
    to equal shares as whole groups allow.

    Args:
        labels: ``(N,)`` class indices.
        groups: ``(N,)`` names of groups.
        fifths: Split to its share in fifths, 5 in total; the first split has the largest.
        seed: Seed of the random assignment.

    Returns:
        ``(N,)`` split names.

    Raises:
        ValueError: There are fewer groups than splits.
    """
    count = len(np.unique(groups))
    if count < len(fifths):
        raise ValueError(
            f"there are {count} groups, but {len(fifths)} are needed, one for each of the splits "
            f"{', '.join(fifths)}"
        )
    if count == len(groups):
        shares = {name: share / 5 for name, share in fifths.items()}
        return stratified_split(labels, np.random.default_rng(seed), shares)
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(min(5, count), shuffle=True, random_state=seed)
    first, *others = fifths
    split = np.full(len(labels), first, dtype=object)
    names = [name for name in others for _ in range(fifths[name])]
    with warnings.catch_warnings():  # of classes with fewer samples than folds
        warnings.simplefilter("ignore", UserWarning)
        for (_, rows), name in zip(folds.split(labels, labels, groups), names, strict=False):
            split[rows] = name
    return split


def deal_groups(
    count: int, what: str, rng: np.random.Generator, kinds: np.ndarray | None = None
) -> np.ndarray:
    """Assign groups (speakers, clips, actors) to splits, 60 / 20 / 20, at least one to each.

    Args:
        count: Number of groups.
        what: Name of the groups, for the error.
        rng: Random generator.
        kinds: ``(count,)``, the kind of each group, such as the sex of a speaker. Each split gets
            its share of each kind, as closely as whole groups allow. None ignores kinds.

    Returns:
        ``(count,)`` split names.

    Raises:
        ValueError: There are fewer groups than splits.
    """
    if count < len(SPLITS):
        raise ValueError(f"{count} {what}: at least {len(SPLITS)} are needed, one for each split")
    valid, test = (max(1, round(SHARES[name] * count)) for name in ("valid", "test"))
    names = np.repeat(np.array(SPLITS), [count - valid - test, valid, test])
    if kinds is None:
        return rng.permutation(names)
    split = np.empty_like(names)
    split[_interleave(kinds, rng)] = names
    return split


def deal_splits(index: pd.DataFrame, seed: int, fold: str | None = None) -> np.ndarray:
    """Assign whole groups to splits, as closely to equal shares of each class as groups allow.

    Args:
        index: ``label`` and ``group``, one row for each sample.
        seed: Seed by which groups are dealt if there is no fold.
        fold: ``I/K``: groups are dealt to K folds by a fixed seed; fold I is the test split and the
            next one the validation split. Or the name of the group that is the test split, while a
            fifth of the others validates. Without it, 60 / 20 / 20.

    Returns:
        ``(n,)`` split names.

    Raises:
        ValueError: There are fewer groups than folds or splits, or there is no group of this name;
            the message has the nearest.
    """
    labels, groups = index["label"].to_numpy(), index["group"].astype(str).to_numpy()
    if fold is None:
        return stratified_group_split(labels, groups, {"train": 3, "valid": 1, "test": 1}, seed)
    if (numbers := fold_numbers(fold)) is None:
        if fold not in (names := sorted(set(groups))):
            nearest = sorted(get_close_matches(fold, names, n=10, cutoff=0.0))
            raise ValueError(did_you_mean("group in `fold`", fold, nearest))
        rest = groups != fold
        split = np.full(len(groups), "test", dtype=object)
        fifths = {"train": 4, "valid": 1}
        split[rest] = stratified_group_split(labels[rest], groups[rest], fifths, 0)
        return split
    number, count = numbers
    if (found := len(set(groups))) < count:
        raise ValueError(f"fold is {fold!r}, and there are only {found} groups")
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    with warnings.catch_warnings():  # of classes with fewer samples than folds
        warnings.simplefilter("ignore", UserWarning)
        rows = [of for _, of in folds.split(labels, labels, groups)]
    split = np.full(len(groups), "train", dtype=object)
    split[rows[number - 1]], split[rows[number % count]] = "test", "valid"
    return split


def assign_splits(index: pd.DataFrame, protocol: Protocol, seed: int) -> pd.DataFrame:
    """Return the split of each sample for one run.

    Args:
        index: Index of the sample store.
        protocol: ``heldout`` uses the benchmark's own leak-free split, and ``grouped`` the one that
            the store was built with, see `deal_splits`; ``random`` permutes all
            samples by `seed` and splits them 60 / 20 / 20, as the reference implementation does.
            Samples without a label are training samples and are not counted.
        seed: Seed of the run; has an effect under ``random`` only.

    Returns:
        ``id``, ``group``, ``label`` and ``split``, one row for each sample, in store order.

    Raises:
        ValueError: Under ``heldout`` a group is in two splits; the message names the group.
    """
    splits = index[["id", "group", "label", "split"]].reset_index(drop=True)
    if protocol == "random":
        known = np.flatnonzero(~_are_unlabelled(splits))
        order = known[np.random.default_rng(seed).permutation(len(known))]
        splits["split"] = "train"
        splits.loc[order, "split"] = _split_names(len(known))
        return splits
    splits_of = splits.groupby("group")["split"].unique()
    if len(shared := splits_of[splits_of.str.len() > 1]):
        raise ValueError(
            f"group {shared.index[0]!r} is in the splits {sorted(shared.iloc[0])}: under "
            f"{protocol!r} a group must be in one split"
        )
    return splits


def keep_labels(splits: pd.DataFrame, shares: Mapping[str, float], seed: int) -> pd.DataFrame:
    """Keep a share of the labels of some splits, and hide the others.

    The labels are chosen at random, in equal shares of each class and at least one of each. The
    labels of a smaller share are among those of a larger one. With dense labels, those of whole
    samples are hidden.

    Args:
        splits: From `assign_splits`.
        shares: Split to the share of its labels that is kept, in (0, 1].
        seed: Seed of the choice.

    Returns:
        The table with the column `LABELLED`; the table itself if all shares are 1.
    """
    if all(share == 1 for share in shares.values()):
        return splits
    labelled = pd.Series(~_are_unlabelled(splits), index=splits.index)
    for split, share in shares.items():
        if share < 1:
            rng = np.random.default_rng([seed, SPLITS.index(split)])
            known = splits[labelled & (splits["split"] == split)]
            count = max(round(share * len(known)), known["label"].nunique())
            kept = stratified_limit(known, count, rng)
            labelled[known.index] = known["id"].isin(kept["id"])
    return splits.assign(**{LABELLED: labelled})


def _are_unlabelled(splits: pd.DataFrame) -> np.ndarray:
    """Whether each sample has no label; with dense labels, the table does not know them."""
    without: np.ndarray = splits["label"].to_numpy() == UNLABELLED
    return np.zeros_like(without) if without.all() else without


def checked_splits(
    index: pd.DataFrame,
    classes: Sequence[str],
    ignored: int | None,
    protocol: Protocol,
    seed: int,
    label_shares: Mapping[str, float] = MappingProxyType({}),
) -> pd.DataFrame:
    """Return the result of `assign_splits` after checking that a run can be evaluated on it.

    Args:
        index: Index of the sample store.
        classes: Class names, in the order of the labels.
        ignored: The label that is not a target, or None.
        protocol: See `assign_splits`.
        seed: Seed of the run.
        label_shares: See `keep_labels`.

    Raises:
        ValueError: See `assign_splits` and `check_splits`, or a split has fewer than two classes
            of samples with one modality, or with all. Under ``random`` the message names the seed,
            because the splits of another seed may be valid.
    """
    splits = keep_labels(assign_splits(index, protocol, seed), label_shares, seed)
    try:
        check_splits(splits, classes, ignored)
        if ABSENT in index:
            _check_incomplete(index, splits, classes, ignored)
    except ValueError as error:
        if protocol == "random":
            raise ValueError(
                f"{error} (the protocol 'random' splits the samples by the seed, here {seed}: the "
                f"splits of another seed may be valid)"
            ) from error
        raise
    return splits


def splits_of_run(
    samples: Samples, protocol: Protocol, seed: int, label_shares: Mapping[str, float]
) -> pd.DataFrame:
    """Return the splits of a run on a store; the other arguments are those of `checked_splits`.

    Raises:
        ValueError: See `checked_splits` and, for the pixels of dense labels, `ClassCounts.check`.
    """
    classes, ignored = samples.classes, samples.ignored_label
    splits = checked_splits(samples.index, classes, ignored, protocol, seed, label_shares)
    if samples.dense:
        used = labelled_splits(samples, splits).to_numpy()
        ClassCounts.of(samples.labels, used, classes, ignored).check()
    return splits


def _check_incomplete(
    index: pd.DataFrame, splits: pd.DataFrame, classes: Sequence[str], ignored: int | None
) -> None:
    """Check the samples on which single members are trained and compared.

    If labels are hidden, a class may be without a label among these.
    """
    lacking = sorted(set(" ".join(index[ABSENT]).split()))
    chosen = {f"the modality {name!r}": ~lacks(index, name) for name in lacking}
    chosen["all modalities"] = are_complete(index)
    for what, rows in chosen.items():
        try:
            check_splits(splits[rows], classes, ignored, unseen=LABELLED not in splits)
        except ValueError as error:
            raise ValueError(f"of the samples that have {what}, {error}") from error


def stratified_limit(
    index: pd.DataFrame, limit: int, rng: int | np.random.Generator = 0
) -> pd.DataFrame:
    """Reduce the number of samples to `limit`, by the same factor in each split and class.

    At least one sample remains of each combination of split and class that occurs.

    Args:
        index: Index of a source.
        limit: Number of samples to keep. If there are not more samples, all are kept. If there are
            more combinations of split and class, some of these are left without a sample.
        rng: Random generator, or its seed.

    Returns:
        The remaining rows in their order, with a new index from 0.
    """
    if limit >= len(index):
        return index
    strata = index.groupby(["split", "label"])
    # The random rank of each sample within its stratum, divided by the size of the stratum. Keeping
    # the smallest quotients makes the rounding errors of the strata cancel instead of add up.
    rank = index.sample(frac=1.0, random_state=rng).groupby(["split", "label"]).cumcount()
    size = strata["label"].transform("size")
    share = (rank.reindex(index.index) + 0.5) / size
    first = rank.reindex(index.index) == 0
    remaining = share.where(~first, -1.0).nsmallest(limit).index.sort_values()
    return index.loc[remaining].reset_index(drop=True)


def check_splits(
    splits: pd.DataFrame,
    classes: Sequence[str] = (),
    ignored: int | None = None,
    unseen: bool = True,
) -> None:
    """Check that metrics on these splits are valid.

    Args:
        splits: ``id``, ``label`` and ``split``, one row for each sample. If the labels are dense
            (-1), the classes are not checked, because the table does not contain them.
        classes: Class names, in the order of the labels; without them, errors name class indices.
        ignored: The label that is not a target, or None.
        unseen: Whether a class without training samples is an error.

    Raises:
        ValueError: A sample id appears twice or in two splits, the name of a split is unknown, a
            split is empty or has fewer than two classes, a class is in ``valid`` or ``test`` but
            not in ``train``, or a sample of ``valid`` or ``test`` has no label; the message names
            the id, the split or the class.
    """
    if unknown := sorted(set(splits["split"]) - set(SPLITS)):
        raise ValueError(did_you_mean("split", unknown[0], SPLITS))
    repeated = splits[splits["id"].duplicated(keep=False)]
    if len(repeated):
        sample = repeated["id"].iloc[0]
        found = sorted(set(repeated.loc[repeated["id"] == sample, "split"]))
        raise ValueError(
            f"sample id {sample!r} appears {(splits['id'] == sample).sum()} times, in the splits "
            f"{found}: each id must be unique, or test samples leak into training"
        )
    for split in SPLITS:
        if not (splits["split"] == split).any():
            raise ValueError(f"the split {split!r} is empty: raise `limit` or check the raw files")
    labels = splits["label"].to_numpy()
    if np.issubdtype(labels.dtype, np.integer) and (labels >= 0).any():
        names = classes or [str(label) for label in range(labels.max() + 1)]
        held_out = splits[_are_unlabelled(splits) & (splits["split"] != "train")]
        if len(held_out):
            sample, split = held_out[["id", "split"]].iloc[0]
            raise ValueError(
                f"sample {sample!r} of the split {split!r} has no label: only training samples may "
                f"lack one"
            )
        if LABELLED in splits:
            labels = np.where(splits[LABELLED], labels, UNLABELLED)
        ClassCounts.of(labels, splits["split"].to_numpy(), names, ignored).check(unseen)


def _split_names(count: int, shares: Mapping[str, float] = SHARES) -> np.ndarray:
    """Return split names for `count` consecutive samples, in the given shares."""
    ends = np.round(np.cumsum(list(shares.values())) * count).astype(int)
    return np.repeat(np.array(list(shares), dtype=object), np.diff(ends, prepend=0))


def _interleave(kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an order of the groups that spreads each kind evenly; it is random within a kind."""
    position = np.empty(len(kinds))
    for kind in np.unique(kinds):
        groups = rng.permutation(np.flatnonzero(kinds == kind))
        position[groups] = (np.arange(len(groups)) + 0.5) / len(groups)
    return np.lexsort((kinds, position))
