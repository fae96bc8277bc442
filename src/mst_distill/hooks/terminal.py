"""What a user sees in the terminal: a run outlives its reader, and an error is its message."""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import click
import kedro

from mst_distill.errors import is_expected

CLOSED = (errno.EPIPE, errno.EIO, *((errno.EINVAL,) if os.name == "nt" else ()))
"""The errors of a closed pipe and of a closed terminal; Windows calls the former EINVAL."""

KEDRO = Path(kedro.__file__).parent

log = logging.getLogger("mst_distill")


class _Outliving:
    """A text stream that drops what is written to it after its reader has ended.

    Args:
        stream: Standard output or standard error.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Write several texts."""
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if error.errno not in CLOSED:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def outlive_readers() -> None:
    """Let the process go on if the reader of its output ends, as in ``kedro run | head``.

    Streams that are closed from the start are opened. Streams that another program has replaced,
    as notebooks do, stay as they are.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # It stays open until the process ends, as the stream in whose place it is would.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _Outliving(stream))


def show_errors_as_messages() -> None:
    """Print an expected error of a command of Kedro without the hundred lines of its traceback.

    With the level DEBUG of the logger ``mst_distill`` in ``conf/logging.yml``, and for errors that
    are not expected, the traceback is printed. Notebooks and scripts stay as they are.
    """
    if click.get_current_context(silent=True):
        sys.excepthook = _print_error


def _print_error(
    _kind: type[BaseException], error: BaseException, _trace: TracebackType | None
) -> None:
    error = cause_of(error)
    if log.isEnabledFor(logging.DEBUG) or not is_expected(error, KEDRO):
        sys.__excepthook__(type(error), error, error.__traceback__)
    else:
        sys.stderr.write("".join(traceback.format_exception_only(error)))
        sys.stderr.flush()


def cause_of(error: BaseException) -> BaseException:
    """The error that Kedro has wrapped in its own when a dataset was loaded or saved."""
    while type(error).__module__.startswith("kedro.") and error.__cause__ is not None:
        error = error.__cause__
    return error
