"""Ctrl-C and a polite kill: a run ends at its next step, its state kept."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """A signal asked the run to end.

    Args:
        signum: Which.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"{signal.Signals(signum).name} asked the run to end")
        self.signum = signum


_heard: list[int] = []


def asked() -> bool:
    """Whether a signal asked the run to end."""
    return bool(_heard)


def check() -> None:
    """End here if a signal asked for it.

    Raises:
        Interrupted: One did.
    """
    if _heard:
        raise Interrupted(_heard[0])


@contextmanager
def listening() -> Iterator[None]:
    """Inside, `SIGNALS` are noted for `check`; a second one ends the process at once.

    Only the main thread can listen; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, _hear) for signum in SIGNALS}
    try:
        yield
    finally:
        _heard.clear()
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _hear(signum: int, _frame: FrameType | None) -> None:
    if _heard:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    _heard.append(signum)
