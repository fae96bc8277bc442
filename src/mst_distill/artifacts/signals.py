"""Ctrl-C, SIGTERM and a closed terminal end a run at its next step, with its state saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""SIGHUP, of a terminal that is closed, does not exist on Windows."""


class Interrupted(Exception):  # noqa: N818 - not an error
    """A signal asked the run to end.

    Args:
        signum: Number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"{signal.Signals(signum).name} asked the run to end")
        self.signum = signum

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int]]:
        return Interrupted, (self.signum,)


_received: list[int] = []


def asked() -> bool:
    """Whether a signal asked the run to end."""
    return bool(_received)


def check() -> None:
    """End the run if a signal asked for it.

    Raises:
        Interrupted: A signal asked for it.
    """
    if _received:
        raise Interrupted(_received[0])


def interruption_of(error: BaseException | None) -> Interrupted | None:
    """Return the `Interrupted` that caused an error, which Kedro wraps when a dataset is saved."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def listening(signums: Iterable[signal.Signals] = SIGNALS) -> Iterator[None]:
    """Record signals inside the block, for `check`; a second signal ends the process at once.

    Python allows handlers in the main thread only; in other threads this does nothing.

    Args:
        signums: The signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, _handle) for signum in signums}
    try:
        yield
    finally:
        _received.clear()
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _handle(signum: int, _frame: FrameType | None) -> None:
    if _received:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    _received.append(signum)
