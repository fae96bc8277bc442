"""Damaged files of VGGSound-50k: features, metadata and the table of splits."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from damaged_sets import (
    BENCHMARKS,
    Case,
    DamageTests,
    RawSet,
    append,
    edit_array,
    replace,
    replace_all,
    replace_by_broken_link,
    replace_by_outside_link,
    set_values,
    truncate,
)
from raw_sets import VGGSOUND_CLIPS, write_vggsound
from raw_sets import VGGSOUND_META as META
from raw_sets import VGGSOUND_TABLE as TABLE

VGGSOUND = RawSet(
    write_vggsound,
    f"{BENCHMARKS}.vggsound50k.VGGSound50k",
    {"video": "video", "audio": "audio", "metadata": META, "splits": TABLE},
)

CLIP = VGGSOUND_CLIPS[2]
VIDEO, AUDIO = f"video/{CLIP}.npy", f"audio/{CLIP}.npy"


SETS = {"vggsound50k": VGGSOUND}

CASES: Mapping[str, Case] = MappingProxyType(
    {
        "vggsound50k: truncated features": Case(
            VGGSOUND, VIDEO, truncate, ["not a complete .npy"], CLIP
        ),
        "vggsound50k: pickle": Case(
            VGGSOUND,
            AUDIO,
            lambda path: np.save(path, np.array([{}], object), allow_pickle=True),
            ["not a complete .npy file of numbers"],
            CLIP,
        ),
        "vggsound50k: wrong shape": Case(
            VGGSOUND,
            AUDIO,
            edit_array(lambda values: values[:, 1:]),
            [r"\(10, 127\)", "10, 128"],
            CLIP,
        ),
        "vggsound50k: NaN": Case(
            VGGSOUND, VIDEO, edit_array(set_values(3, np.nan)), ["NaN or infinity"], CLIP
        ),
        "vggsound50k: constant audio": Case(
            VGGSOUND, AUDIO, edit_array(np.zeros_like), ["is 0 throughout"], CLIP
        ),
        "vggsound50k: constant video": Case(
            VGGSOUND, VIDEO, edit_array(np.zeros_like), ["is 0 throughout"], CLIP
        ),
        "vggsound50k: broken link": Case(
            VGGSOUND, VIDEO, replace_by_broken_link, ["is missing"], CLIP
        ),
        "vggsound50k: link to a file outside the folder": Case(
            VGGSOUND,
            VIDEO,
            replace_by_outside_link,
            ["line 3", "link to a file outside", "the whole folder"],
        ),
        "vggsound50k: path with ..": Case(
            VGGSOUND,
            META,
            replace(CLIP, f"../video/{CLIP}"),
            ["line 3", "not a plain file name"],
        ),
        "vggsound50k: class of forty digits": Case(
            VGGSOUND, META, replace("&2", f"&{'9' * 40}"), ["line 3", "class"]
        ),
        "vggsound50k: class of five thousand digits": Case(
            VGGSOUND, META, replace("&2", f"&{'9' * 5000}"), ["line 3", "class"]
        ),
        "vggsound50k: class without a category": Case(
            VGGSOUND,
            TABLE,
            replace_all('"dog, barking"', ""),
            ["line", "no category"],
        ),
        "vggsound50k: id in two splits": Case(
            VGGSOUND, TABLE, append(f"x,{CLIP},0,test"), ["line 15", "appears twice"]
        ),
        "vggsound50k: unknown split": Case(
            VGGSOUND,
            TABLE,
            replace(",val\n", ",vall\n"),
            ["line 5", "'vall'", "did you mean 'val'"],
        ),
        "vggsound50k: not UTF-8": Case(
            VGGSOUND, META, append(b"caf\xe9&0"), ["not UTF-8", "line 13"]
        ),
        "vggsound50k: no test clips": Case(
            VGGSOUND,
            TABLE,
            replace_all(",test\n", ",train\n"),
            ["'test' is empty"],
        ),
    }
)


class TestDamage(DamageTests):
    cases = CASES
    sets = SETS
