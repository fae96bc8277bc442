"""Who goes to which split, and who is left out when a limit is set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mst_distill.benchmarks.class_counts import ClassCounts
from mst_distill.benchmarks.source import Protocol
from mst_distill.data.samples import SPLITS
from mst_distill.errors import unknown

SHARES = {"train": 0.6, "valid": 0.2, "test": 0.2}
"""The shares of the splits wherever a benchmark has no official ones."""


def stratified_split(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deal samples into splits, 60 / 20 / 20 within each class.

    Args:
        labels: ``(N,)`` class indices.
        rng: Decides who goes where.

    Returns:
        ``(N,)`` split names.
    """
    split = np.empty(len(labels), dtype=object)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        split[rows] = _deal(len(rows))
    return split


def deal_groups(
    count: int, what: str, rng: np.random.Generator, kinds: np.ndarray | None = None
) -> np.ndarray:
    """Deal groups (speakers, clips, actors) into splits, 60 / 20 / 20, at least one to each.

    Args:
        count: How many groups there are.
        what: What they are, for the error.
        rng: Decides who goes where.
        kinds: ``(count,)``, a kind each (the speaker's sex): every split gets of each kind its
            share, as nearly as whole groups allow. None: at random throughout.

    Returns:
        ``(count,)`` split names.

    Raises:
        ValueError: There are fewer groups than splits.
    """
    if count < len(SPLITS):
        raise ValueError(f"{count} {what}: at least {len(SPLITS)} are needed, one for each split")
    valid, test = (max(1, round(SHARES[name] * count)) for name in ("valid", "test"))
    dealt = np.repeat(np.array(SPLITS), [count - valid - test, valid, test])
    if kinds is None:
        return rng.permutation(dealt)
    split = np.empty_like(dealt)
    split[_alternate(kinds, rng)] = dealt
    return split


def assign_splits(index: pd.DataFrame, protocol: Protocol, seed: int) -> pd.DataFrame:
    """Give every sample its split for this run.

    Args:
        index: The sample store's index.
        protocol: ``heldout`` takes the benchmark's own leak-free split; ``random`` permutes all
            samples by `seed` and cuts 60 / 20 / 20, as the reference does.
        seed: The run's seed; without effect under ``heldout``.

    Returns:
        ``id``, ``group``, ``label`` and ``split``, one row a sample, in store order.

    Raises:
        ValueError: Under ``heldout`` a group stands in two splits; the message names it.
    """
    splits = index[["id", "group", "label", "split"]].reset_index(drop=True)
    if protocol == "random":
        order = np.random.default_rng(seed).permutation(len(splits))
        splits.loc[order, "split"] = _deal(len(splits))
        return splits
    where = splits.groupby("group")["split"].unique()
    if len(torn := where[where.str.len() > 1]):
        raise ValueError(
            f"group {torn.index[0]!r} stands in the splits {sorted(torn.iloc[0])}: under 'heldout' "
            f"a group belongs to one split"
        )
    return splits


def checked_splits(
    index: pd.DataFrame,
    classes: Sequence[str],
    ignored: int | None,
    protocol: Protocol,
    seed: int,
) -> pd.DataFrame:
    """`assign_splits`, where a run on them can be judged.

    Args:
        index: The sample store's index.
        classes: Class names, in the order of the labels.
        ignored: The label that is no target, or None.
        protocol: As there.
        seed: The run's seed.

    Raises:
        ValueError: See `assign_splits` and `check_splits`; under ``random`` the message names the
            seed, for another one may deal so that it works.
    """
    splits = assign_splits(index, protocol, seed)
    try:
        check_splits(splits, classes, ignored)
    except ValueError as error:
        if protocol == "random":
            raise ValueError(
                f"{error} (the protocol 'random' deals samples by the seed, here {seed}: another "
                f"seed may deal them so that it works)"
            ) from error
        raise
    return splits


def stratified_limit(index: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Keep `limit` samples, every (split, label) cell shrunk alike, down to one of each.

    Args:
        index: A source's index.
        limit: How many samples to keep; more than there are keeps all. Fewer than there are cells
            leaves cells empty.

    Returns:
        The rows kept, in their old order, counted anew.
    """
    if limit >= len(index):
        return index
    cells = index.groupby(["split", "label"])
    # A sample's rank within its cell, as a share of the cell: the smallest shares are kept, so that
    # rounding evens out over the cells instead of adding up.
    rank = index.sample(frac=1.0, random_state=0).groupby(["split", "label"]).cumcount()
    size = cells["label"].transform("size")
    share = (rank.reindex(index.index) + 0.5) / size
    first = rank.reindex(index.index) == 0
    kept = share.where(~first, -1.0).nsmallest(limit).index.sort_values()
    return index.loc[kept].reset_index(drop=True)


def check_splits(
    splits: pd.DataFrame, classes: Sequence[str] = (), ignored: int | None = None
) -> None:
    """Refuse a table of splits that no figure could be trusted on.

    Args:
        splits: ``id``, ``label`` and ``split``, a row a sample. Where labels are dense (-1) nothing
            is known here of classes.
        classes: Class names, in the order of the labels; without them labels are told as numbers.
        ignored: The label that is no target, or None.

    Raises:
        ValueError: A sample id appears twice or in two splits, a split's name is unknown, a split
            is empty or holds fewer than two classes, or a class is in ``valid`` or ``test`` and not
            in ``train``; the message names the id, the split or the class.
    """
    if strange := sorted(set(splits["split"]) - set(SPLITS)):
        raise ValueError(unknown("split", strange[0], SPLITS))
    twice = splits[splits["id"].duplicated(keep=False)]
    if len(twice):
        sample = twice["id"].iloc[0]
        where = sorted(set(twice.loc[twice["id"] == sample, "split"]))
        raise ValueError(
            f"sample id {sample!r} appears {(splits['id'] == sample).sum()} times, in the splits "
            f"{where}: every id must be unique, or the test split leaks"
        )
    for split in SPLITS:
        if not (splits["split"] == split).any():
            raise ValueError(f"the split {split!r} is empty: raise `limit` or check the raw files")
    labels = splits["label"].to_numpy()
    if np.issubdtype(labels.dtype, np.integer) and (labels >= 0).any():
        names = classes or [str(label) for label in range(labels.max() + 1)]
        ClassCounts.of(labels, splits["split"].to_numpy(), names, ignored).check()


def _deal(count: int) -> np.ndarray:
    """Split names for `count` samples in a row, in the shares of `SHARES`."""
    ends = np.round(np.cumsum(list(SHARES.values())) * count).astype(int)
    return np.repeat(np.array(SPLITS, dtype=object), np.diff(ends, prepend=0))


def _alternate(kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An order of the groups in which the kinds take turns, at random within a kind."""
    turn = np.empty(len(kinds))
    for kind in np.unique(kinds):
        members = rng.permutation(np.flatnonzero(kinds == kind))
        turn[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((kinds, turn))
