"""Parameters of a teacher that exists already: a file of its outputs, or a trained net."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from mst_distill.block import Block

FILES = ("logits", "probabilities", "embeddings")
"""The keys of which one names a file with an output of the teacher for every sample."""

OF_A_NET = ("weights", "modality", "arguments", "masked_layers")
"""The keys that only a net has."""


SEEN_LABELS = (
    "declare which labels of these data the teacher was trained with: none, train, or a CSV file "
    "whose column id lists the samples"
)
"""What a message says of a declaration that cannot be read."""


class GivenTeacher(Block):
    """A teacher from outside; exactly one of `FILES` and `net` is set.

    Attributes:
        logits: A Parquet or NPZ file with the logits of every sample.
        probabilities: The same with probabilities.
        embeddings: The same with embeddings, on which a linear layer is fitted.
        net: The import path of the class of a trained net, as in `Member.type`.
        weights: The file with all weights of the net, ``.safetensors`` or of `torch.save`.
        modality: What the net reads: a modality, or ``multimodal``.
        arguments: As in `Member.arguments`.
        masked_layers: The layers of the net that get masks; without one, it is used as it is.
        seen_labels: The labels of this data set that the teacher was trained with: ``none``,
            ``train`` (those of the training split of the protocol ``heldout``), or a CSV file whose
            column ``id`` lists the samples.
    """

    logits: Path | None = None
    probabilities: Path | None = None
    embeddings: Path | None = None
    net: str | None = None
    weights: Path | None = None
    modality: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    masked_layers: tuple[str, ...] = ()
    # It changes no number, and counts in reports alone, see `Plan.seen_labels`.
    seen_labels: Literal["none", "train"] | Path = Field(exclude=True)

    @property
    def kind(self) -> str:
        """Which of `FILES` and ``net`` is set."""
        return next(kind for kind in (*FILES, "net") if getattr(self, kind) is not None)

    @property
    def file(self) -> Path:
        """The file of outputs or of weights."""
        path: Path = getattr(self, "weights" if self.net else self.kind)
        return path

    @property
    def summary(self) -> str:
        """The teacher in words."""
        seen = self.seen_labels.name if isinstance(self.seen_labels, Path) else self.seen_labels
        kind = f"{self.net} with weights" if self.net else self.kind
        return f"{kind} from {self.file.name}, labels seen: {seen}"

    @model_validator(mode="before")
    @classmethod
    def _check_declaration(cls, values: Any) -> Any:
        seen = values.get("seen_labels") if isinstance(values, dict) else None
        if not isinstance(seen, str | Path) or not str(seen):
            raise ValueError(f"seen_labels is {seen!r}; {SEEN_LABELS}")
        return values

    @model_validator(mode="after")
    def _check_kind(self) -> GivenTeacher:
        found = [kind for kind in (*FILES, "net") if getattr(self, kind) is not None]
        if len(found) != 1:
            raise ValueError(
                f"{' and '.join(found) or 'none'} of {', '.join(FILES)} and net is set; a given "
                f"teacher has exactly one of them"
            )
        surplus = [key for key in OF_A_NET if getattr(self, key)]
        if self.net is None and surplus:
            raise ValueError(f"{surplus[0]} is set, which only a net has: remove it, or set net")
        for key in ("weights", "modality"):
            if self.net is not None and getattr(self, key) is None:
                raise ValueError(f"{key} is missing; a given net needs {key}")
        return self
