"""The comparison as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mst_distill.compare.markdown import FIGURES, numbers, table_lines, tested, with_spread
from mst_distill.compare.ranking import BEST


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
        lines += table_lines(_means(of_target, report["selection"]))
        lines += ["### By the other rules", "", *table_lines(_other_rules(of_target))]
        for against, rows in differences.groupby("against", sort=False):
            rows = rows[rows["target"] == target]
            lines += [f"### Against {_quoted(str(against))}", ""]
            lines += table_lines(_gains(rows, report["confidence"]))
    if report["missing"]:
        lines += ["## Missing", "", *table_lines(pd.DataFrame(report["missing"]))]
    return "\n".join(lines).rstrip() + "\n"


def _quoted(against: str) -> str:
    return against if against == BEST else f"`{against}`"


def _means(ranking: pd.DataFrame, selection: str) -> pd.DataFrame:
    table = pd.DataFrame({"method": ranking["title"]})
    table["runs"] = [
        f"{runs} ({missing} missing)" if missing else f"{runs}"
        for runs, missing in zip(ranking["runs"], ranking["missing"], strict=True)
    ]
    for figure, (name, scale, how) in FIGURES.items():
        kept = f" (kept by {selection})" if figure == "accuracy" else ""
        table[name + kept] = with_spread(ranking, figure, scale, how)
    table["student epochs"] = numbers(ranking["student_epochs"], 1, ".0f")
    table["seconds"] = numbers(ranking["seconds"], 1, ".1f")
    table["peak, MB"] = numbers(ranking["peak_bytes"], 1e-6, ".0f")
    table["extra weights"] = numbers(ranking["extra_parameters"], 1, ",.0f")
    return table


def _other_rules(ranking: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({"method": ranking["title"]})
    for figure, (name, scale, how) in FIGURES.items():
        for column in [name for name in map(str, ranking) if name.startswith(f"{figure}_by_")]:
            rule = column.removeprefix(f"{figure}_by_")
            table[f"{name} by {rule}"] = numbers(ranking[column], scale, how)
    return table


def _gains(rows: pd.DataFrame, confidence: float) -> pd.DataFrame:
    table = rows[["title", "rule", "opponent"]].rename(columns={"title": "method"})
    table = table.join(tested(rows, confidence))
    return table.drop(columns=[] if (rows["against"] == BEST).all() else ["opponent"])
