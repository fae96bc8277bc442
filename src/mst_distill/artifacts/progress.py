"""Progress bars, which show a title, the progress and the remaining time."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from mst_distill.artifacts.signals import check

T = TypeVar("T")


class _Bar(tqdm):  # type: ignore[type-arg] # generic in its stub only
    """A bar that ends the run at its next step if a signal has been received."""

    def __iter__(self) -> Iterator[Any]:
        for step in super().__iter__():
            check()
            yield step

    def update(self, n: float | None = 1) -> bool | None:
        check()
        return super().update(n)


_hidden: list[bool] = []


def hide() -> None:
    """Show no bars in this process."""
    _hidden.append(True)


def progress(
    steps: Iterable[T],
    title: str,
    unit: str,
    total: int | None = None,
    done: int = 0,
    hidden: bool = False,
) -> tqdm[T]:
    """Show a progress bar: in place on a terminal, as a line now and then in a log file.

    Args:
        steps: Iterated over; empty if the bar is advanced with its method ``update``.
        title: Shown before the bar.
        unit: The name of a step, singular.
        total: Number of steps, if `steps` has no length or is empty.
        done: Number of steps done earlier; they do not count in the estimate of remaining time.
        hidden: Show nothing.
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
        disable=hidden or bool(_hidden),
        leave=True,
        bar_format="{l_bar}{bar:20}{r_bar}",
    )


def figures(values: dict[str, Any]) -> str:
    """Format metrics in one line, short enough to be shown after a bar."""
    return " ".join(f"{name}={value:.4g}" for name, value in values.items())
