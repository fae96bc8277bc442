"""A line of JSON is what was written, or it is refused."""

from __future__ import annotations

import pytest

from mst_distill.artifacts import signed_json

VALUE = {"rows": 3, "notes": {"seconds": [0.1, 2.0]}, "omitted": {}, "who": "Zoë"}


def test_a_value_comes_back() -> None:
    assert signed_json.load(signed_json.dump(VALUE)) == VALUE


def test_whatever_is_cut_or_changed_is_refused() -> None:
    line = signed_json.dump(VALUE)
    for end in range(len(line)):
        with pytest.raises(ValueError, match="signed JSON"):
            signed_json.load(line[:end])
    for place, sign in enumerate(line):
        if sign.isdigit() or sign.isalpha():
            other = line[:place] + ("7" if sign != "7" else "8") + line[place + 1 :]
            with pytest.raises(ValueError, match="signed JSON"):
                signed_json.load(other)
