"""The error message for an unknown name."""

from __future__ import annotations

import difflib
from typing import Any


def did_you_mean(what: str, name: str, known: Any) -> str:
    """Return a message that `name` is unknown, with the known names and the nearest of them.

    Args:
        what: The kind of name, such as ``modality``.
        name: The unknown name.
        known: An iterable of the known names.
    """
    names = [str(choice) for choice in known]
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {what} {name!r}; available: {', '.join(names) or 'none'}{hint}"
