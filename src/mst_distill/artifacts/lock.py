"""One run at a time writes to a folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

FILE = ".lock"


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold a folder inside the block; a process that ends lets go of it, however it ends.

    Args:
        folder: Made if it does not exist.

    Raises:
        BlockingIOError: Another process holds it; the message names the process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{FILE}.pid"  # not in the lock itself, which Windows lets nobody else read
    try:
        with FileLock(folder / FILE, timeout=0):
            holder.write_text(str(os.getpid()), encoding="utf-8")
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
                with suppress(OSError):  # Windows removes no file that is open
                    (folder / FILE).unlink()  # who waits for a lock that is gone takes a new one
    except Timeout as error:
        process = holder.read_text(encoding="utf-8") if holder.is_file() else "unknown"
        raise BlockingIOError(
            errno.EWOULDBLOCK,
            f"process {process} is making this run: wait for it, or keep this one apart with "
            f"--params=run=NAME",
            str(folder),
        ) from error
