"""Files that are replaced whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def pending(path: Path) -> Path:
    """Where the next content of `path` is written before it takes its place."""
    return path.with_name(f".{path.name}.pending")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write to, which replaces `path` at the end of the block.

    Whoever reads `path` meanwhile sees what it was before; after an exception inside the block it
    stays so, and nothing is left behind. What was written is on the disk before it is seen.

    Raises:
        OSError: It cannot be written; the message names `path` and the cause.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = pending(path)
    try:
        yield file
        sync(file)
        file.replace(path)
        sync(path.parent)
    except BaseException as error:
        file.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename != str(path):
            raise OSError(error.errno, f"cannot be written ({error})", str(path)) from error
        raise


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk.

    Windows opens a file for this only if it may be written, and a folder not at all: there the list
    is left to the system.
    """
    folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    except PermissionError:
        if folder:
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
