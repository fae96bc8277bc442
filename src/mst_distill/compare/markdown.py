"""Tables of figures as Markdown."""

from __future__ import annotations

import pandas as pd

from mst_distill.compare.ranking import FEWEST

FIGURES = {
    "accuracy": ("accuracy, %", 100, ".2f"),
    "nll": ("NLL", 1, ".3f"),
    "calibration_error": ("calibration error, %", 100, ".1f"),
}
"""Figure to its name on a page, its scale and how it is written."""


def table_lines(table: pd.DataFrame) -> list[str]:
    """The lines of a table, and an empty one behind it."""
    cells: list[list[str]] = table.astype(str).to_numpy().tolist()
    rows = [list(map(str, table)), ["---"] * table.shape[1], *cells]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows] + [""]


def numbers(values: pd.Series, scale: float, how: str) -> list[str]:
    """Each value times `scale` as the format `how` writes it; a dash where there is none."""
    return ["–" if pd.isna(value) else format(scale * value, how) for value in values]


def chances(p: pd.Series) -> list[str]:
    """p-values to a thousandth, smaller ones as ``<.001``; a dash where there is none."""
    said = numbers(p, 1, ".3f")
    return ["<.001" if value < 0.0005 else text for value, text in zip(p, said, strict=True)]


def with_spread(table: pd.DataFrame, figure: str, scale: float, how: str) -> list[str]:
    """Mean and standard deviation, from the columns ``FIGURE`` and ``FIGURE_sd``."""
    means, spreads = (numbers(table[name], scale, how) for name in (figure, f"{figure}_sd"))
    return [
        mean if spread == "–" else f"{mean} ± {spread}"
        for mean, spread in zip(means, spreads, strict=True)
    ]


def interval(table: pd.DataFrame) -> list[str]:
    """``LOW to HIGH`` in points, or why there is no interval.

    Args:
        table: ``low``, ``high`` and ``pairs``, the number of seeds.
    """
    low, high = (numbers(table[side], 100, "+.2f") for side in ("low", "high"))
    return [
        _why_none(int(pairs)) if pd.isna(known) else " to ".join(ends)
        for pairs, known, *ends in zip(table["pairs"], table["low"], low, high, strict=True)
    ]


def _why_none(pairs: int) -> str:
    if pairs < FEWEST:
        return f"no interval: {pairs} seed{'s' * (pairs != 1)}"
    return "no interval: all differences are equal"


def tested(rows: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """What paired tests of accuracy found: points, interval, p, and if there is one the corrected.

    Args:
        rows: ``pairs``, ``difference``, ``low``, ``high``, ``p`` and, where corrected,
            ``p_corrected``.
        confidence: Of the intervals, in (0, 1).
    """
    table = pd.DataFrame(
        {
            "points": numbers(rows["difference"], 100, "+.2f"),
            f"{confidence:.0%} interval": interval(rows),
            "p": chances(rows["p"]),
        },
        index=rows.index,
    )
    return table.assign(corrected=chances(rows["p_corrected"])) if "p_corrected" in rows else table
