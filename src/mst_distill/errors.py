"""Names: the error message for an unknown one, and the rule for those that are part of paths."""

from __future__ import annotations

import difflib
import re
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


PLAIN_NAME = (
    "letters, digits and . _ + - = are allowed, and the first character is a letter, a digit or _"
)
"""The rule of `is_plain_name`, for error messages."""


def is_plain_name(name: str) -> bool:
    """Whether a name can be part of a path, and leads nowhere else than into its folder."""
    return re.fullmatch(r"[A-Za-z0-9_][\w.+=-]*", name) is not None
