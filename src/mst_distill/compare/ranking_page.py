"""The page of a comparison in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from mst_distill.compare.markdown import (
    SCALED,
    columns_of,
    comparison_columns,
    cost_columns,
    escaped,
    format_intervals,
    format_mean_and_sd,
    format_numbers,
    render,
)
from mst_distill.compare.ranking import BEST_CONTROL, BEST_OTHER
from mst_distill.compare.student_sizes import size_sentences
from mst_distill.metric import Metric, metric_of

BESTS = (BEST_CONTROL, BEST_OTHER)

PAGE = """
# {{ report.heading }}

{{ report.terms }} {{ scaled }}

{% for target, section in targets.items() %}
## The {{ target }} student

{% for sentence in section.verdicts + section.limits %}
- {{ sentence }}
{% endfor %}

{{ section.means | table }}

### By the other selection criteria

{{ section.other_criteria | table }}

{% for comparator, differences in section.differences.items() %}
### Against {{ comparator if comparator in bests else "`" ~ comparator ~ "`" }}

{{ differences | table }}

{% endfor %}
{% if section.settings is not none %}
### Settings, chosen by validation

{{ section.settings | table }}

{% endif %}
{% endfor %}
{% if sizes is not none %}
## Students and what they cost

{% for sentence in size_sentences %}
- {{ sentence }}
{% endfor %}

{{ sizes | table }}

{{ size_note }}

{% endif %}
{% if failed is not none %}
## Failed trials

{{ failed | table }}
{% endif %}
"""


SIZE_NOTE = (
    "Milliseconds are those of a sample, for the exported ONNX file with one thread of the CPU on "
    "which they were measured: the median, and in brackets the 95th percentile. Multiply-adds are "
    "those of matrix products, convolutions and attention. The method of a student is the one with "
    "the largest mean validation {title}; *beaten by* names a student that is at least as good in "
    "less time."
)


def ranking_page(
    report: Mapping[str, Any],
    ranking: pd.DataFrame,
    differences: pd.DataFrame,
    sizes: pd.DataFrame | None = None,
) -> str:
    """Write the conditions of the comparison, the verdicts and all tables.

    Args:
        report: From `report_on`.
        ranking: From `rank`.
        differences: From `difference_table`.
        sizes: From `size_table`; without rows, there is no part on it.
    """
    failed = failed_trials(report)
    return render(
        PAGE,
        report=report,
        scaled=SCALED,
        targets=ranking_sections(report, ranking, differences),
        failed=None if failed is None else failed.map(escaped),
        **size_section(sizes, report),
        bests=BESTS,
    )


def ranking_sections(
    report: Mapping[str, Any], ranking: pd.DataFrame, differences: pd.DataFrame
) -> dict[str, dict[str, Any]]:
    """Collect the contents of the page, as tables of texts.

    Args:
        report: From `report_on`.
        ranking: From `rank`.
        differences: From `difference_table`.

    Returns:
        Target to ``verdicts`` and ``limits`` (sentences), ``means`` and ``other_criteria``
        (tables), ``differences`` (comparator to table), and ``settings`` (a table, or None without
        tuning).
    """
    confidence, selection = report["confidence"], report["selection"]
    metric = metric_in(report)
    sections = {}
    for target, sentences in report["verdicts"].items():
        of_target = ranking[ranking["target"] == target]
        groups = differences[differences["target"] == target].groupby("against", sort=False)
        sections[target] = {
            "verdicts": sentences,
            "limits": report["limits"][target],
            "means": _means(of_target, selection, metric),
            "other_criteria": _other_criteria(of_target, metric),
            "differences": {
                str(against): _differences(rows, confidence, metric) for against, rows in groups
            },
            "settings": _settings(report, target, metric),
        }
    return sections


def metric_in(report: Mapping[str, Any]) -> Metric:
    """The metric that decides, from `report_on`."""
    return metric_of(report.get("metric", "accuracy"))


def size_section(sizes: pd.DataFrame | None, report: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the part of the page on students of several sizes.

    Args:
        sizes: From `size_table`.
        report: From `report_on`.

    Returns:
        ``sizes`` (a table of texts, or None), ``size_sentences`` and ``size_note``.
    """
    metric = metric_in(report)
    if sizes is None or not len(sizes):
        return {"sizes": None, "size_sentences": [], "size_note": ""}
    table = pd.DataFrame({"student": sizes["student"], "method": sizes["method"]})
    scale, spec = metric.scale, metric.spec()
    table[metric.heading] = format_numbers(sizes[metric.name], scale, spec)
    intervals = sizes.rename(columns={"seeds": "pairs"})
    level = f"{report['confidence']:.0%}"
    table[f"{level} interval"] = format_intervals(intervals, spec, scale=scale)
    table["weights"] = format_numbers(sizes["parameters"], 1, ",.0f")
    table["multiply-adds"] = format_numbers(sizes["multiply_adds"], 1, ",.0f")
    table["bytes"] = format_numbers(sizes["bytes"], 1, ",.0f")
    for name, heading in (("milliseconds", "ms"), ("milliseconds_of_32", "ms, batch of 32")):
        median, p95 = (format_numbers(sizes[of], 1, ".3g") for of in (name, f"{name}_p95"))
        table[heading] = [f"{one} ({other})" for one, other in zip(median, p95, strict=True)]
    table["beaten by"] = sizes["beaten_by"].fillna("")
    sentences = list(size_sentences(sizes, report["baseline"], metric))
    return {
        "sizes": table,
        "size_sentences": sentences,
        "size_note": SIZE_NOTE.format(title=metric.title),
    }


