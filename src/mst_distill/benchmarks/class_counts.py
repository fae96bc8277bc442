"""How much of each class every split holds: what cannot be judged, and what hardly can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mst_distill.data.samples import SPLITS

FEW = 5
"""Of a class with fewer training samples a warning says that it can hardly be learned."""

LISTED = 10
"""Classes that a warning names, at most."""

BLOCK = 2**24
"""Labels that are counted at a time."""

_NEEDED = {
    "train": "to learn how they differ",
    "valid": "to choose an epoch by its accuracy",
    "test": "to judge a student",
}


@dataclass(frozen=True)
class ClassCounts:
    """Labels of each class in every split.

    Attributes:
        table: A row a class by its name, without the ignored one; a column a split. Counts of
            samples, or of pixels where labels are dense.
        dense: Whether these are pixels.
    """

    table: pd.DataFrame
    dense: bool

    @classmethod
    def of(
        cls,
        labels: np.ndarray,
        split: Sequence[str] | np.ndarray,
        classes: Sequence[str],
        ignored: int | None,
    ) -> ClassCounts:
        """Count labels, block by block: they may be larger than memory.

        Args:
            labels: ``(N,)`` or ``(N, H, W)``; what is no class is not counted.
            split: ``(N,)`` names of splits.
            classes: Their names, in the order of the labels.
            ignored: The label that is no target, or None.
        """
        where = np.asarray(split)
        counts = np.zeros((len(classes), len(SPLITS)), dtype=np.int64)
        step = max(1, BLOCK // max(1, int(np.prod(labels.shape[1:]))))
        for start in range(0, len(labels), step):
            part = np.asarray(labels[start : start + step])
            for column, name in enumerate(SPLITS):
                here = part[where[start : start + step] == name].ravel()
                known = here[(here >= 0) & (here < len(classes))].astype(np.int64)
                counts[:, column] += np.bincount(known, minlength=len(classes))
        table = pd.DataFrame(counts, index=list(classes), columns=list(SPLITS))
        if ignored is not None and 0 <= ignored < len(classes):
            table = table.drop(index=classes[ignored])
        return cls(table, labels.ndim > 1)

    def check(self) -> None:
        """Raise where any figure would be told of nothing.

        Raises:
            ValueError: A split has fewer than two classes, or a class is in ``valid`` or ``test``
                and not in ``train``; the message names split and class. Of pixels the second is a
                warning only: among many rare classes some are bound to be so.
        """
        for split in SPLITS:
            here = list(self.table.index[self.table[split] > 0])
            if len(here) < 2:
                what = f"one class alone, {here[0]!r}" if here else "no class"
                raise ValueError(
                    f"the split {split!r} holds {what}: at least two classes are needed "
                    f"{_NEEDED[split]}"
                )
        unseen = self._unseen()
        if len(unseen) and not self.dense:
            name, counts = unseen.index[0], unseen.iloc[0]
            elsewhere = " and ".join(f"{counts[of]} in {of!r}" for of in SPLITS if counts[of])
            raise ValueError(
                f"the class {name!r} has no sample in 'train' and {elsewhere}: it cannot be "
                f"learned. Deal its samples otherwise, or leave the class out"
            )

    def warnings(self) -> list[str]:
        """What can hardly be learned or judged, a sentence a kind with the classes it concerns."""
        what = "pixels" if self.dense else "samples"
        table = self.table
        there = table[table.sum(axis=1) > 0]
        few = there.loc[there["train"].between(1, FEW - 1), "train"]
        counted = pd.Index([f"{name!r} ({count})" for name, count in few.items()])
        lists = {
            f"Classes without any {what}, which no figure can tell of": table.index.difference(
                there.index, sort=False
            ).map(repr),
            f"Classes that are in 'valid' or 'test' without training {what}, so that they cannot "
            f"be learned": self._unseen().index.map(repr),
            f"Classes with fewer than {FEW} training {what}, which can hardly be learned": counted,
            f"Classes without {what} in 'valid', on which no epoch is chosen": _lacking(
                there, "valid"
            ),
            f"Classes without {what} in 'test', of which no figure tells": _lacking(there, "test"),
        }
        return [f"{kind}: {_listed(names)}." for kind, names in lists.items() if len(names)]

    def _unseen(self) -> pd.DataFrame:
        table = self.table
        return table[(table["train"] == 0) & (table[["valid", "test"]].sum(axis=1) > 0)]


def _lacking(table: pd.DataFrame, split: str) -> pd.Index:
    return table.index[table[split] == 0].map(repr)


def _listed(names: pd.Index) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
