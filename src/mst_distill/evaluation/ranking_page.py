"""The comparison as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mst_distill.evaluation.ranking import BEST

_FIGURES = {
    "accuracy": ("accuracy, %", 100, ".2f"),
    "nll": ("NLL", 1, ".3f"),
    "calibration_error": ("calibration error, %", 100, ".1f"),
}
"""Figure to its name on the page, its scale and how it is written."""


def ranking_page(
    report: Mapping[str, Any], ranking: pd.DataFrame, differences: pd.DataFrame
) -> str:
    """Write what was compared, who wins, and every table.

    Args:
        report: From `report_on`.
        ranking: From `rank`.
        differences: From `difference_table`.
    """
    lines = [f"# {report['heading']}", "", report["terms"], ""]
    for target, sentences in report["verdicts"].items():
        lines += [f"## The {target} student", "", *[f"- {line}" for line in sentences], ""]
        of_target = ranking[ranking["target"] == target]
        lines += _lines(_means(of_target, report["selection"]))
        lines += ["### By the other rules", "", *_lines(_other_rules(of_target))]
        for against, rows in differences.groupby("against", sort=False):
            rows = rows[rows["target"] == target]
            lines += [f"### Against {_quoted(str(against))}", ""]
            lines += _lines(_gains(rows, report["confidence"]))
    if report["missing"]:
        lines += ["## Missing", "", *_lines(pd.DataFrame(report["missing"]))]
    return "\n".join(lines).rstrip() + "\n"


def _quoted(against: str) -> str:
    return against if against == BEST else f"`{against}`"


def _means(ranking: pd.DataFrame, selection: str) -> pd.DataFrame:
    table = pd.DataFrame({"method": ranking["title"]})
    table["runs"] = [
        f"{runs} ({missing} missing)" if missing else f"{runs}"
        for runs, missing in zip(ranking["runs"], ranking["missing"], strict=True)
    ]
    for figure, (name, scale, how) in _FIGURES.items():
        kept = f" (kept by {selection})" if figure == "accuracy" else ""
        table[name + kept] = _with_spread(ranking, figure, scale, how)
    table["student epochs"] = _numbers(ranking["student_epochs"], 1, ".0f")
    table["seconds"] = _numbers(ranking["seconds"], 1, ".1f")
    table["peak, MB"] = _numbers(ranking["peak_bytes"], 1e-6, ".0f")
    table["extra weights"] = _numbers(ranking["extra_parameters"], 1, ",.0f")
    return table


def _other_rules(ranking: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({"method": ranking["title"]})
    for figure, (name, scale, how) in _FIGURES.items():
        for column in [name for name in map(str, ranking) if name.startswith(f"{figure}_by_")]:
            rule = column.removeprefix(f"{figure}_by_")
            table[f"{name} by {rule}"] = _numbers(ranking[column], scale, how)
    return table


def _gains(rows: pd.DataFrame, confidence: float) -> pd.DataFrame:
    low, high = (_numbers(rows[side], 100, "+.2f") for side in ("low", "high"))
    table = rows[["title", "rule", "opponent"]].rename(columns={"title": "method"})
    table["points"] = _numbers(rows["difference"], 100, "+.2f")
    interval = [" to ".join(ends) for ends in zip(low, high, strict=True)]
    table[f"{confidence:.0%} interval"] = interval
    table["p"] = _numbers(rows["p"], 1, ".4f")
    table["corrected"] = _numbers(rows["p_corrected"], 1, ".4f")
    return table.drop(columns=[] if (rows["against"] == BEST).all() else ["opponent"])


def _with_spread(table: pd.DataFrame, figure: str, scale: float, how: str) -> list[str]:
    means, spreads = (_numbers(table[name], scale, how) for name in (figure, f"{figure}_sd"))
    return [
        mean if spread == "–" else f"{mean} ± {spread}"
        for mean, spread in zip(means, spreads, strict=True)
    ]


def _numbers(values: pd.Series, scale: float, how: str) -> list[str]:
    return ["–" if pd.isna(value) else format(scale * value, how) for value in values]


def _lines(table: pd.DataFrame) -> list[str]:
    cells: list[list[str]] = table.astype(str).to_numpy().tolist()
    rows = [list(map(str, table)), ["---"] * table.shape[1], *cells]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows] + [""]
