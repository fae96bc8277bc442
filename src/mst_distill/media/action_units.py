"""OpenFace's action units of the face, averaged over the frames of a clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mst_distill.media.numbers import StandardisedNumbers

INTENSITIES = tuple(
    f"AU{unit:02d}_r" for unit in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
)
"""The 17 intensities, 0 to 5."""

PRESENCES = tuple(f"{unit[:-2]}_c" for unit in (*INTENSITIES[:-1], "AU28_r", "AU45_r"))
"""In what share of the frames each of 18 units occurs."""

UNITS = (*INTENSITIES, *PRESENCES)


@dataclass
class ActionUnits(StandardisedNumbers):
    """The 35 units of a clip, standardised; a unit that never changes is 0."""

    names: tuple[str, ...] = UNITS

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one clip as ``(35,)`` float32.

        Raises:
            ValueError: A unit is empty or out of range, or all are 0, as where no face was found.
        """
        for unit, number in zip(self.names, value, strict=True):
            maximum = 5 if unit in INTENSITIES else 1
            if not 0 <= number <= maximum:
                raise ValueError(f"{unit} is {number}, expected a number from 0 to {maximum}")
        if not np.any(value):
            raise ValueError("all units are 0, which indicates that no face was found")
        return super().read_one(value)
