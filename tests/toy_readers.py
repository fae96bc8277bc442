"""Readers of small raw values, as a user would write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mst_distill.media.readers import Reader


@dataclass
class Counts(Reader):
    """Two columns of numbers, divided by what was fitted; none may be negative."""

    takes = "numbers"
    names: tuple[str, ...] = ("words", "mentions")

    def __post_init__(self) -> None:
        self.columns = tuple(self.names)

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        if min(value) < 0:
            raise ValueError(f"{min(value):g} is negative")
        return (np.asarray(value) / self.fitted["largest"]).astype(np.float32), {}


@dataclass
class Letters(Reader):
    """How often a text has each of four letters."""

    takes = "text"

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        return np.array([value.count(letter) for letter in "aeio"], np.float32), {}


@dataclass
class Bytes(Reader):
    """The first four bytes of a file."""

    takes = "path"

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        with open(value, "rb") as file:
            content = file.read(4)
        if len(content) < 4:
            raise ValueError(f"{value}: it has {len(content)} bytes of 4")
        return np.frombuffer(content, np.uint8).astype(np.float32) / 255, {}


@dataclass
class Picture(Bytes):
    """The first 24 bytes of a file as a map ``(1, 4, 6)``."""

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        with open(value, "rb") as file:
            return np.frombuffer(file.read(24), np.uint8).astype(np.float32).reshape(1, 4, 6), {}
