"""Lines of JSON with their own SHA-256, for the records from which a stopped build resumes."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def dump(value: Any) -> str:
    """Return `value` and its SHA-256 as a line of JSON."""
    text = json.dumps(value)
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "value": value})


def load(text: str) -> Any:
    """Return the value of a line that `dump` wrote.

    Raises:
        ValueError: The line is cut off or damaged.
    """
    try:
        line = json.loads(text)
        value, digest = line["value"], line["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"incomplete line of signed JSON ({error})") from error
    if hashlib.sha256(json.dumps(value).encode()).hexdigest() != digest:
        raise ValueError("line of signed JSON whose SHA-256 differs")
    return value
