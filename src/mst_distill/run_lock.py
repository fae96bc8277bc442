"""One run at a time writes to a folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

FILE = ".lock"


class RunLock:
    """Holds a folder until it is released or its process ends, however it ends.

    Args:
        folder: Made if it is not there.

    Raises:
        BlockingIOError: Another process holds it; the message names the process.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Opened without emptying it: who holds it has written there who it is.
        self._handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._handle, 32).decode() or "unknown"
            os.close(self._handle)
            raise BlockingIOError(
                error.errno,
                f"process {holder} is making this run: wait for it, or keep this one apart with "
                f"--params=run=NAME",
                str(folder),
            ) from error
        os.ftruncate(self._handle, 0)
        os.write(self._handle, str(os.getpid()).encode())

    def release(self) -> None:
        """Let the next one in."""
        os.ftruncate(self._handle, 0)
        os.close(self._handle)
