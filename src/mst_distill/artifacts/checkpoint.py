"""The state of a training on disk, from which a stopped training continues to the same result."""

from __future__ import annotations

import hashlib
import io
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from mst_distill.artifacts.atomic import replacing

SHARE = 20
"""A checkpoint is due once training has run for this many times the duration of the last save."""

FIRST = 0.05
"""Assumed duration of the first save in seconds."""

DIGEST_BYTES = hashlib.sha256().digest_size

State = dict[str, Any]
"""Tensors, numbers, texts, and lists and dicts of them; loading them runs no code."""


class Checkpoint:
    """One file, replaced as a whole by every save: the output of `torch.save`, then its SHA-256.

    Args:
        file: Path of the file.
        origin: Identifies everything that the training depends on. A file of another origin is not
            loaded.
    """

    def __init__(self, file: Path, origin: str) -> None:
        self._file = file
        self._origin = origin
        self._cost = FIRST
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for the next save; saves take at most a twentieth of the time."""
        return time.monotonic() - self._last > SHARE * self._cost

    def load(self) -> State | None:
        """Load the last state, or return None if there is none of this origin.

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
                f"{self._file} is an incomplete or damaged checkpoint (its SHA-256 differs): "
                f"remove it, and the stage starts again"
            )
        found: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return found if found.pop("terms") == self._origin else None

    def save(self, state: State) -> None:
        """Replace the last state by `state`."""
        import torch

        started = time.monotonic()
        content = io.BytesIO()
        torch.save({**state, "terms": self._origin}, content)
        with replacing(self._file) as path, path.open("wb") as file:
            file.write(content.getbuffer())
            file.write(hashlib.sha256(content.getbuffer()).digest())
        self._last = time.monotonic()
        self._cost = self._last - started


class Checkpoints:
    """The folder of a run's checkpoints.

    Args:
        folder: Path of the folder; it is created by the first save.
        origin: Identifies what all trainings of the folder depend on.
    """

    def __init__(self, folder: Path, origin: str = "") -> None:
        self._folder = folder
        self._origin = origin

    def on(self, origin: str, below: str = "") -> Checkpoints:
        """Return the same folder, or a folder below it, for another origin."""
        return Checkpoints(self._folder / below, origin)

    def of(self, stage: str) -> Checkpoint:
        """Return the checkpoint of one stage."""
        name = "".join(sign if sign.isalnum() else "-" for sign in stage)
        return Checkpoint(self._folder / f"{name}.pt", f"{self._origin} {stage}")

    def clear(self) -> None:
        """Remove the folder, once the results of its stages are saved, and its parent if empty."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):
            self._folder.parent.rmdir()
