"""The page of a comparison in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mst_distill.compare.markdown import (
    METRICS,
    SCALED,
    comparison_columns,
    format_mean_and_sd,
    format_numbers,
    render,
)
from mst_distill.compare.ranking import BEST_OTHER

PAGE = """
# {{ report.heading }}

{{ report.terms }} {{ scaled }}

{% for target, section in targets.items() %}
## The {{ target }} student

{% for sentence in section.verdicts %}
- {{ sentence }}
{% endfor %}

{{ section.means | table }}

### By the other selection criteria

{{ section.other_criteria | table }}

{% for comparator, differences in section.differences.items() %}
### Against {{ comparator }}

{{ differences | table }}

{% endfor %}
{% endfor %}
{% if failed is not none %}
## Failed trials

{{ failed | table }}
{% endif %}
"""


def ranking_page(
    report: Mapping[str, Any], ranking: pd.DataFrame, differences: pd.DataFrame
) -> str:
    """Write the conditions of the comparison, the verdicts and all tables.

    Args:
        report: From `report_on`.
        ranking: From `rank`.
        differences: From `difference_table`.
    """
    confidence, selection = report["confidence"], report["selection"]
    targets = {}
    for target, sentences in report["verdicts"].items():
        of_target = ranking[ranking["target"] == target]
        groups = differences[differences["target"] == target].groupby("against", sort=False)
        targets[target] = {
            "verdicts": sentences,
            "means": _means(of_target, selection),
            "other_criteria": _other_criteria(of_target),
            "differences": {
                _quoted(str(against)): _differences(rows, confidence) for against, rows in groups
            },
        }
    failed = pd.DataFrame(report["missing"]) if report["missing"] else None
    return render(PAGE, report=report, scaled=SCALED, targets=targets, failed=failed)


def _quoted(against: str) -> str:
    return against if against == BEST_OTHER else f"`{against}`"


def _means(ranking: pd.DataFrame, selection: str) -> pd.DataFrame:
    table = pd.DataFrame({"method": ranking["title"]})
    table["runs"] = [
        f"{runs} ({missing} failed)" if missing else f"{runs}"
        for runs, missing in zip(ranking["runs"], ranking["missing"], strict=True)
    ]
    for metric, (heading, scale, spec) in METRICS.items():
        note = f" (selected by {selection})" if metric == "accuracy" else ""
        table[heading + note] = format_mean_and_sd(ranking, metric, scale, spec)
    table["student epochs"] = format_numbers(ranking["student_epochs"], 1, ".0f")
    table["seconds"] = format_numbers(ranking["seconds"], 1, ".1f")
    table["peak, MB"] = format_numbers(ranking["peak_bytes"], 1e-6, ".0f")
    table["extra weights"] = format_numbers(ranking["extra_parameters"], 1, ",.0f")
    return table


def _other_criteria(ranking: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({"method": ranking["title"]})
    for metric, (heading, scale, spec) in METRICS.items():
        for column in [name for name in map(str, ranking) if name.startswith(f"{metric}_by_")]:
            criterion = column.removeprefix(f"{metric}_by_")
            table[f"{heading} by {criterion}"] = format_numbers(ranking[column], scale, spec)
    return table


def _differences(rows: pd.DataFrame, confidence: float) -> pd.DataFrame:
    table = rows[["title", "selection", "comparator"]].rename(columns={"title": "method"})
    table = table.join(comparison_columns(rows, confidence))
    return table.drop(columns=[] if (rows["against"] == BEST_OTHER).all() else ["comparator"])
