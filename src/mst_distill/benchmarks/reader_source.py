"""A source that reads its modalities with readers, which deployment uses as well."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.benchmarks.source import DamagedSampleError, Protocol, SampleSource
from mst_distill.data.samples import lacks
from mst_distill.media.readers import Reader, UnreadableValueError


class ReaderSource(SampleSource):
    """A source whose modalities are read value by value, each by its reader.

    A subclass sets `readers`, `protocol` and `index`, and implements `values`. What the readers fit
    is fitted on the training split under ``heldout``, and on all samples under ``random``.

    Attributes:
        protocol: How the samples are split; needed only if a reader fits anything.
    """

    protocol: Protocol

    @abstractmethod
    def values(self, modality: str, part: pd.DataFrame) -> Sequence[Any]:
        """Return what the reader of a modality reads.

        Args:
            modality: One of `readers`.
            part: n rows of `index`.

        Returns:
            n raw values: paths, texts, or arrays that the source has decoded.

        Raises:
            DamagedSampleError: A value does not exist.
        """

    def fit(self, folder: Path) -> None:
        """Fit the readers that fit anything, on the samples that have the modality."""
        for modality, reader in self.readers.items():
            if type(reader).fit is not Reader.fit:
                reader.fit(self.values(modality, having(modality, self.rows_to_fit())))

    def rows_to_fit(self) -> pd.DataFrame:
        """Return the rows of `index` on which readers are fitted."""
        if self.protocol == "random":
            return self.index
        return self.index[self.index["split"] == "train"]

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Read each modality of some samples with its reader, and the notes of the readers.

        Modalities that the samples do not have are left out.
        """
        tensors: dict[str, np.ndarray] = {}
        notes: dict[str, np.ndarray] = {}
        for modality, reader in self.readers.items():
            if not len(having(modality, part)):
                continue
            try:
                tensors[modality], noted = reader.read_noted(self.values(modality, part))
            except UnreadableValueError as error:
                sample = part["id"].iloc[error.position]
                raise DamagedSampleError(sample, error.reason) from error
            notes |= noted
        return {**tensors, **notes}


def having(modality: str, part: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of an index whose samples have a modality."""
    return part[~lacks(part, modality)]
