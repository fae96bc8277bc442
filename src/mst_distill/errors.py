"""Error messages: which errors need no traceback, unknown names, the rule for names in paths."""

from __future__ import annotations

import difflib
import re
import sys
import traceback
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
"""The folder of this package."""


def is_expected(error: BaseException, *folders: Path) -> bool:
    """Whether an error has a message for the user, who then needs no traceback.

    That is an error that this package raised on purpose, or one of a file that it names and that no
    code of the user had opened.

    Args:
        error: An error that was raised.
        folders: Folders of other packages whose errors count as well.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, OSError) and error.filename is not None:
        installed = (FOLDER, Path(sys.prefix), Path(sys.base_prefix))
        return all(_is_in(frame, installed) for frame in frames)
    if not frames or not (frames[-1].line or "").startswith("raise "):
        return False
    return _is_in(frames[-1], (FOLDER, *folders))


def _is_in(frame: traceback.FrameSummary, folders: tuple[Path, ...]) -> bool:
    file = frame.filename
    return file.startswith("<") or any(Path(file).is_relative_to(folder) for folder in folders)


def add_context(error: BaseException, context: str) -> None:
    """Add a sentence to an error of others, which need not say where it happened."""
    if not is_expected(error):
        error.add_note(context)


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
    "up to 100 letters, digits and . _ + - = are allowed, and the first character is a letter, a "
    "digit or _"
)
"""The rule of `is_plain_name`, for error messages."""


def is_plain_name(name: str) -> bool:
    """Whether a name can be part of a path, and leads nowhere else than into its folder."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,99}", name) is not None
