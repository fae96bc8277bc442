"""RAVDESS with action units of the face in place of the video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.benchmarks.ravdess import index_clips, pair_clips
from mst_distill.benchmarks.ravdess_files import EMOTIONS, find_clips, is_speech, parse_name
from mst_distill.benchmarks.reader_source import ReaderSource
from mst_distill.benchmarks.source import Protocol, refuse_too_many
from mst_distill.media.action_units import INTENSITIES, UNITS, ActionUnits
from mst_distill.media.speech_audio import SpeechMFCC

_PUBLISHED = (
    "the table of action units (df_average_AUs_total.csv of "
    "github.com/cristinalunaj/MMEmotionRecognition)"
)


class RAVDESSUnits(ReaderSource):
    """The spoken clips of RAVDESS, with OpenFace's action units averaged over the frames.

    This benchmark is for machines that cannot process videos of faces: the action units of all
    1,440 clips are one small table. Audio, clips, classes and split are those of `RAVDESS`.

    Args:
        protocol: ``heldout`` fits the scaling of the units on the training split, ``random`` on all
            samples.
        units: The table, with ``;`` as separator and the columns ``name`` and `UNITS`.
        audio: Folder with ``03-01-*.wav`` (or ogg, flac), also in subfolders.
        split_seed: Seed of the assignment of actors to splits. It does not depend on the seed of
            the run, so that runs with different seeds use the same split.
        tolerated_share: See `SampleSource`.

    Raises:
        FileNotFoundError: The table or the folder is missing, or contains no spoken clip.
        ValueError: The table lacks a column or lists a clip twice, a name is invalid (see
            `ravdess_files`), too many clips cannot be used, or there are fewer than three actors.
    """

    classes = EMOTIONS
    notes = ("seconds",)

    def __init__(
        self,
        protocol: Protocol,
        units: str,
        audio: str,
        split_seed: int = 0,
        tolerated_share: float = 0.0,
    ) -> None:
        self.tolerated_share = tolerated_share
        self.protocol = protocol
        # Units (35,), standardised, and audio (15, 156) in [0, 1].
        self.readers = {"units": ActionUnits(), "audio": SpeechMFCC()}
        recordings = find_clips(audio, "audio")
        table = _read_table(Path(units))
        clips, self.omitted = pair_clips(
            {"units": set(table.index), "audio": set(recordings)},
            {"units": Path(units), "audio": Path(audio)},
        )
        numbers = table[list(UNITS)].apply(pd.to_numeric, errors="coerce")
        damage = _find_damage(Path(units), table.loc[clips], numbers.loc[clips])
        self.omitted |= damage
        clips = [clip for clip in clips if clip not in damage]
        refuse_too_many(self.omitted, len(clips) + len(self.omitted), tolerated_share)
        self.files = [Path(units), *recordings.values()]
        position_of = {file: position for position, file in enumerate(self.files)}
        self._units = numbers
        self.index = index_clips(clips, split_seed).assign(
            audio=[position_of[recordings[clip]] for clip in clips]
        )

    def values(self, modality: str, part: pd.DataFrame) -> Sequence[Any]:
        """Return the units of each clip, ``(35,)``, or the file of its audio."""
        if modality == "units":
            return self._units.loc[part["id"]].to_numpy(np.float64)
        return [self.files[position] for position in part["audio"]]


def _read_table(path: Path) -> pd.DataFrame:
    """Read the table.

    Returns:
        The spoken clips, indexed by `Name.clip`, with ``name``, the values of `UNITS` as strings,
        and ``line``, their line in the file.

    Raises:
        FileNotFoundError: The file is missing; the message states which file belongs there.
        ValueError: The file is not a table with these columns, a name is invalid or appears twice,
            or there is no spoken clip; the message names the file and the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} is missing: put {_PUBLISHED} there")
    try:
        table = pd.read_csv(path, sep=";", dtype=str, skip_blank_lines=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a table with ';' between its columns ({error})") from error
    header = path.read_text(encoding="utf-8-sig").split("\n", 1)[0].rstrip("\r").split(";")
    if twice := [column for column in ("name", *UNITS) if header.count(column) > 1]:
        raise ValueError(f"{path}, line 1: the column {twice[0]} appears twice")
    if missing := [column for column in ("name", *UNITS) if column not in table]:
        raise ValueError(
            f"{path}: lacks the columns {', '.join(missing)}; it must have name and {len(UNITS)} "
            f"action units, with ';' between them"
        )
    table["line"] = np.arange(len(table)) + 2  # line 1 is the header
    table = table.dropna(how="all", subset=["name", *UNITS])  # blank lines
    lines = table["line"].to_numpy()
    stems = [str(name).removesuffix(".mp4") for name in table["name"]]
    names = [
        parse_name(stem, f"{path}, line {line}") for stem, line in zip(stems, lines, strict=True)
    ]
    table.index = pd.Index([name.clip for name in names])
    table = table[[is_speech(name, "video") for name in names]]
    if (repeated := table.index.duplicated()).any():
        row = table[repeated].iloc[0]
        raise ValueError(f"{path}, line {row['line']}: {row['name']} appears a second time")
    if table.empty:
        raise ValueError(f"{path}: lists no spoken clip 01-01-…")
    return table


def _find_damage(path: Path, table: pd.DataFrame, numbers: pd.DataFrame) -> dict[str, str]:
    """Return the clips whose units cannot be used, each with the fault of its first such unit."""
    damage: dict[str, str] = {}
    for unit in UNITS:
        maximum = 5 if unit in INTENSITIES else 1
        for clip, row in table[~numbers[unit].between(0, maximum)].iterrows():
            written = "empty" if pd.isna(row[unit]) else repr(row[unit])
            damage.setdefault(
                str(clip),
                f"{path}, line {row['line']}: {unit} of {row['name']} is {written}, expected a "
                f"number from 0 to {maximum}",
            )
    for clip, row in table[numbers[list(UNITS)].eq(0).all(axis=1)].iterrows():
        damage[str(clip)] = (
            f"{path}, line {row['line']}: all units of {row['name']} are 0, which indicates that "
            f"no face was found"
        )
    return damage
