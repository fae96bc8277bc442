"""Conversion of reports to strict JSON, which has no NaN."""

from __future__ import annotations

import math
from typing import Any


def json_values(report: Any) -> Any:
    """Return the same nested dicts and lists with None in place of every NaN.

    None stands where there is no interval, no test or no sample. Strict JSON parsers reject NaN,
    and MLflow receives numbers only.
    """
    if isinstance(report, dict):
        return {name: json_values(value) for name, value in report.items()}
    if isinstance(report, list | tuple):
        return [json_values(value) for value in report]
    return None if isinstance(report, float) and math.isnan(report) else report
