"""What errors say of a name that does not exist."""

from __future__ import annotations

import difflib
from typing import Any


def unknown(what: str, name: str, known: Any) -> str:
    """Say that `name` is unknown, what there is, and which of it comes nearest."""
    names = [str(choice) for choice in known]
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {what} {name!r}; there are: {', '.join(names) or 'none'}{hint}"
