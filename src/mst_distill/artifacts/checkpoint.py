"""A training's state on disk, from which it goes on after a stop as if there had been none."""

from __future__ import annotations

import hashlib
import io
import shutil
import time
from pathlib import Path
from typing import Any

from mst_distill.artifacts.atomic import replacing

SHARE = 20
"""A checkpoint is due when training has gone on for so many times as long as the last one took."""

FIRST = 0.05
"""Seconds that the first one is taken to cost."""

DIGEST_BYTES = hashlib.sha256().digest_size

State = dict[str, Any]
"""Tensors, numbers, texts, and lists and dicts of them: what is loaded without running code."""


class Checkpoint:
    """One file, replaced whole at every save: what torch writes, and its SHA-256 behind it.

    Args:
        file: Where.
        terms: Whatever the training depends on; a file that was written on others is not gone on
            from.
    """

    def __init__(self, file: Path, terms: str) -> None:
        self._file = file
        self._terms = terms
        self._cost = FIRST
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for the next one: they take a twentieth of the time, at most."""
        return time.monotonic() - self._last > SHARE * self._cost

    def load(self) -> State | None:
        """The state of the same training, if it was stopped.

        Raises:
            ValueError: The file is damaged; the message names it.
        """
        import torch

        if not self._file.is_file():
            return None
        written = self._file.read_bytes()
        content, digest = written[:-DIGEST_BYTES], written[-DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError(
                f"{self._file} is no whole checkpoint, or is damaged (its SHA-256 differs): remove "
                f"it, and the stage begins anew"
            )
        found: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return found if found.pop("terms") == self._terms else None

    def save(self, state: State) -> None:
        """Replace the last state."""
        import torch

        started = time.monotonic()
        content = io.BytesIO()
        torch.save({**state, "terms": self._terms}, content)
        with replacing(self._file) as path, path.open("wb") as file:
            file.write(content.getbuffer())
            file.write(hashlib.sha256(content.getbuffer()).digest())
        self._last = time.monotonic()
        self._cost = self._last - started


class Checkpoints:
    """The folder of a run's checkpoints.

    Args:
        folder: Where; made when the first is saved.
        terms: Whatever all of them depend on.
    """

    def __init__(self, folder: Path, terms: str = "") -> None:
        self._folder = folder
        self._terms = terms

    def on(self, terms: str, below: str = "") -> Checkpoints:
        """The same, or a folder in it, on other terms."""
        return Checkpoints(self._folder / below, terms)

    def of(self, stage: str) -> Checkpoint:
        """The checkpoint of one stage."""
        name = "".join(sign if sign.isalnum() else "-" for sign in stage)
        return Checkpoint(self._folder / f"{name}.pt", f"{self._terms} {stage}")

    def clear(self) -> None:
        """Remove all: what they are of is done and kept elsewhere."""
        shutil.rmtree(self._folder, ignore_errors=True)
