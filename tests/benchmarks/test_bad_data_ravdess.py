"""Damaged files of RAVDESS: videos, recordings, and the table of action units."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import av
import numpy as np

from damaged_sets import (
    BENCHMARKS,
    Case,
    Damage,
    DamageTests,
    RawSet,
    append,
    overwrite,
    replace,
    replace_all,
    replace_by_folder,
    truncate,
    write_opposite_channels,
    write_silence,
)
from mst_distill.media.action_units import UNITS
from raw_sets import (
    RAVDESS_CLIPS,
    UNITS_TABLE,
    make_units,
    write_audio_only_mp4,
    write_numbered,
    write_ravdess,
    write_units,
    write_units_table,
    write_video,
)


def write_few_ravdess(root: Path) -> None:
    """Write three clips of each of three actors.

    There are few, because a sample has 9 MB; a split needs at least two classes.
    """
    write_ravdess(root, RAVDESS_CLIPS[:9])


def set_unit(column: str | list[str], value: object, row: int = 3) -> Damage:
    """Write the table of action units with one row changed."""

    def damage(path: Path) -> None:
        table = make_units().astype(object)
        table.loc[row, column] = value
        write_units_table(path.parent, table)

    return damage


def write_huge_video(path: Path) -> None:
    """Write one black frame of 8192 x 4352 pixels, which takes a few kilobytes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 8192, 4352, "yuv420p"
        black = np.zeros((4352 * 3 // 2, 8192), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(black, format="yuv420p")))
        container.mux(stream.encode(None))


RAVDESS = RawSet(
    write_few_ravdess,
    f"{BENCHMARKS}.ravdess.RAVDESS",
    {"audio": "raw", "video": "raw"},
    {"face_finder": "mst_distill.media.faces.CentreCrop"},
)
RAVDESS_UNITS = RawSet(
    write_units,
    f"{BENCHMARKS}.ravdess_units.RAVDESSUnits",
    {"units": UNITS_TABLE, "audio": ""},
)

CLIP = "01-01-01-01-01-03"
MP4, WAV = f"raw/Actor_03/01-{CLIP}.mp4", f"raw/Actor_03/03-{CLIP}.wav"
UNITS_WAV = f"03-{RAVDESS_CLIPS[4]}.wav"


SETS = {"ravdess": RAVDESS, "ravdess_units": RAVDESS_UNITS}

CASES: Mapping[str, Case] = MappingProxyType(
    {
        "ravdess: empty wav": Case(RAVDESS, WAV, overwrite(""), ["no audio that"], CLIP),
        "ravdess: truncated wav": Case(RAVDESS, WAV, truncate, ["is cut short"], CLIP),
        "ravdess: video without frames": Case(
            RAVDESS, MP4, write_audio_only_mp4, ["has no video stream"], CLIP
        ),
        "ravdess: HTML in place of a video": Case(
            RAVDESS, MP4, overwrite("<html>"), ["no video that can be decoded"], CLIP
        ),
        "ravdess: video of two frames": Case(
            RAVDESS, MP4, lambda path: write_numbered(path, 2), ["before the first"], CLIP
        ),
        "ravdess: video of huge frames": Case(
            RAVDESS, MP4, write_huge_video, ["8192 x 4352 pixels", "at most"], CLIP
        ),
        "ravdess: silence": Case(
            RAVDESS,
            WAV,
            write_silence,
            ["silent throughout"],
            CLIP,
        ),
        "ravdess: opposite channels": Case(
            RAVDESS, WAV, write_opposite_channels, ["2 channels cancel"], CLIP
        ),
        "ravdess: video of one colour": Case(
            RAVDESS,
            MP4,
            lambda path: write_video(path, [np.full((32, 64, 3), 99, np.uint8)] * 12),
            ["every frame has one colour"],
            CLIP,
        ),
        "ravdess: missing wav": Case(
            RAVDESS, WAV, Path.unlink, ["contains no audio of this clip"], CLIP, named="raw"
        ),
        "ravdess: repeated clip": Case(
            RAVDESS,
            WAV,
            lambda path: shutil.copy(path, path.parents[1] / path.name),
            ["is the same clip as", "remove one"],
        ),
        "ravdess: emotion out of range": Case(
            RAVDESS,
            WAV,
            lambda path: path.rename(path.with_name("03-01-09-01-01-01-03.wav")),
            ["emotion 09, expected 01 to 08"],
            named="03-01-09-01-01-01-03.wav",
        ),
        "ravdess_units: missing column": Case(
            RAVDESS_UNITS, UNITS_TABLE, replace("AU04_r", "AU04"), ["lacks the columns AU04_r"]
        ),
        "ravdess_units: commas in place of semicolons": Case(
            RAVDESS_UNITS,
            UNITS_TABLE,
            replace_all(";", ","),
            ["lacks the columns name", "';' between"],
        ),
        "ravdess_units: not UTF-8": Case(
            RAVDESS_UNITS, UNITS_TABLE, append(b"caf\xe9"), ["not a table", "utf-8"]
        ),
        "ravdess_units: NaN": Case(
            RAVDESS_UNITS,
            UNITS_TABLE,
            set_unit("AU12_r", "NaN"),
            ["line 5", "AU12_r", "a number from 0 to 5"],
            RAVDESS_CLIPS[3],
        ),
        "ravdess_units: out of range": Case(
            RAVDESS_UNITS,
            UNITS_TABLE,
            set_unit("AU45_c", 1.5),
            ["line 5", "AU45_c", "'1.5'", "0 to 1"],
            RAVDESS_CLIPS[3],
        ),
        "ravdess_units: no face": Case(
            RAVDESS_UNITS,
            UNITS_TABLE,
            set_unit(list(UNITS), 0),
            ["line 5", "all units of .* are 0"],
            RAVDESS_CLIPS[3],
        ),
        "ravdess_units: silence": Case(
            RAVDESS_UNITS,
            UNITS_WAV,
            write_silence,
            ["silent throughout"],
            RAVDESS_CLIPS[4],
        ),
        "ravdess_units: repeated clip": Case(
            RAVDESS_UNITS,
            UNITS_TABLE,
            set_unit("name", f"01-{RAVDESS_CLIPS[2]}"),
            ["line 5", "a second time"],
        ),
        "ravdess_units: repeated column": Case(
            RAVDESS_UNITS, UNITS_TABLE, replace("AU45_c", "AU28_c"), ["AU28_c", "twice"]
        ),
        "ravdess_units: folder in place of a wav": Case(
            RAVDESS_UNITS,
            UNITS_WAV,
            replace_by_folder,
            ["no audio of this clip"],
            RAVDESS_CLIPS[4],
            named="raw",
        ),
    }
)


class TestDamage(DamageTests):
    cases = CASES
    sets = SETS
