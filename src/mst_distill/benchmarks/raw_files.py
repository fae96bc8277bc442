"""Raw files below a folder: which there are, and which may be opened.

The folder itself, and all below it that is found by looking, may be links: large sets lie on other
disks. A table that came with the data is not trusted so far: what it names must lie in the folder
even after links are followed, or a download could have any file of the machine read.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path


def find_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Find the files in and below `folder` with one of the suffixes, in lower case.

    Returns:
        Sorted, without the hidden ones that archives may leave (``._a.wav``, from a Mac).

    Raises:
        ValueError: One is a link that leads nowhere, a pipe or the like, or its name is no UTF-8.
    """
    found = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and not file.is_dir()
    )
    for file in found:
        if not file.is_file():
            what = "link that leads nowhere" if file.is_symlink() else "pipe or device, no file"
            raise ValueError(f"{file}: is a {what}; mend it or remove it")
        try:
            file.name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{str(file)!a}: the name is no UTF-8; rename it") from error
    return found


def leads_out(file: Path, folder: Path) -> bool:
    """Whether links lead to somewhere outside of `folder`, which may be a link itself."""
    return not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder))


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is no UTF-8; the message names file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} is missing")
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: no UTF-8 text ({error})") from error
