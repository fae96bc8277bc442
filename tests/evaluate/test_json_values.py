"""Conversion of reports to strict JSON."""

from __future__ import annotations

import json
import math

from mst_distill.evaluate.json_values import json_values


def test_nan_becomes_none_at_any_depth():
    report = {"a": math.nan, "b": [1, math.nan, {"c": math.nan}], "d": (math.nan, "nan", 0.0, True)}
    found = json_values(report)
    assert found == {"a": None, "b": [1, None, {"c": None}], "d": [None, "nan", 0.0, True]}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