def failed_trials(report: Mapping[str, Any]) -> pd.DataFrame | None:
    """Return the table of the trials that failed; None if there are none."""
    return pd.DataFrame(report["missing"]) if report["missing"] else None


def _means(ranking: pd.DataFrame, selection: str, metric: Metric) -> pd.DataFrame:
    table = pd.DataFrame({"method": ranking["title"]})
    table["runs"] = [
        f"{runs} ({missing} failed)" if missing else f"{runs}"
        for runs, missing in zip(ranking["runs"], ranking["missing"], strict=True)
    ]
    for name, (heading, scale, spec) in columns_of(metric).items():
        note = f" (selected by {selection})" if name == metric.name else ""
        table[heading + note] = format_mean_and_sd(ranking, name, scale, spec)
    return table.assign(**cost_columns(ranking))


def _other_criteria(ranking: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    table = pd.DataFrame({"method": ranking["title"]})
    for name, (heading, scale, spec) in columns_of(metric).items():
        for column in [of for of in map(str, ranking) if of.startswith(f"{name}_by_")]:
            criterion = column.removeprefix(f"{name}_by_")
            table[f"{heading} by {criterion}"] = format_numbers(ranking[column], scale, spec)
    return table


def _differences(rows: pd.DataFrame, confidence: float, metric: Metric) -> pd.DataFrame:
    table = rows[["title", "selection", "comparator"]].rename(columns={"title": "method"})
    table = table.join(comparison_columns(rows, confidence, metric))
    return table.drop(columns=[] if rows["against"].isin(BESTS).all() else ["comparator"])


def _settings(report: Mapping[str, Any], target: str, metric: Metric) -> pd.DataFrame | None:
    """The chosen setting of each method, and its validation metric against the first one's."""
    valid = f"valid_{metric.name}"
    unit = ", %" if metric.percent else ""
    rows = [row for row in report["settings"] if row["target"] == target]
    if not rows:
        return None
    found = pd.DataFrame(rows)
    lines = []
    for title, of_title in found.groupby("title", sort=False):
        first, chosen = of_title.iloc[0], of_title[of_title["chosen"]].iloc[0]
        lines.append(
            {
                "method": title,
                "settings": len(of_title),
                "chosen": _as_text(json.loads(chosen["arguments"])) or "no arguments",
                f"validation {metric.heading}": chosen[valid],
                f"of the first setting{unit}": first[valid],
            }
        )
    table = pd.DataFrame(lines)
    for column in table.columns[3:]:
        table[column] = format_numbers(table[column], metric.scale, metric.spec())
    return table


def _as_text(arguments: Mapping[str, Any]) -> str:
    """Write arguments as ``key value``, those of a block in brackets."""
    return ", ".join(
        f"{key} ({_as_text(value)})" if isinstance(value, Mapping) else f"{key} {value}"
        for key, value in arguments.items()
    )
