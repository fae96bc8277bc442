"""File names of RAVDESS: what they say, and which files below a folder are spoken clips."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mst_distill.benchmarks.raw_files import find_files

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""Classes, in the order of the third field of a name, which counts from 01."""

_FIELDS = {
    "modality": 3,
    "channel": 2,
    "emotion": len(EMOTIONS),
    "intensity": 2,
    "statement": 2,
    "repetition": 2,
    "actor": 24,
}
"""The fields of a name, in order, and how far each counts."""

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
    """What a file's name says.

    Attributes:
        clip: The name without the field of the modality: one for the audio and the video of a clip.
        modality: 1 video with sound, 2 video alone, 3 audio alone.
        channel: 1 speech, 2 song.
        emotion: 1 to 8.
        actor: 1 to 24, men odd and women even.
    """

    clip: str
    modality: int
    channel: int
    emotion: int
    actor: int


def parse_name(name: str, where: str) -> Name:
    """Read ``{modality}-{channel}-{emotion}-{intensity}-{statement}-{repetition}-{actor}``.

    Args:
        name: Seven numbers of two digits, without a suffix.
        where: File, or file and row, for the error.

    Raises:
        ValueError: The name does not fit; the message says where and the rule.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{where}: the name {name!r} does not fit {_PATTERN}, two digits each")
    fields = dict(zip(_FIELDS, map(int, name.split("-")), strict=True))
    for field, value in fields.items():
        if not 1 <= value <= _FIELDS[field]:
            raise ValueError(
                f"{where}: the name {name!r} has {field} {value:02d}, expected 01 to "
                f"{_FIELDS[field]:02d} ({_PATTERN})"
            )
    wanted = ("modality", "channel", "emotion", "actor")
    return Name(name[3:], **{field: fields[field] for field in wanted})


def is_speech(name: Name, modality: Literal["audio", "video"]) -> bool:
    """Whether this is a spoken clip as audio alone, or as video with sound."""
    return name.channel == _SPEECH and name.modality == _MODALITIES[modality]


def find_clips(path: str | Path, modality: Literal["audio", "video"]) -> dict[str, Path]:
    """Find the spoken clips in and below the folder `path`.

    Songs and other modalities, which lie in the same folders as they are published, are passed by.

    Returns:
        `Name.clip` to the file, sorted.

    Raises:
        FileNotFoundError: The folder is missing or holds no such clip; says what to put there.
        ValueError: A name does not fit, or a clip lies there twice; the message names the files.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder.absolute()} is no folder: put {_PUBLISHED[modality]} there"
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
            f"{folder.absolute()} holds no spoken {modality}: put {_PUBLISHED[modality]} there"
        )
    return dict(sorted(clips.items()))
