"""Guesses the types of a table's columns, and writes them as parameters for a person to read.

Only ``kedro init-data`` guesses. A run uses the types that the parameters state.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mst_distill.artifacts.atomic import replacing_folder
from mst_distill.benchmarks.table_file import TableFile, number_in, read_table, text_in
from mst_distill.errors import PLAIN_NAME, did_you_mean, is_plain_name
from mst_distill.media.readers import ARRAYS, IMAGES, SOUNDS
from mst_distill.parameters import RESERVED

ROLES = ("id", "group", "split")
"""Columns that have a meaning by their name."""

EXAMINED = 200
"""Number of cells of a column, and LISTENED of sound files, that are examined."""

LISTENED = 20

CATEGORIES = 20
"""A column of texts with at most this many different ones is a category."""


@dataclass(frozen=True)
class Guess:
    """The guessed type of a modality.

    Attributes:
        keys: The block of the modality in the parameters.
        reason: Why it was guessed.
    """

    keys: Mapping[str, Any]
    reason: str


def write_parameters(
    table: Path, conf: Path, environment: str, label: str, written_path: str
) -> list[Path]:
    """Write ``globals.yml`` and ``parameters.yml`` for a table.

    Args:
        table: The CSV or Parquet file.
        conf: The folder of all environments.
        environment: The name of the new environment; there must not be a folder of this name.
        label: The column of classes.
        written_path: The path of the table in the parameters.

    Returns:
        The two files.

    Raises:
        FileExistsError: The folder exists; nothing is overwritten.
        FileNotFoundError, ValueError: The table cannot be read, there is no such label, or fewer
            than two modalities were found.
    """
    if not is_plain_name(environment):
        raise ValueError(f"the environment {environment!r} is part of paths: {PLAIN_NAME}")
    folder = conf / environment
    if folder.exists():
        raise FileExistsError(f"{folder} exists and is not overwritten: choose another --env")
    cells = read_table(table)
    if label not in cells.names:
        known = did_you_mean("column", label, cells.names)
        raise ValueError(f"{table}: {known}; name the column of classes with --label")
    guesses, left_out = guess_modalities(cells, label)
    if len(guesses) < 2:
        found = ", ".join(f"{name} ({of.keys['type']})" for name, of in guesses.items())
        raise ValueError(
            f"{table}: at least two modalities are needed, but its columns "
            f"{', '.join(cells.names)} give {found or 'none'}"
        )
    texts = {
        "globals.yml": _globals_of(environment, guesses),
        "parameters.yml": _parameters_of(written_path, label, guesses, left_out),
    }
    with replacing_folder(folder) as pending:
        for name, text in texts.items():
            (pending / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def guess_modalities(table: TableFile, label: str) -> tuple[dict[str, Guess], dict[str, str]]:
    """Guess a modality for each column, and one for all columns of numbers with a common start.

    Returns:
        Modality to guess, and each column that is left out to the reason.
    """
    guesses: dict[str, Guess] = {}
    left_out: dict[str, str] = {}
    numbers: list[str] = []
    for column in table.names:
        if column in (label, *ROLES):
            continue
        texts = [text for cell in table.cells[column] if (text := text_in(cell).strip())]
        if not texts:
            left_out[column] = "it is empty"
        elif re.fullmatch(r"__index_level_\d+__", column):
            left_out[column] = "it is the index that pandas stored"
        elif _are_numbers(column, texts):
            numbers.append(column)
        elif guess := _guess_files(table, texts[:EXAMINED]):
            guesses[_name_of(column, guesses)] = _with_column(guess, column)
        elif len(set(texts)) <= min(CATEGORIES, len(texts) // 2):
            left_out[column] = (
                f"it is a category with {len(set(texts))} values, such as {texts[0]!r}"
            )
        else:
            reason = f"{len(set(texts))} different texts, such as {texts[0][:40]!r}"
            guesses[_name_of(column, guesses)] = _with_column(
                Guess({"type": "text"}, reason), column
            )
    return {**guesses, **_guess_numbers(numbers, guesses)}, left_out


def _guess_files(table: TableFile, texts: Sequence[str]) -> Guess | None:
    suffixes = {Path(text).suffix.lower() for text in texts}
    files = [table.path.parent / text for text in texts]
    if suffixes <= set(IMAGES):
        return Guess({"type": "photo"}, "paths of images; `image` instead trains on their pixels")
    if suffixes <= set(SOUNDS):
        seconds = _longest(files[:LISTENED])
        reason = f"paths of sound files; the longest of the first {LISTENED} has {seconds} s"
        return Guess({"type": "audio", "seconds": seconds}, f"{reason}; `speech` is for voices")
    if suffixes <= set(ARRAYS):
        return Guess({"type": "array", "shape": _shape_of(files[0])}, "paths of arrays")
    return None


def _longest(files: Sequence[Path]) -> float:
    """Return the length of the longest file in seconds, rounded up to tenths.

    Raises:
        ValueError: A file is not a sound; the message names it.
    """
    import soundfile

    lengths = []
    for file in files:
        try:
            lengths.append(soundfile.info(file).duration)
        except (OSError, soundfile.LibsndfileError) as error:
            raise ValueError(f"{file}: contains no audio that can be read ({error})") from error
    return math.ceil(max(lengths) * 10) / 10


def _shape_of(file: Path) -> list[int]:
    import numpy as np

    try:
        return list(np.load(file, mmap_mode="r", allow_pickle=False).shape)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: not a .npy file of numbers ({error})") from error


def _guess_numbers(columns: Sequence[str], others: Mapping[str, Guess]) -> dict[str, Guess]:
    """Group columns of numbers by what stands before their last ``_`` or ``.`` or number."""
    of_start: dict[str, list[str]] = {}
    for column in columns:
        match = re.match(r"(.*[^\d_. ])[_. ]?(?:\d+|(?<=[_. ])[^_. ]*)$", column)
        of_start.setdefault(match[1] if match else column, []).append(column)
    guesses: dict[str, Guess] = {}
    single = [group[0] for group in of_start.values() if len(group) == 1]
    for start, group in of_start.items():
        if len(group) > 1:
            reason = f"{len(group)} columns of numbers whose names begin with {start!r}"
            guess = Guess({"type": "numbers", "column": group}, reason)
            guesses[_name_of(start, {**others, **guesses})] = guess
    if single:
        reason = "the other columns of numbers"
        guess = Guess({"type": "numbers", "column": single}, reason)
        guesses[_name_of("numbers", {**others, **guesses})] = guess
    return guesses


def _are_numbers(column: str, texts: Sequence[str]) -> bool:
    try:
        return all(math.isfinite(number_in(column, text)) for text in texts)
    except ValueError:
        return False


def _name_of(column: str, taken: Mapping[str, Guess]) -> str:
    """Return a name of a modality that resembles a column and is not taken."""
    name = re.sub(r"\W", "_", column)
    name = name if name.isidentifier() and name not in RESERVED else f"of_{name}"
    while name in taken:
        name += "_"
    return name


def _with_column(guess: Guess, column: str) -> Guess:
    return Guess({**guess.keys, "column": column}, guess.reason)


def _globals_of(environment: str, guesses: Mapping[str, Guess]) -> str:
    return (
        f"benchmark: {json.dumps(environment)}\n"
        f"# The modality of the student, which sees nothing else in use: {', '.join(guesses)}\n"
        f"target: {_key(next(iter(guesses)))}\n"
    )


def _parameters_of(
    table: str, label: str, guesses: Mapping[str, Guess], left_out: Mapping[str, str]
) -> str:
    lines = [
        "# Written by `kedro init-data`. The types are guesses: read them, and correct what is",
        "# wrong. Types: photo, image, audio, speech, text, numbers, array.",
        "benchmark:",
        "  type: mst_distill.benchmarks.table.Table",
        "  arguments:",
        f"    table: {json.dumps(table)}",
        f"    label: {json.dumps(label)}",
        "    modalities:",
    ]
    for name, guess in guesses.items():
        lines += [f"      # {_one_line(guess.reason)}", f"      {_key(name)}:"]
        lines += [
            f"        {key}: {json.dumps(value, ensure_ascii=False)}"
            for key, value in guess.keys.items()
        ]
    lines += [
        f"      # {_one_line(name)} is left out: {_one_line(why)}" for name, why in left_out.items()
    ]
    return "\n".join([*lines, "members: auto", ""])


def _key(name: str) -> str:
    """Return a name as YAML, in quotes if it would be another value, as ``no`` would be."""
    return name if yaml.safe_load(name) == name else json.dumps(name)


def _one_line(text: str) -> str:
    return " ".join(text.split())
