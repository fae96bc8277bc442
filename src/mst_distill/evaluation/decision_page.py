"""The decision on the default as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mst_distill.evaluation.decision import ALL, KEPT
from mst_distill.evaluation.markdown import (
    FIGURES,
    chances,
    interval,
    numbers,
    table_lines,
    tested,
    with_spread,
)

_TERMS = (
    "Intervals and tests are over seeds: they say what other seeds would give on these benchmarks "
    "and held-out samples, not what other benchmarks would. A method with several teachers stands "
    "in each cell with the one that is best there."
)

_CORRECTED = "The corrected p is Holm's for the number of pairs; that of NLL is not corrected."


def decision_page(
    report: Mapping[str, Any], trials: pd.DataFrame, gains: pd.DataFrame, pairs: pd.DataFrame
) -> str:
    """Write what is decided, all methods over all cells, and every cell.

    Args:
        report: From `decide_on`.
        trials: From `gather`.
        gains: From `gain_table`.
        pairs: From `pair_table`.
    """
    cells = list(dict.fromkeys(trials["cell"]))
    lines = [f"# {len(cells)} cells, {trials['seed'].nunique()} seeds", "", _TERMS, ""]
    if report["candidates"]:
        lines += [f"- {sentence}" for sentence in report["sentences"]]
        lines += ["", "## Candidates against their opponents, over all cells", ""]
        lines += table_lines(_candidates(report))
    over = _over_all(gains[gains["cell"] == ALL], report)
    lines += [f"## All methods over all cells, kept by {report['selection']}", ""]
    lines += table_lines(over)
    order = list(dict.fromkeys([*over["method"], *trials["method"]]))
    own = gains[(gains["rule"] == report["selection"]) & (gains["against"] == report["floor"])]
    points = _by_cell(own.assign(said=_points(own, report["confidence"])), order, cells)
    lines += [f"## Points against `{report['floor']}`, cell by cell; bold: beyond chance", ""]
    lines += table_lines(points)
    if len(pairs):
        lines += ["## What single changes do, over all cells", "", _CORRECTED, ""]
        lines += table_lines(_pairs(pairs, report))
    kept = trials[trials["rule"] == report["selection"]].groupby(["method", "cell"])
    for figure, (heading, scale, how) in FIGURES.items():
        table = pd.DataFrame({figure: kept[figure].mean(), f"{figure}_sd": kept[figure].std()})
        table = table.assign(said=with_spread(table, figure, scale, how)).reset_index()
        lines += [
            f"## {heading[0].upper()}{heading[1:]}",
            "",
            *table_lines(_by_cell(table, order, cells)),
        ]
    there = set(kept.groups)
    lacking = {name: [cell for cell in cells if (name, cell) not in there] for name in order}
    for name, without in lacking.items():
        if without:
            lines.append(f"- `{name}` is not in {', '.join(without)}, or some of its trials died.")
    return "\n".join(lines).rstrip() + "\n"


def _candidates(report: Mapping[str, Any]) -> pd.DataFrame:
    rows = pd.DataFrame(
        [
            {"candidate": name, "against": opponent, **row}
            for name, verdict in report["candidates"].items()
            for opponent, row in verdict["against"].items()
        ]
    )
    rows = rows.astype(dict.fromkeys(KEPT, float))  # None, where there is no test, is no number
    table = rows[["candidate", "against"]].copy()
    table["seeds"] = numbers(rows["pairs"], 1, ".0f")
    return table.join([tested(rows, report["confidence"]), _probabilities(rows)])


def _over_all(over: pd.DataFrame, report: Mapping[str, Any]) -> pd.DataFrame:
    own = over[over["rule"] == report["selection"]]
    floor = own[own["against"] == report["floor"]].set_index("method")
    floor = floor.sort_values("difference", ascending=False)
    table = pd.DataFrame({"method": floor.index})
    table[f"points against {report['floor']}"] = numbers(floor["difference"], 100, "+.2f")
    table[f"{report['confidence']:.0%} interval"] = interval(floor)
    for rule, rows in over[over["against"] == report["floor"]].groupby("rule", sort=False):
        if rule != report["selection"]:
            other = rows.set_index("method")["difference"].reindex(floor.index)
            table[f"by {rule}"] = numbers(other, 100, "+.2f")
    table["NLL"] = numbers(floor["nll"], 1, "+.3f")
    table["calibration error, points"] = numbers(floor["calibration_error"], 100, "+.1f")
    for against, rows in own.groupby("against", sort=False):
        if against != report["floor"]:
            other = rows.set_index("method")["difference"].reindex(floor.index)
            table[f"against {against}"] = numbers(other, 100, "+.2f")
    return table


def _pairs(pairs: pd.DataFrame, report: Mapping[str, Any]) -> pd.DataFrame:
    own = pairs[pairs["rule"] == report["selection"]].reset_index(drop=True)
    table = own[["question"]].copy()
    table["held against each other"] = "`" + own["method"] + "` − `" + own["against"] + "`"
    table = table.join(tested(own, report["confidence"]))
    for rule, rows in pairs.groupby("rule", sort=False):
        if rule != report["selection"]:
            table[f"by {rule}"] = numbers(rows["difference"], 100, "+.2f")
    return table.join(_probabilities(own))


def _probabilities(rows: pd.DataFrame) -> pd.DataFrame:
    """What the students' probabilities differ by."""
    return pd.DataFrame(
        {
            "NLL": numbers(rows["nll"], 1, "+.3f"),
            "its p": chances(rows["nll_p"]),
            "calibration error, points": numbers(rows["calibration_error"], 100, "+.1f"),
        }
    )


def _points(rows: pd.DataFrame, confidence: float) -> list[str]:
    said = numbers(rows["difference"], 100, "+.2f")
    sure = rows["p"] < 1 - confidence
    return [f"**{points}**" if bold else points for points, bold in zip(said, sure, strict=True)]


def _by_cell(rows: pd.DataFrame, order: list[str], cells: list[str]) -> pd.DataFrame:
    """What is ``said``, methods by cells."""
    table = rows.pivot_table("said", "method", "cell", aggfunc="first")
    known = [method for method in order if method in table.index]
    return table.reindex(index=known, columns=cells).fillna("–").reset_index()
