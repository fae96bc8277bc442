"""Class counts of each split: which splits cannot be evaluated, and what is worth a warning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mst_distill.data.samples import SPLITS

FEW = 5
"""A class with fewer training samples or pixels than this gets a warning."""

LISTED = 10
"""Maximum number of classes that a warning names."""

BLOCK = 2**24
"""Number of labels that are counted at a time."""

_NEEDED = {
    "train": "to learn to distinguish them",
    "valid": "to select an epoch by its accuracy",
    "test": "to evaluate a student",
}


@dataclass(frozen=True)
class ClassCounts:
    """Number of labels of each class in each split.

    Attributes:
        table: Counts of samples, or of pixels if the labels are dense. One row for each class
            except the ignored one, indexed by its name; one column for each split.
        dense: Whether the counts are of pixels.
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
        """Count the labels block by block, because dense labels may be larger than memory.

        Args:
            labels: ``(N,)`` or ``(N, H, W)`` class indices; values that are not the index of a
                class are not counted.
            split: ``(N,)`` split names.
            classes: Class names, in the order of the labels.
            ignored: The label that is not a target, or None.
        """
        splits = np.asarray(split)
        counts = np.zeros((len(classes), len(SPLITS)), dtype=np.int64)
        step = max(1, BLOCK // max(1, int(np.prod(labels.shape[1:]))))
        for start in range(0, len(labels), step):
            block = np.asarray(labels[start : start + step])
            for column, name in enumerate(SPLITS):
                found = block[splits[start : start + step] == name].ravel()
                known = found[(found >= 0) & (found < len(classes))].astype(np.int64)
                counts[:, column] += np.bincount(known, minlength=len(classes))
        table = pd.DataFrame(counts, index=list(classes), columns=list(SPLITS))
        if ignored is not None and 0 <= ignored < len(classes):
            table = table.drop(index=classes[ignored])
        return cls(table, labels.ndim > 1)

    def check(self, unseen: bool = True) -> None:
        """Check that a run on these splits can be evaluated.

        Args:
            unseen: Whether a class without training samples is an error.

        Raises:
            ValueError: A split has fewer than two classes, or a class has samples in ``valid`` or
                ``test`` but none in ``train``; the message names the split and the class. With
                dense labels, the second case only yields a warning, because it is to be expected
                of some of many rare classes.
        """
        for split in SPLITS:
            present = list(self.table.index[self.table[split] > 0])
            if len(present) < 2:
                what = f"only one class, {present[0]!r}" if present else "no class"
                raise ValueError(
                    f"the split {split!r} contains {what}: at least two classes are needed "
                    f"{_NEEDED[split]}"
                )
        found = self._unseen()
        if unseen and len(found) and not self.dense:
            name, counts = found.index[0], found.iloc[0]
            others = " and ".join(f"{counts[key]} in {key!r}" for key in SPLITS if counts[key])
            raise ValueError(
                f"the class {name!r} has no sample in 'train', but {others}: it cannot be "
                f"learned. Assign its samples to the splits differently, or leave the class out"
            )

    def warnings(self) -> list[str]:
        """Return one sentence for each problem with the classes that are hard to learn or evaluate.

        Each sentence lists the classes that it concerns.
        """
        unit = "pixels" if self.dense else "samples"
        table = self.table
        present = table[table.sum(axis=1) > 0]
        few = present.loc[present["train"].between(1, FEW - 1), "train"]
        counted = pd.Index([f"{name!r} ({count})" for name, count in few.items()])
        lists = {
            f"Classes without any {unit}, for which no metric is computed": table.index.difference(
                present.index, sort=False
            ).map(repr),
            f"Classes that are in 'valid' or 'test' without training {unit}, so that they cannot "
            f"be learned": self._unseen().index.map(repr),
            f"Classes with fewer than {FEW} training {unit}, which can hardly be learned": counted,
            f"Classes without {unit} in 'valid', which do not count when an epoch is selected": (
                _lacking(present, "valid")
            ),
            f"Classes without {unit} in 'test', for which no test metric is computed": _lacking(
                present, "test"
            ),
        }
        return [f"{problem}: {_listed(names)}." for problem, names in lists.items() if len(names)]

    def _unseen(self) -> pd.DataFrame:
        table = self.table
        return table[(table["train"] == 0) & (table[["valid", "test"]].sum(axis=1) > 0)]


def _lacking(table: pd.DataFrame, split: str) -> pd.Index:
    return table.index[table[split] == 0].map(repr)


def _listed(names: pd.Index) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
