"""Damaged files of CrisisMMD: tables, photographs, and precomputed features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image

from damaged_sets import (
    BENCHMARKS,
    Case,
    Damage,
    DamageTests,
    RawSet,
    append,
    overwrite,
    replace_by_outside_link,
    truncate,
    write_png_bomb,
)
from raw_sets import CRISIS_IMAGES, ENCODERS, crisis_features, tweet_id, tweet_row, write_crisismmd


def write_features(root: Path) -> None:
    torch.save(crisis_features(), root / "features.pth")


def edit_features(change: Callable[..., tuple[np.ndarray, ...]]) -> Damage:
    """Write the features that `change` makes of image, text and label."""
    return lambda path: torch.save(change(*crisis_features()), path)


CRISISMMD = RawSet(
    write_crisismmd,
    f"{BENCHMARKS}.crisismmd.CrisisMMD",
    {"images": "images", "splits": "splits"},
    ENCODERS,
)
FEATURES = RawSet(
    write_features, f"{BENCHMARKS}.crisismmd.CrisisMMDFeatures", {"file": "features.pth"}
)

TRAIN, DEV, TEST = (
    f"splits/task_humanitarian_text_img_{split}.tsv" for split in ("train", "dev", "test")
)
PHOTO = f"{CRISIS_IMAGES}/21_0.jpg"


SETS = {"crisismmd": CRISISMMD, "crisismmd_features": FEATURES}

CASES: Mapping[str, Case] = MappingProxyType(
    {
        "crisismmd: empty table": Case(CRISISMMD, DEV, overwrite(""), ["line 1", "unknown column"]),
        "crisismmd: truncated line": Case(
            CRISISMMD, TRAIN, append("hurricane\t7"), ["line 11 has 2 fields"]
        ),
        "crisismmd: not UTF-8": Case(
            CRISISMMD, TRAIN, append(b"caf\xe9"), ["line 11 is not UTF-8"]
        ),
        "crisismmd: unknown label": Case(
            CRISISMMD,
            TEST,
            append(tweet_row(30, label="vehicle_damages")),
            ["line 11", "did you mean 'vehicle_damage'"],
        ),
        "crisismmd: rounded id": Case(
            CRISISMMD, DEV, append(tweet_row(30, tweet_id="9.14E+18")), ["line 11", "digits"]
        ),
        "crisismmd: path with ..": Case(
            CRISISMMD,
            TRAIN,
            append(tweet_row(30, image="data_image/../../../x.jpg")),
            ["line 11", "within"],
        ),
        "crisismmd: absolute path": Case(
            CRISISMMD, TRAIN, append(tweet_row(30, image="/etc/hostname")), ["line 11", "within"]
        ),
        "crisismmd: path that is too long": Case(
            CRISISMMD, TRAIN, append(tweet_row(30, image="a" * 5000)), ["line 11", "too long"]
        ),
        "crisismmd: one photograph of two tweets": Case(
            CRISISMMD,
            TEST,
            append(tweet_row(30, image=tweet_row(2).split("\t")[4])),
            ["line 11", tweet_id(2), "2_0.jpg", "one tweet"],
        ),
        "crisismmd: missing photograph": Case(
            CRISISMMD, PHOTO, Path.unlink, ["is missing"], tweet_id(21)
        ),
        "crisismmd: link to a file outside the folder": Case(
            CRISISMMD,
            PHOTO,
            replace_by_outside_link,
            [tweet_id(21), "link to a file outside", "the whole folder"],
        ),
        "crisismmd: image bomb": Case(
            CRISISMMD, PHOTO, write_png_bomb, ["100000000 pixels", "limit"], tweet_id(21)
        ),
        "crisismmd: unsupported image format": Case(
            CRISISMMD,
            PHOTO,
            lambda path: Image.new("RGB", (64, 48)).save(path, "BMP"),
            ["is BMP", "JPEG, PNG, GIF and WebP are supported"],
            tweet_id(21),
        ),
        "crisismmd: truncated image": Case(
            CRISISMMD, PHOTO, truncate, ["no image that can be read"], tweet_id(21)
        ),
        "crisismmd_features: empty": Case(
            FEATURES, "features.pth", overwrite(""), ["not a .pth file of only numeric"]
        ),
        "crisismmd_features: NaN": Case(
            FEATURES,
            "features.pth",
            edit_features(lambda i, t, y: (i, np.where(np.arange(40)[:, None] == 9, np.inf, t), y)),
            ["text of row 9", "NaN or infinity"],
        ),
        "crisismmd_features: label out of range": Case(
            FEATURES,
            "features.pth",
            edit_features(lambda i, t, y: (i, t, y + 1)),
            ["label of row 7 is 8", "0 to 7"],
        ),
        "crisismmd_features: no columns": Case(
            FEATURES,
            "features.pth",
            edit_features(lambda i, t, y: (torch.from_numpy(i)[:, :0], t, y)),
            [r"\(40, 0\)", "width"],
        ),
        "crisismmd_features: constant": Case(
            FEATURES,
            "features.pth",
            edit_features(lambda i, t, y: (i * 0 + np.arange(6), t, y)),
            ["modality 'image'", "the same in all 40 samples"],
        ),
        "crisismmd_features: features of one photograph are 0": Case(
            FEATURES,
            "features.pth",
            edit_features(lambda i, t, y: (np.where(np.arange(40)[:, None] == 9, 0, i), t, y)),
            ["image of row 9 is 0 throughout"],
            "row-00009",
        ),
        "crisismmd_features: too few rows": Case(
            FEATURES,
            "features.pth",
            edit_features(lambda i, t, y: (i[:2], t[:2], y[:2])),
            ["is empty"],
        ),
    }
)


class TestDamage(DamageTests):
    cases = CASES
    sets = SETS
