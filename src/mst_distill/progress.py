"""Progress bars: what is being done, how far it is, the time left."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(
    steps: Iterable[T], title: str, unit: str, total: int | None = None, done: int = 0
) -> tqdm[T]:
    """A bar over `steps`, or over `total` to be moved by hand where there are none.

    Of the total, `done` was done before; the time left is reckoned without it.

    A terminal sees it move; a log file gets a line now and then.
    """
    live = sys.stderr.isatty()
    return tqdm(
        steps,
        desc=title,
        unit=unit,
        total=total,
        initial=done,
        mininterval=0.1 if live else 15.0,
        dynamic_ncols=live,
        leave=True,
        bar_format="{l_bar}{bar:20}{r_bar}",
    )


def figures(values: dict[str, Any]) -> str:
    """Named figures in a row, short enough to stand behind a bar."""
    return " ".join(f"{name}={value:.4g}" for name, value in values.items())
