"""Reports as JSON, which has no number for what is not a number."""

from __future__ import annotations

import math
from typing import Any


def json_values(report: Any) -> Any:
    """The same nested dicts and lists, with None in place of every NaN.

    A report says None where there is no interval, no test or no sample, so that nobody reads a
    number there; readers of strict JSON reject NaN, and MLflow is told numbers alone.
    """
    if isinstance(report, dict):
        return {name: json_values(value) for name, value in report.items()}
    if isinstance(report, list | tuple):
        return [json_values(value) for value in report]
    return None if isinstance(report, float) and math.isnan(report) else report
