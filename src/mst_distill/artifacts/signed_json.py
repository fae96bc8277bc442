"""JSON that carries its own SHA-256: what a build keeps on disk to go on from after a stop."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def dump(value: Any) -> str:
    """A line of JSON with the SHA-256 of `value`."""
    text = json.dumps(value)
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "value": value})


def load(text: str) -> Any:
    """The value of a line that `dump` made.

    Raises:
        ValueError: It is cut or damaged.
    """
    try:
        line = json.loads(text)
        value, digest = line["value"], line["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"no whole line of signed JSON ({error})") from error
    if hashlib.sha256(json.dumps(value).encode()).hexdigest() != digest:
        raise ValueError("a line of signed JSON whose SHA-256 differs")
    return value
