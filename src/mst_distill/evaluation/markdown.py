"""Tables of figures as Markdown."""

from __future__ import annotations

import pandas as pd

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
    """``LOW to HIGH`` in points, from the columns ``low`` and ``high``."""
    low, high = (numbers(table[side], 100, "+.2f") for side in ("low", "high"))
    return [" to ".join(ends) for ends in zip(low, high, strict=True)]


def tested(rows: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """What paired tests of accuracy found: points, interval, p, and if there is one the corrected.

    Args:
        rows: ``difference``, ``low``, ``high``, ``p`` and, where corrected, ``p_corrected``.
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
