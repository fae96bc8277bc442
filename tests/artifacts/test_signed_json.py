"""A damaged line of signed JSON is rejected."""

from __future__ import annotations

import pytest

from mst_distill.artifacts import signed_json

VALUE = {"rows": 3, "notes": {"seconds": [0.1, 2.0]}, "omitted": {}, "who": "Zoë"}


def test_a_value_is_loaded_as_it_was_dumped() -> None:
    assert signed_json.load(signed_json.dump(VALUE)) == VALUE


def test_any_truncation_or_change_is_rejected() -> None:
    line = signed_json.dump(VALUE)
    for end in range(len(line)):
        with pytest.raises(ValueError, match="signed JSON"):
            signed_json.load(line[:end])
    for position, sign in enumerate(line):
        if sign.isdigit() or sign.isalpha():
            other = line[:position] + ("7" if sign != "7" else "8") + line[position + 1 :]
            with pytest.raises(ValueError, match="signed JSON"):
                signed_json.load(other)
