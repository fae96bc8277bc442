"""Damaged files of the embedded benchmark `digits`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from damaged_sets import (
    BENCHMARKS,
    Case,
    Damage,
    DamageTests,
    RawSet,
    overwrite,
    set_values,
    truncate,
)


def write_digits(root: Path) -> None:
    """Write 300 recordings of 1 to 4 frames, thirty of each digit."""
    rng = np.random.default_rng(0)
    lengths = np.arange(300) % 4 + 1
    frames = rng.normal(size=(lengths.sum(), 13)).astype(np.float32)
    np.savez(root / "digits.npz", X=frames, y=np.arange(300) % 10, lengths=lengths)


def edit_digits(**changes: Callable[[np.ndarray], np.ndarray | None]) -> Damage:
    """Change arrays in the .npz file; a change that returns None is in place."""

    def damage(path: Path) -> None:
        with np.load(path) as file:
            arrays = dict(file)
        for name, change in changes.items():
            changed = change(arrays[name])
            arrays[name] = arrays[name] if changed is None else changed
        np.savez(path, **arrays)

    return damage


DIGITS = RawSet(write_digits, f"{BENCHMARKS}.digits.Digits", {"recordings": "digits.npz"})


SETS = {"digits": DIGITS}

CASES: Mapping[str, Case] = MappingProxyType(
    {
        "digits: empty file": Case(
            DIGITS, "digits.npz", overwrite(""), ["not a readable .npz file"]
        ),
        "digits: truncated": Case(DIGITS, "digits.npz", truncate, ["not a readable .npz file"]),
        "digits: one array": Case(
            DIGITS, "digits.npz", lambda path: np.save(path.open("wb"), np.ones(3)), ["X, y and"]
        ),
        "digits: missing array": Case(
            DIGITS, "digits.npz", lambda path: np.savez(path, X=np.ones((3, 13))), ["y is not"]
        ),
        "digits: label out of range": Case(
            DIGITS,
            "digits.npz",
            edit_digits(y=set_values(7, 10)),
            ["recording 7", "label 10", "0 to 9"],
        ),
        "digits: labels of text": Case(
            DIGITS,
            "digits.npz",
            edit_digits(y=lambda y: y.astype(str)),
            ["y is <U", "whole numbers"],
        ),
        "digits: frames of text": Case(
            DIGITS, "digits.npz", edit_digits(X=lambda x: x.astype(str)), ["X is <U", "numbers"]
        ),
        "digits: twelve coefficients": Case(
            DIGITS, "digits.npz", edit_digits(X=lambda x: x[:, 1:]), [r"\(\d+, 12\)", r"frames, 13"]
        ),
        "digits: flat frames": Case(
            DIGITS, "digits.npz", edit_digits(X=np.ravel), [r"X is .*\(\d+,\)", "frames, 13"]
        ),
        "digits: recording without frames": Case(
            DIGITS,
            "digits.npz",
            edit_digits(lengths=lambda n: np.r_[0, n[0] + n[1], n[2:]]),
            ["recording 0", "0 frames", "at least 1"],
        ),
        "digits: negative length": Case(
            DIGITS,
            "digits.npz",
            edit_digits(lengths=lambda n: np.r_[-1, n[0] + n[1] + 1, n[2:]]),
            ["recording 0", "-1 frames", "at least 1"],
        ),
        "digits: NaN": Case(
            DIGITS,
            "digits.npz",
            edit_digits(X=set_values(5, np.nan)),
            ["recording 2 in X contains NaN"],
        ),
        "digits: constant coefficient": Case(
            DIGITS,
            "digits.npz",
            edit_digits(X=set_values((slice(None), 4), 1)),
            ["coefficient 4", "the same in every frame"],
        ),
        "digits: no recording of a digit": Case(
            DIGITS,
            "digits.npz",
            edit_digits(y=lambda y: np.where(y == 3, 4, y)),
            ["no recording of digit 3"],
        ),
        "digits: constant recording": Case(
            DIGITS,
            "digits.npz",
            edit_digits(X=set_values(slice(3, 6), 1.5)),
            ["recording 2", "all its 3 fr"],
        ),
    }
)


class TestDamage(DamageTests):
    cases = CASES
    sets = SETS
