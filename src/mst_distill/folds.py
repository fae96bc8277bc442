"""The names of folds, in parameters and in paths."""

from __future__ import annotations

import re

_FOLD = re.compile(r"(\d+)/(\d+)")


def fold_numbers(fold: str) -> tuple[int, int] | None:
    """Return I and K of a fold ``I/K``; None for the name of a group.

    Raises:
        ValueError: I is not in 1 ... K, or K is below 3.
    """
    if not (found := _FOLD.fullmatch(fold)):
        return None
    number, count = int(found[1]), int(found[2])
    if not 1 <= number <= count or count < 3:
        raise ValueError(f"fold is {fold!r}; it must be I/K with I in 1 ... K and K at least 3")
    return number, count


def fold_in_path(fold: str | None, seed: int) -> str:
    """The part of a path that distinguishes deals: ``2of5``, the name of a group, or ``seed-0``."""
    if fold is None:
        return f"seed-{seed}"
    found = _FOLD.fullmatch(fold)
    return f"{int(found[1])}of{int(found[2])}" if found else fold


def kind_of_deal(part: str) -> tuple[str, int]:
    """The kind of deal of a `fold_in_path`: ``folds`` with their number, ``seed`` or ``group``."""
    if found := re.fullmatch(r"\d+of(\d+)", part):
        return "folds", int(found[1])
    return ("seed" if re.fullmatch(r"seed-\d+", part) else "group"), 0
