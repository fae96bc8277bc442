"""The types of the modalities of a table: the reader of each, and the kind of its default net."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from inspect import signature
from typing import Any, Literal

from mst_distill.errors import did_you_mean
from mst_distill.media.encoded import EncodedPhotograph, EncodedText
from mst_distill.media.feature_files import ShapedFeatures
from mst_distill.media.log_mel import LogMel
from mst_distill.media.numbers import StandardisedNumbers
from mst_distill.media.readers import Reader
from mst_distill.media.resized_images import ResizedImage
from mst_distill.media.speech_audio import SpeechMFCC

Branch = Literal["vector", "sequence", "map"]
"""What a tensor is without the batch: ``(F,)``, ``(C, T)`` or ``(C, H, W)``."""

ENCODERS = "mst_distill.media.encoders"


def _photo(encoder: str = f"{ENCODERS}.EfficientNetLite0") -> Reader:
    return EncodedPhotograph(encoder)


def _image(size: int | Sequence[int] = 64, grey: bool = False) -> Reader:
    return ResizedImage((size, size) if isinstance(size, int) else size, grey)


def _audio(seconds: float, rate: int = 16_000) -> Reader:
    return LogMel(seconds, rate)


def _speech() -> Reader:
    return SpeechMFCC()


def _text(encoder: str = f"{ENCODERS}.MiniLM", tweets: bool = False) -> Reader:
    return EncodedText(encoder, tweets)


def _array(shape: Sequence[int], scaled: bool = False) -> Reader:
    return ShapedFeatures(shape if isinstance(shape, tuple) else tuple(shape), scaled)


READERS: Mapping[str, Callable[..., Reader]] = {
    "photo": _photo,
    "image": _image,
    "audio": _audio,
    "speech": _speech,
    "text": _text,
    "numbers": StandardisedNumbers,
    "array": _array,
}
"""Type to the function that makes its reader, whose parameters are the keys of a modality."""

BRANCHES: Mapping[str, Branch] = {
    "photo": "vector",
    "image": "map",
    "audio": "map",
    "speech": "sequence",
    "text": "vector",
    "numbers": "vector",
}
"""Type to the kind of its tensor; that of an array follows from its shape."""

BY_RANK: Mapping[int, Branch] = {1: "vector", 2: "sequence", 3: "map"}
"""The number of axes of a sample to the kind of its tensor, where nothing else states it."""


@dataclass(frozen=True)
class ModalityType:
    """One modality of a table.

    Attributes:
        name: The modality.
        type: One of `READERS`.
        column: The column, or for numbers the columns; a ``*`` in one stands for any characters.
        arguments: The arguments of the function in `READERS`, without columns.
    """

    name: str
    type: str
    column: tuple[str, ...]
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, written: Any) -> ModalityType:
        """Read what the parameters say of a modality: a type, or a mapping with the key ``type``.

        Raises:
            ValueError: A type or key is unknown, or a required key is missing; the message names
                the modality and the nearest choice.
        """
        keys = {"type": written} if isinstance(written, str) else written
        if not isinstance(keys, Mapping) or not isinstance(keys.get("type"), str):
            raise ValueError(
                f"modality {name!r} is {written!r}; it must be a type ({', '.join(READERS)}) or a "
                f"block with the key 'type'"
            )
        if (kind := keys["type"]) not in READERS:
            raise ValueError(did_you_mean(f"type of modality {name!r}", kind, READERS))
        column = keys.get("column", name)
        columns = (column,) if isinstance(column, str) else tuple(map(str, column or ()))
        if not columns or (len(columns) > 1 and kind != "numbers"):
            raise ValueError(
                f"modality {name!r} has the columns {list(columns)}; only 'numbers' can have "
                f"several, and each modality needs one"
            )
        arguments = {key: keys[key] for key in keys if key not in ("type", "column")}
        known = {} if kind == "numbers" else signature(READERS[kind]).parameters
        for key in arguments:
            if key not in known:
                choices = ("type", "column", *known)
                raise ValueError(did_you_mean(f"key of modality {name!r}", key, choices))
        for key, parameter in known.items():
            if parameter.default is parameter.empty and key not in arguments:
                raise ValueError(
                    f"modality {name!r} of type {kind!r} needs the key {key!r}: {_NEEDED[key]}"
                )
        return cls(name, kind, columns, arguments)

    def columns_in(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the columns of this modality, in the order of the parameters.

        Args:
            names: All columns of the table.

        Raises:
            ValueError: A column does not exist; the message names the nearest.
        """
        found: list[str] = []
        for column in self.column:
            matching = [name for name in names if _matches(name, column, self.type)]
            if not matching:
                raise ValueError(did_you_mean(f"column of modality {self.name!r}", column, names))
            found += [name for name in matching if name not in found]
        return tuple(found)

    def reader(self, columns: Sequence[str]) -> Reader:
        """Make the reader of this modality.

        Args:
            columns: From `columns_in`.

        Raises:
            ValueError, TypeError: An argument has a wrong type or value; the message names the
                modality.
        """
        arguments = {"names": columns} if self.type == "numbers" else self.arguments
        try:
            reader = READERS[self.type](**arguments)
        except (TypeError, ValueError) as error:
            raise type(error)(f"modality {self.name!r}: {error}") from error
        reader.columns = tuple(columns)
        return reader

    @property
    def branch(self) -> Branch:
        """The kind of the tensor.

        Raises:
            ValueError: No default net takes an array of this shape.
        """
        if self.type != "array":
            return BRANCHES[self.type]
        shape = self.arguments["shape"]
        rank = len(shape) if isinstance(shape, Sequence) else 0
        if rank not in BY_RANK:
            raise ValueError(
                f"modality {self.name!r} is an array of shape {shape}; with `members: auto` an "
                f"array must be (F,), (C, T) or (C, H, W): list the members for another shape"
            )
        return BY_RANK[rank]


_NEEDED = {
    "seconds": "the length of the clips; longer ones are cut to their middle",
    "shape": "the shape of each .npy file, such as [20, 64]",
}


def read_modalities(written: Any) -> tuple[ModalityType, ...]:
    """Read the argument `modalities` of a table.

    Raises:
        ValueError: There are fewer than two modalities, or one is wrong (see `ModalityType.of`).
    """
    if not isinstance(written, Mapping) or len(written) < 2:
        raise ValueError(
            f"modalities is {written!r}; at least two are needed, as NAME: TYPE, of the types "
            f"{', '.join(READERS)}: distillation needs a teacher that sees what the student does "
            f"not"
        )
    return tuple(ModalityType.of(name, value) for name, value in written.items())


def _matches(name: str, column: str, kind: str) -> bool:
    return name == column or (kind == "numbers" and "*" in column and fnmatchcase(name, column))
