"""Pages and tables of numbers in Markdown."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined

from mst_distill.compare.ranking import MIN_SEEDS
from mst_distill.metric import ACCURACY, Metric

METRICS = {
    "accuracy": ("accuracy, %", 100, ".2f"),
    "nll": ("NLL", 1, ".3f"),
    "nll_scaled": ("NLL, scaled", 1, ".3f"),
    "calibration_error": ("calibration error, %", 100, ".1f"),
    "calibration_error_scaled": ("calibration error, scaled, %", 100, ".1f"),
    "temperature": ("temperature", 1, ".2f"),
}
"""Metric to its heading on a page, its scale and its format specification."""


def columns_of(metric: Metric) -> dict[str, tuple[str, float, str]]:
    """`METRICS`, behind the one that decides."""
    return {metric.name: (metric.heading, metric.scale, metric.spec()), **METRICS}


SCALED = (
    "*Scaled* metrics are those of the logits divided by the temperature, which is fitted for each "
    "network on the validation split and changes no prediction."
)


def render(template: str, **values: Any) -> str:
    """Fill in a template of Jinja; the filter ``table`` writes a table of pandas.

    Templates are texts in modules, so that a change of one counts as a change of the code.
    """
    pages = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    pages.filters["table"] = markdown_table
    return pages.from_string(template).render(values).strip() + "\n"


def markdown_table(table: pd.DataFrame) -> str:
    """Write a table without its index; a ``|`` in a cell becomes a ``/``."""
    cells: list[list[str]] = table.astype(str).to_numpy().tolist()
    rows = [list(map(str, table)), ["---"] * table.shape[1], *cells]
    lines = (" | ".join(cell.replace("|", "/") for cell in row) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def escaped(text: object) -> str:
    """Escape a text of the user so that Markdown and HTML show it as it is, on one line."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("|", "&#124;")
    # A < is the start of a tag only before these, and within a word a _ has no meaning.
    line = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line).replace(">", "&gt;")
    return re.sub(r"[\\`*\[\]~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)


def format_numbers(values: pd.Series, scale: float, spec: str) -> list[str]:
    """Format each value times `scale` by the specification `spec`; NaN becomes a dash."""
    return ["–" if pd.isna(value) else format(scale * value, spec) for value in values]


def format_p_values(p: pd.Series) -> list[str]:
    """Format p-values with three decimals, smaller ones as ``<.001``; NaN becomes a dash."""
    texts = format_numbers(p, 1, ".3f")
    return ["<.001" if value < 0.0005 else text for value, text in zip(p, texts, strict=True)]


def format_mean_and_sd(table: pd.DataFrame, metric: str, scale: float, spec: str) -> list[str]:
    """Format mean and standard deviation, from the columns ``METRIC`` and ``METRIC_sd``."""
    means, deviations = (
        format_numbers(table[name], scale, spec) for name in (metric, f"{metric}_sd")
    )
    return [
        mean if deviation == "–" else f"{mean} ± {deviation}"
        for mean, deviation in zip(means, deviations, strict=True)
    ]


def format_intervals(
    table: pd.DataFrame, spec: str = "+.2f", unit: str = "seed", scale: float = 100
) -> list[str]:
    """Format intervals as ``LOW to HIGH``, or state why there is no interval.

    Args:
        table: The columns ``low``, ``high`` and ``pairs``, the number of seeds or other units.
        spec: The format specification of both ends.
        unit: The unit of the pairs.
        scale: The factor of both ends; with 100 they are in points.
    """
    low, high = (format_numbers(table[side], scale, spec) for side in ("low", "high"))
    return [
        _why_none(int(pairs), unit) if pd.isna(known) else " to ".join(ends)
        for pairs, known, *ends in zip(table["pairs"], table["low"], low, high, strict=True)
    ]


def _why_none(pairs: int, unit: str) -> str:
    if pairs < MIN_SEEDS:
        return f"no interval: {pairs} {unit}{'s' * (pairs != 1)}"
    return "no interval: all differences are equal"


def cost_columns(costs: pd.DataFrame) -> dict[str, list[str]]:
    """Format the mean costs of trials, `ranking.COSTS`, by their headings."""
    return {
        "student epochs": format_numbers(costs["student_epochs"], 1, ".0f"),
        "seconds": format_numbers(costs["seconds"], 1, ".1f"),
        "peak, MB": format_numbers(costs["peak_bytes"], 1e-6, ".0f"),
        "extra weights": format_numbers(costs["extra_parameters"], 1, ",.0f"),
    }


def comparison_columns(
    rows: pd.DataFrame, confidence: float, metric: Metric = ACCURACY
) -> pd.DataFrame:
    """Format the paired differences in metric and likelihood, with interval and p-values.

    Args:
        rows: From `difference_table`.
        confidence: Of the intervals, in (0, 1).
        metric: The metric that decides.
    """
    spec, scale = f"+{metric.spec()}", metric.scale
    table = pd.DataFrame(
        {
            metric.unit: format_numbers(rows["difference"], scale, spec),
            f"{confidence:.0%} interval": format_intervals(rows, spec, scale=scale),
            "p": format_p_values(rows["p"]),
            "corrected": format_p_values(rows["p_corrected"]),
        },
        index=rows.index,
    )
    for column, title in (("nll", "NLL"), ("nll_scaled", "NLL, scaled")):
        table[title] = format_numbers(rows[column], 1, "+.3f")
        table[f"p of {title}"] = format_p_values(rows[f"{column}_p"])
    return table
