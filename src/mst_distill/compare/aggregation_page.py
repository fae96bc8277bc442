"""The comparisons of several benchmarks as a page of Markdown."""

from __future__ import annotations

import pandas as pd

from mst_distill.compare.aggregation import ALL
from mst_distill.compare.markdown import (
    FIGURES,
    interval,
    numbers,
    table_lines,
    with_spread,
)

_TERMS = (
    "Intervals and tests are over seeds: they state what other seeds would give on these "
    "benchmarks and held-out samples, not what other benchmarks would. A method with several "
    "teachers is represented in each setting by the one that is best there."
)


def aggregation_page(
    trials: pd.DataFrame, gains: pd.DataFrame, baseline: str, selection: str, confidence: float
) -> str:
    """Write all methods over all settings, and every setting.

    Args:
        trials: From `gather`.
        gains: From `gain_table`.
        baseline: The method that the others are compared with.
        selection: The rule of selection whose students are shown first.
        confidence: Of the intervals.
    """
    settings = list(dict.fromkeys(trials["setting"]))
    lines = [f"# {len(settings)} settings, {trials['seed'].nunique()} seeds", "", _TERMS, ""]
    over = _over_all(gains[gains["setting"] == ALL], baseline, selection, confidence)
    lines += [f"## All methods over all settings, selected by {selection}", ""]
    lines += table_lines(over)
    order = list(dict.fromkeys([*over["method"], *trials["method"]]))
    own = gains[gains["rule"] == selection]
    points = _by_setting(own.assign(text=_points(own, confidence)), order, settings)
    lines += [f"## Points against `{baseline}` by setting; bold: beyond chance", ""]
    lines += table_lines(points)
    kept = trials[trials["rule"] == selection].groupby(["method", "setting"])
    for figure, (heading, scale, how) in FIGURES.items():
        table = pd.DataFrame({figure: kept[figure].mean(), f"{figure}_sd": kept[figure].std()})
        table = table.assign(text=with_spread(table, figure, scale, how)).reset_index()
        lines += [
            f"## {heading[0].upper()}{heading[1:]}",
            "",
            *table_lines(_by_setting(table, order, settings)),
        ]
    there = set(kept.groups)
    for name in order:
        if without := [setting for setting in settings if (name, setting) not in there]:
            lines.append(
                f"- `{name}` is not in {', '.join(without)}, or some of its trials failed."
            )
    return "\n".join(lines).rstrip() + "\n"


def _over_all(over: pd.DataFrame, baseline: str, selection: str, confidence: float) -> pd.DataFrame:
    own = over[over["rule"] == selection].set_index("method")
    own = own.sort_values("difference", ascending=False)
    table = pd.DataFrame({"method": own.index})
    table[f"points against {baseline}"] = numbers(own["difference"], 100, "+.2f")
    table[f"{confidence:.0%} interval"] = interval(own)
    for rule, rows in over.groupby("rule", sort=False):
        if rule != selection:
            other = rows.set_index("method")["difference"].reindex(own.index)
            table[f"by {rule}"] = numbers(other, 100, "+.2f")
    table["NLL"] = numbers(own["nll"], 1, "+.3f")
    table["calibration error, points"] = numbers(own["calibration_error"], 100, "+.1f")
    return table


def _points(rows: pd.DataFrame, confidence: float) -> list[str]:
    texts = numbers(rows["difference"], 100, "+.2f")
    sure = rows["p"] < 1 - confidence
    return [f"**{points}**" if bold else points for points, bold in zip(texts, sure, strict=True)]


def _by_setting(rows: pd.DataFrame, order: list[str], settings: list[str]) -> pd.DataFrame:
    """The column ``text``, methods by settings."""
    table = rows.pivot_table("text", "method", "setting", aggfunc="first")
    known = [method for method in order if method in table.index]
    return table.reindex(index=known, columns=settings).fillna("–").reset_index()
