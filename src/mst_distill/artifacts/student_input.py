"""What a student needs besides its weights: how its input is read, and what its output means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mst_distill.artifacts.atomic import replacing
from mst_distill.errors import did_you_mean
from mst_distill.import_path import resolve
from mst_distill.media.readers import Reader

OWN = "mst_distill"
"""The package whose readers are always built."""


@dataclass(frozen=True)
class ReaderRecord:
    """A fitted reader as data.

    Attributes:
        type: Import path of its class.
        arguments: Arguments of the class; JSON values.
        fitted: What was fitted, by name.
        columns: The columns of a table that hold one value; empty if they are not known.
    """

    type: str
    arguments: dict[str, Any]
    fitted: dict[str, np.ndarray] = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    @property
    def card(self) -> dict[str, Any]:
        """What is written as JSON; `fitted` is written as arrays."""
        return {"type": self.type, "arguments": self.arguments, "columns": list(self.columns)}

    @classmethod
    def of(cls, reader: Reader) -> ReaderRecord:
        """Record a reader.

        Raises:
            ValueError: An argument is not a JSON value; the message names the reader.
        """
        kind = f"{type(reader).__module__}.{type(reader).__qualname__}"
        try:
            arguments = json.loads(json.dumps(reader.arguments))
        except TypeError as error:
            raise ValueError(
                f"the arguments of the reader {kind} must be JSON values, such as texts and "
                f"numbers, so that it can be built again: {error}"
            ) from error
        return cls(kind, arguments, dict(reader.fitted), tuple(reader.columns))

    @classmethod
    def from_card(cls, card: Mapping[str, Any], fitted: Mapping[str, np.ndarray]) -> ReaderRecord:
        """Return the record of a `card` and its arrays."""
        return cls(card["type"], dict(card["arguments"]), dict(fitted), tuple(card["columns"]))

    def open(self, *trusted: str) -> Reader:
        """Build the reader.

        Args:
            trusted: Import paths. The class of the reader, and the classes that its arguments name,
                must be of the top-level package of one of them, or of this package.

        Raises:
            PermissionError: A class is of another package.
            ValueError, TypeError: A class does not exist or does not accept the arguments.
        """
        packages = {OWN, *(path.partition(".")[0] for path in trusted)}
        self._check(self.type, packages)
        kind = resolve(self.type, Reader)
        for name in kind.import_paths:
            self._check(str(self.arguments.get(name, OWN)), packages)
        reader = kind(**self.arguments)
        reader.fitted, reader.columns = dict(self.fitted), self.columns
        return reader

    def _check(self, path: str, packages: Collection[str]) -> None:
        if path.partition(".")[0] not in packages:
            raise PermissionError(
                f"the reader {self.type} names {path!r}, which is neither of this package nor of "
                f"that of the benchmark in the parameters: it is not imported, because a file of "
                f"others can name any code"
            )


@dataclass(frozen=True)
class StudentInput:
    """How the input of a student is read, and what its logits mean.

    Attributes:
        modality: The modality that the student sees.
        shape: Shape of its tensor, without the batch.
        dense: Whether the logits have a class for every pixel, ``(B, C, H, W)``.
        classes: Class names, in the order of the logits.
        ignored_label: The class that is no target (dense tasks), or None.
        temperature: The number by which the logits are divided for calibrated probabilities.
        weights: SHA-256 of the file of the student's weights.
        reader: How a raw value is read; None if the source of the benchmark has no readers.
    """

    modality: str
    shape: tuple[int, ...]
    dense: bool
    classes: tuple[str, ...]
    ignored_label: int | None
    temperature: float
    weights: str
    reader: ReaderRecord | None


def save_student_input(student_input: StudentInput, path: Path) -> None:
    """Write ``NAME.json``, and ``NAME.safetensors`` with what the reader has fitted.

    Args:
        student_input: What is written.
        path: Path of the JSON.

    Raises:
        OSError: A file cannot be written; the message names it.
    """
    reader = student_input.reader
    card = {**asdict(student_input), "reader": None}
    arrays = write_fitted({"": reader.fitted} if reader else {}, path.with_suffix(".safetensors"))
    if reader:
        card["reader"] = {**reader.card, "sha256": arrays}
    with replacing(path) as file:
        file.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def load_student_input(path: Path) -> StudentInput:
    """Read what `save_student_input` wrote; no code is imported.

    Raises:
        ValueError: A file is missing or damaged; the message names it.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        reader = card["reader"]
        if reader:
            fitted = read_fitted(path.with_suffix(".safetensors"), reader["sha256"]).get("", {})
            reader = ReaderRecord.from_card(reader, fitted)
        for name in card:
            if name not in StudentInput.__dataclass_fields__:
                raise ValueError(did_you_mean("key", name, StudentInput.__dataclass_fields__))
        lists = {name: tuple(card[name]) for name in ("shape", "classes")}
        return StudentInput(**{**card, **lists, "reader": reader})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the complete description of an input: {error}") from error


def write_fitted(fitted: Mapping[str, Mapping[str, np.ndarray]], path: Path) -> str:
    """Write what some readers have fitted to one file.

    Args:
        fitted: Name of the reader to its arrays by name.
        path: A safetensors file.

    Returns:
        The SHA-256 of the file.
    """
    from safetensors.numpy import save

    arrays = {
        f"{reader}/{name}": np.ascontiguousarray(array)
        for reader, state in fitted.items()
        for name, array in state.items()
    }
    content = save(arrays)
    with replacing(path) as file:
        file.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_fitted(path: Path, sha256: str) -> dict[str, dict[str, np.ndarray]]:
    """Read what `write_fitted` wrote.

    Raises:
        ValueError: The file is missing, or has another SHA-256; the message names it.
    """
    from safetensors.numpy import load

    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the recorded one")
    fitted: dict[str, dict[str, np.ndarray]] = {}
    for key, array in load(content).items():
        reader, _, name = key.rpartition("/")
        fitted.setdefault(reader, {})[name] = array
    return fitted
