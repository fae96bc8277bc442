"""The names of folds, in parameters and in paths."""

from __future__ import annotations

import re


def fold_numbers(fold: str) -> tuple[int, int] | None:
    """Return I and K of a fold ``I/K``; None for the name of a group.

    Raises:
        ValueError: I is not in 1 ... K, or K is below 3.
    """
    if not (found := re.fullmatch(r"(\d+)/(\d+)", fold)):
        return None
    number, count = int(found[1]), int(found[2])
    if not 1 <= number <= count or count < 3:
        raise ValueError(f"fold is {fold!r}; it must be I/K with I in 1 ... K and K at least 3")
    return number, count
