"""Finding raw files in a folder, and checking which of them may be opened.

The folder itself, and all files that are found by searching it, may be symbolic links, because
large sets are often on other disks. A file that is named by a downloaded table must be inside the
folder even after links are followed. Otherwise a download could make the program read any file of
the machine.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path


def find_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Find the files in `folder` and its subfolders that have one of the suffixes.

    Args:
        folder: The folder.
        suffixes: In lower case; they match file names in any case.

    Returns:
        The files, sorted, without hidden ones such as ``._a.wav``, which archives made on a Mac
        contain.

    Raises:
        ValueError: A file is a broken link, a pipe or a device, or its name is not UTF-8.
    """
    found = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and not file.is_dir()
    )
    for file in found:
        if not file.is_file():
            kind = "broken link" if file.is_symlink() else "pipe or device, not a file"
            raise ValueError(f"{file}: is a {kind}; repair it or remove it")
        try:
            file.name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{str(file)!a}: the name is not UTF-8; rename the file") from error
    return found


def leads_out(file: Path, folder: Path) -> bool:
    """Return whether `file` is outside `folder` after links are followed, also in `folder`."""
    return not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is not UTF-8; the message names the file and the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} is missing")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 ({error})") from error
