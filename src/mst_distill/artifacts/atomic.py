"""Atomic replacement of files: as a whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def pending(path: Path) -> Path:
    """Return the file to which the new content of `path` is written before it replaces `path`."""
    return path.with_name(f".{path.name}.pending")


def remove_folder(path: Path) -> None:
    """Remove a folder with its content, or a link in its place; there need not be either."""
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write to, which replaces `path` at the end of the block.

    Until then a reader of `path` sees the old content. After an exception inside the block the old
    content stays and the yielded file is removed. The new content is on the disk before it can be
    seen. A link in the place of the yielded file is removed, so that nothing is written through it.

    Raises:
        OSError: The file cannot be written; the message names `path` and the cause.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = pending(path)
    try:
        file.unlink(missing_ok=True)
        file.touch(exist_ok=False)
        mode = file.stat().st_mode  # as the umask has it; some libraries make files private
        yield file
        file.chmod(mode)
        sync(file)
        file.replace(path)
        sync(path.parent)
    except BaseException as error:
        file.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename != str(path):
            raise OSError(error.errno, f"cannot be written ({error})", str(path)) from error
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder, which replaces the folder `path` at the end of the block.

    Until then a reader of `path` sees the old content, and after an exception the old content
    stays. A link to a folder on another disk stays a link.
    """
    target = path.resolve()
    folder = pending(target)
    remove_folder(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
        remove_folder(target)
        folder.rename(target)
    finally:
        remove_folder(folder)


def sync(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, is on the disk.

    Windows needs write access to a file for this, and cannot open a folder at all: there the list
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
