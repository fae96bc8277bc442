"""File names of RAVDESS: parsing them, and finding the spoken clips in a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mst_distill.benchmarks.raw_files import find_files

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""The classes, in the order of the numbers in the third field of a name, which start at 01."""

_FIELDS = {
    "modality": 3,
    "channel": 2,
    "emotion": len(EMOTIONS),
    "intensity": 2,
    "statement": 2,
    "repetition": 2,
    "actor": 24,
}
"""The fields of a name, in order, with the largest number of each."""

_NAME = re.compile(r"\d\d(-\d\d){6}")
_PATTERN = "-".join(f"{{{field}}}" for field in _FIELDS)
_SPEECH = 1

_SUFFIXES = {"audio": (".wav", ".ogg", ".flac"), "video": (".mp4",)}
_PUBLISHED = {
    "audio": "RAVDESS's speech, 03-01-….wav (Audio_Speech_Actors_01-24.zip of Zenodo record "
    "1188976, unpacked),",
    "video": "RAVDESS's videos with sound, 01-01-….mp4 (Video_Speech_Actor_01.zip to _24.zip of "
    "Zenodo record 1188976, unpacked),",
}
_MODALITIES = {"video": 1, "audio": 3}


@dataclass(frozen=True)
class Name:
    """A parsed file name.

    Attributes:
        clip: The name without the first field, the modality: the audio and the video of a clip have
            it in common.
        modality: 1 video with sound, 2 video alone, 3 audio alone.
        channel: 1 speech, 2 song.
        emotion: 1 to 8.
        actor: 1 to 24; the numbers of men are odd, those of women even.
    """

    clip: str
    modality: int
    channel: int
    emotion: int
    actor: int


def parse_name(name: str, where: str) -> Name:
    """Parse ``{modality}-{channel}-{emotion}-{intensity}-{statement}-{repetition}-{actor}``.

    Args:
        name: Seven numbers of two digits, without a file suffix.
        where: The file, or the file and line, for the error.

    Raises:
        ValueError: The name is invalid; the message states `where` and the rule.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{where}: the name {name!r} does not match {_PATTERN} of two digits each")
    fields = dict(zip(_FIELDS, map(int, name.split("-")), strict=True))
    for field, value in fields.items():
        if not 1 <= value <= _FIELDS[field]:
            raise ValueError(
                f"{where}: the name {name!r} has {field} {value:02d}, expected 01 to "
                f"{_FIELDS[field]:02d} ({_PATTERN})"
            )
    used = ("modality", "channel", "emotion", "actor")
    return Name(name[3:], **{field: fields[field] for field in used})


def is_speech(name: Name, modality: Literal["audio", "video"]) -> bool:
    """Return whether this is a spoken clip in the form that is read.

    That is audio only for the modality ``audio``, and video with sound for ``video``.
    """
    return name.channel == _SPEECH and name.modality == _MODALITIES[modality]


def find_clips(path: str | Path, modality: Literal["audio", "video"]) -> dict[str, Path]:
    """Find the spoken clips in the folder `path` and its subfolders.

    The published folders also contain songs and other modalities, which are ignored.

    Returns:
        The file of each clip, by `Name.clip`, sorted.

    Raises:
        FileNotFoundError: The folder is missing or contains no such clip; the message states which
            files belong there.
        ValueError: A name is invalid, or there are two files of a clip; the message names the
            files.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder.absolute()} is not a folder: put {_PUBLISHED[modality]} there"
        )
    clips: dict[str, Path] = {}
    for file in find_files(folder, _SUFFIXES[modality]):
        name = parse_name(file.stem, str(file))
        if not is_speech(name, modality):
            continue
        if name.clip in clips:
            raise ValueError(f"{file} is the same clip as {clips[name.clip]}: remove one of them")
        clips[name.clip] = file
    if not clips:
        raise FileNotFoundError(
            f"{folder.absolute()} contains no spoken {modality}: put {_PUBLISHED[modality]} there"
        )
    return dict(sorted(clips.items()))
