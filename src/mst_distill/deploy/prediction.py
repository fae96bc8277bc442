"""The predictions of a student on new samples, made while they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mst_distill.artifacts.progress import progress

if TYPE_CHECKING:
    from mst_distill.deploy.new_samples import NewSamples
    from mst_distill.deploy.predictor import Predictor


@dataclass(frozen=True)
class PredictedBatch:
    """The predictions on some new samples.

    Attributes:
        table: The columns ``id``, ``label``, ``confidence``, ``p:CLASS`` for each class, and
            ``error``.
        maps: For dense labels the class of each pixel, see `Predictor.predict`; else None.
    """

    table: pd.DataFrame
    maps: list[np.ndarray | None]


@dataclass(frozen=True)
class Predictions:
    """The predictions of a student on all samples of a source; each iteration makes them.

    Attributes:
        predictor: The student.
        samples: The new samples.
        batch_size: Samples that are in memory at a time.
        name: The name of the results.
    """

    predictor: Predictor
    samples: NewSamples
    batch_size: int
    name: str = "new"

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the student."""
        return self.predictor.student_input.classes

    def batches(self) -> Iterator[PredictedBatch]:
        """Read and classify the samples, a few at a time."""
        with progress(range(0), "predict", "sample", total=len(self.samples)) as bar:
            for batch in self.samples.batches(self.batch_size):
                present = [row for row in range(len(batch.ids)) if row not in batch.errors]
                table, maps = self.predictor.predict([batch.values[row] for row in present])
                table.index = pd.Index(present)
                table = table.reindex(range(len(batch.ids)))
                table["label"] = table["label"].fillna("")
                table["error"] = table["error"].fillna(pd.Series(dict(batch.errors), dtype=object))
                table.insert(0, "id", list(batch.ids))
                by_row = dict(zip(present, maps, strict=True))
                yield PredictedBatch(table, [by_row.get(row) for row in range(len(batch.ids))])
                bar.update(len(batch.ids))
