"""Locks: one run at a time writes to a folder, and one process at a time to a shared file."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from mst_distill.artifacts.signals import asked, check

FILE = ".lock"

log = logging.getLogger(__name__)


@contextmanager
def one_at_a_time(path: Path, waiting: str = "") -> Iterator[None]:
    """Let one process at a time run the block, for example to write a file that runs share.

    Args:
        path: The file; the lock is a hidden file in the same folder, which exists inside the block.
        waiting: For a wait that may be long: logged, and a signal ends it.

    Raises:
        Interrupted: A signal ended the wait for another process.
        OSError: The storage has no locks; the message names the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.writing")
    with _naming_storage(path.parent):
        acquired = _acquired(FileLock(lock), waiting)
    with acquired:
        try:
            yield
        finally:
            with suppress(OSError):  # Windows does not remove an open file
                lock.unlink()  # a process that waits for it creates a new one


def _acquired(lock: BaseFileLock, waiting: str) -> AbstractContextManager[object]:
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        if not waiting:
            return lock.acquire()
        log.info("%s", waiting)
    try:
        return lock.acquire(cancel_check=asked)
    except Timeout:  # a signal ended the wait
        check()
        raise


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Lock a folder inside the block; the system releases the lock when the process ends.

    Args:
        folder: The folder; it is created if it does not exist.

    Raises:
        BlockingIOError: Another process holds the lock; the message names the process.
        OSError: The storage has no locks; the message names the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The process number is not in the lock file, which Windows lets only the lock's owner read.
    holder = folder / f"{FILE}.pid"
    try:
        with _naming_storage(folder):
            acquired = FileLock(folder / FILE, timeout=0).acquire()
        with acquired:
            holder.unlink(missing_ok=True)  # the number must not be written through a link
            with holder.open("x", encoding="utf-8") as file:
                file.write(str(os.getpid()))
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
                with suppress(OSError):  # Windows does not remove an open file
                    (folder / FILE).unlink()  # a process that waits for it creates a new one
    except Timeout as error:
        process = holder.read_text(encoding="utf-8") if holder.is_file() else "unknown"
        raise BlockingIOError(
            errno.EWOULDBLOCK,
            f"process {process} is writing the results of this run: wait for it, or give your run "
            f"another name with --params=run=NAME",
            str(folder),
        ) from error


@contextmanager
def _naming_storage(folder: Path) -> Iterator[None]:
    """Name a folder on storage without locks, such as NFS that is mounted with ``nolock``.

    Where the system has no locks at all, `filelock` creates and removes a file in their place.

    Raises:
        OSError: With this message.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        raise OSError(
            error.errno,
            f"{error.strerror}: two runs could write there at the same time. Mount the storage "
            f"with locks (NFS: without nolock), or make data/ a link to other storage",
            str(folder),
        ) from error
