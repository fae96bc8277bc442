"""The interface of a reader: it turns one modality of raw samples into the tensors of the nets.

Training and deployment use the same readers, so that a student sees in use what it saw in training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import numpy as np

Takes = Literal["path", "text", "numbers"]
"""What a raw value is: the path of a file, a text, or a sequence of numbers."""


IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".webp")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm")
ARRAYS = (".npy",)
"""Suffixes of the files that readers read, for the search of a folder."""


class UnreadableValueError(ValueError):
    """One of several raw values cannot be read, or contains no information.

    Args:
        position: Position of the value in the sequence that was read.
        reason: What is wrong with it, with the file if there is one.
    """

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.reason = reason


def readable(values: Iterable[Any], load: Callable[[Any], np.ndarray]) -> list[np.ndarray]:
    """Load the values that can be loaded, on which a reader is fitted.

    The others are reported when they are read.

    Raises:
        ValueError: None can be loaded; the message has the reason of the first.
    """
    loaded, errors = [], []
    for value in values:
        try:
            loaded.append(load(value))
        except (ValueError, OSError) as error:
            errors.append(error)
    if not loaded:
        raise ValueError(f"none of {len(errors)} training values can be read: {errors[:1]}")
    return loaded


@dataclass
class Reader(ABC):
    """Reads one modality of one raw value at a time; it knows no benchmark and no split.

    A subclass is a dataclass. Its fields are its arguments, which are JSON values, so that the
    reader can be built again from its class and its arguments.

    Attributes:
        takes: What a raw value is. The readers of the benchmarks also accept what a source has
            decoded already, as an array.
        suffixes: Of the files that it reads, in lower case.
        import_paths: Names of the arguments that are import paths of classes.
        notes: Names of the numbers that `read_one` returns in addition to the tensor.
        columns: The columns of a table that hold one value; empty if they are not known. The
            source `Table` sets it, and a reader of numbers, in the order of its numbers.
        fitted: What was fitted, by name; empty if nothing is.
    """

    takes: ClassVar[Takes]
    suffixes: ClassVar[tuple[str, ...]] = ()
    import_paths: ClassVar[tuple[str, ...]] = ()
    notes: ClassVar[tuple[str, ...]] = ()
    columns: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    fitted: dict[str, np.ndarray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments with which the class builds this reader, without what was fitted."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init}

    def fit(self, values: Iterable[Any]) -> None:
        """Set `fitted` from the raw values of the training samples; by default, nothing is fitted.

        Args:
            values: The raw values; they can be iterated over once.
        """
        return

    @abstractmethod
    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one raw value.

        Returns:
            The tensor, float32, of the same shape for every value, and the numbers in `notes`.

        Raises:
            ValueError, OSError: The value is damaged; the message says what is wrong.
        """

    def read_noted(self, values: Sequence[Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Read n raw values, each on its own, so that none depends on the others.

        Returns:
            ``(n, *shape)`` float32, and for each name in `notes` an array of ``(n,)`` numbers.

        Raises:
            UnreadableValueError: A value is damaged.
        """
        tensors, notes = [], []
        for position, value in enumerate(values):
            try:
                tensor, note = self.read_one(value)
            except (ValueError, OSError) as error:
                raise UnreadableValueError(position, str(error)) from error
            tensors.append(tensor)
            notes.append(note)
        return np.stack(tensors), {
            name: np.array([note[name] for note in notes]) for name in self.notes
        }

    def read_readable(self, values: Sequence[Any]) -> tuple[np.ndarray | None, dict[int, str]]:
        """Read those of n raw values that can be read.

        Returns:
            ``(k, *shape)`` float32 of the k values that can be read, in their order, or None if
            there are none; and the position of each other value with what is wrong with it.
        """
        tensors: list[np.ndarray] = []
        errors: dict[int, str] = {}
        for position, value in enumerate(values):
            try:
                tensors.append(self.read_one(value)[0])
            except (ValueError, OSError) as error:
                errors[position] = str(error)
        return np.stack(tensors) if tensors else None, errors

    def read(self, values: Sequence[Any]) -> np.ndarray:
        """Read n raw values as ``(n, *shape)`` float32; see `read_noted`."""
        return self.read_noted(values)[0]
