"""Progress bars: what is being done, how far it is, the time left."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from mst_distill.artifacts.signals import check

T = TypeVar("T")


class _Bar(tqdm):  # type: ignore[type-arg] # it has one for type checkers alone
    """Wherever a run shows how far it is, a signal may end it."""

    def __iter__(self) -> Iterator[Any]:
        for step in super().__iter__():
            check()
            yield step

    def update(self, n: float | None = 1) -> bool | None:
        check()
        return super().update(n)


def progress(
    steps: Iterable[T],
    title: str,
    unit: str,
    total: int | None = None,
    done: int = 0,
    hidden: bool = False,
) -> tqdm[T]:
    """A bar over `steps`, or over `total` to be moved by hand where there are none.

    Of the total, `done` was done before; the time left is reckoned without it.

    A terminal sees it move; a log file gets a line now and then; nobody sees one that is `hidden`.
    """
    live = sys.stderr.isatty()
    return _Bar(
        steps,
        desc=title,
        unit=unit,
        total=total,
        initial=done,
        mininterval=0.1 if live else 15.0,
        dynamic_ncols=live,
        disable=hidden,
        leave=True,
        bar_format="{l_bar}{bar:20}{r_bar}",
    )


def figures(values: dict[str, Any]) -> str:
    """Named figures in a row, short enough to stand behind a bar."""
    return " ".join(f"{name}={value:.4g}" for name, value in values.items())
