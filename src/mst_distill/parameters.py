"""Typed parameters: one frozen model a block, unknown keys refused before any node runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from mst_distill.errors import unknown

Selection = Literal["accuracy", "ce", "last"]
"""Which epoch's student is kept: best validation accuracy (ties by cross-entropy), smallest
validation cross-entropy, or the last."""

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"selection": "ce"},
    "reference": {
        "selection": "ce",
        "stacked_masks": True,
        "scaled_balance": True,
        "early_decay": True,
    },
    "merit": {
        "router": "learned",
        "gated": True,
        "balance_weight": 0.1,
        "halvings": (0.3, 0.6, 0.9),
    },
}
"""What a preset of `Route` fills in; a key that is given beside the preset wins."""


MULTIMODAL = "multimodal"
"""The name of the member that sees every modality; the others bear their modality's name."""

TAKEN = (MULTIMODAL, "student", "label")
"""Names that no modality may have."""


class Block(BaseModel):
    """A frozen block of parameters that knows every key it may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_and_missing_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(unknown("parameter", key, cls.model_fields))
            for key, field in cls.model_fields.items():
                if field.is_required() and key not in values:
                    raise ValueError(
                        f"parameter {key!r} is missing; a block in an environment replaces the "
                        f"whole block of conf/base"
                    )
        return values


class Benchmark(Block):
    """Which raw files become samples: a `SampleSource` by import path, and its arguments."""

    type: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Member(Block):
    """A net by import path, its arguments beside ``classes``, and the layers that get masks.

    ``start`` is the import path of a function that gives the new net its start weights; without it
    they are what its layers give themselves.
    """

    type: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    start: str | None = None
    masked_layers: tuple[str, ...] = ()


class Members(Block):
    """The multimodal teacher and one net a modality."""

    multimodal: Member
    modalities: dict[str, Member] = Field(min_length=2)

    def teachers_of(self, target: str) -> dict[str, Member]:
        """The multimodal teacher and the cross-modal ones, in that order.

        Raises:
            ValueError: `target` is no modality of these members; the message names those.
        """
        if target not in self.modalities:
            raise ValueError(unknown("target", target, self.modalities))
        crossmodal = {name: net for name, net in self.modalities.items() if name != target}
        return {MULTIMODAL: self.multimodal, **crossmodal}

    def all_of(self, target: str) -> dict[str, Member]:
        """The teachers of `target` and, last, the student."""
        return {**self.teachers_of(target), target: self.modalities[target]}

    @model_validator(mode="after")
    def _refuse_names_that_are_taken(self) -> Members:
        for name in self.modalities:
            if name in TAKEN or not name.isidentifier():
                raise ValueError(
                    f"no modality may be named {name!r}: a name is made of letters, digits and _, "
                    f"and is none of {', '.join(TAKEN)}"
                )
        return self


class Training(Block):
    """What every stage has: how long, how much at a time, how fast."""

    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    temperature: PositiveFloat = 4.0


class Teachers(Training):
    """Stage 1, collaborative initialisation.

    Attributes:
        kd: ``mutual``: all members learn from one another beside labels, as published; ``none``:
            from labels alone.
        kd_weight: Of what they learn from one another; with more than two modalities all pairs of
            ``mutual`` together weigh as much as those of two.
        keep: The epoch of each member that goes on.
    """

    kd: Literal["mutual", "none"] = "mutual"
    kd_weight: float = Field(1.0, ge=0)
    keep: Selection = "last"


class Masks(Training):
    """Stage 2, specialised teacher adaptation.

    Attributes:
        kind: ``attention``, as published, or ``fixed``: one weight a feature for all samples.
        factor: Divides the weights of an attention mask.
        heads: Of an attention mask.
    """

    kind: Literal["attention", "fixed"] = "attention"
    factor: PositiveInt = 2
    heads: PositiveInt = 3


class Route(Training):
    """Stage 3, dynamic distillation. The switches are those of the method's description.

    Attributes:
        router: ``hard``, as published: the `chosen` specialists of largest preference, from the
            student's logits; ``learned``: all, weighted by the preference, from its detached
            features; or ``uniform``: all alike.
        merit_weight: Of CE(r, c), which tells a learned router who does well.
        gated: Nothing is learned from a specialist that is wrong, on a sample or on a pixel.
        masked: Specialists wear their masks.
        halvings: Shares of the epochs after which KD weighs half; none: every 30 epochs.
    """

    preset: Literal["default", "paper", "reference", "merit"] = "default"
    router: Literal["hard", "learned", "uniform"] = "hard"
    merit_weight: float = Field(1.0, ge=0)
    gated: bool = False
    masked: bool = True
    halvings: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    selection: Selection = "accuracy"
    chosen: PositiveInt = 1
    balance: Literal["kl", "cv"] = "kl"
    task_weight: float = Field(1.0, ge=0)
    kd_weight: float = Field(1.0, ge=0)
    balance_weight: float = Field(1.0, ge=0)
    stacked_masks: bool = False
    scaled_balance: bool = False
    early_decay: bool = False

    @property
    def trains_router(self) -> bool:
        """Whether there is a router that learns."""
        return self.router != "uniform"

    @property
    def picked(self) -> int | None:
        """How many specialists a sample hears; None: all, each as much as it is preferred."""
        return self.chosen if self.router == "hard" else None

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            preset = values.get("preset", "default")
            return {**PRESETS.get(preset, {}), **values}
        return values


class Evaluate(Block):
    """How the held-out split is judged."""

    resamples: PositiveInt = 2000
    confidence: float = Field(0.95, gt=0, lt=1)
    calibration_bins: PositiveInt = 15


class Diagnose(Block):
    """How much of the held-out split `diagnose` looks into.

    Attributes:
        samples: Of how many samples it asks where nets look and what their features are, at most.
    """

    samples: PositiveInt = 256


class ComparedMethod(Block):
    """A method by import path, and what its ``teach`` is called with."""

    type: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Compare(Block):
    """Which methods teach the student, how often, and for how long.

    Attributes:
        methods: Name in the report to the method.
        seeds: How many runs, from the run's ``seed`` on.
        targets: The modality that is the student's, or ``all`` of them in turn.
        budget: ``equal``: every student has the epochs of stages 1 and 3 together; ``reference``:
            one that is taught in one go has those of stage 3, as in the paper's tables.
        weight: a, the share of a method's terms in the loss at the start.
    """

    methods: dict[str, ComparedMethod] = Field(min_length=1)
    seeds: PositiveInt = 5
    targets: str = "all"
    budget: Literal["equal", "reference"] = "equal"
    weight: float = Field(0.5, ge=0, le=1)


class Runtime(Block):
    """Where and how a run is computed: no part of its fingerprint, for it changes rounding alone.

    Attributes:
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        precision: ``float32``, as in the method's released implementation; ``tf32`` rounds the
            factors of products to ten bits on CUDA, and nothing on a CPU; ``bfloat16`` is autocast.
        frozen: Whether what is frozen is computed once and kept (``cached``), at every step
            (``online``), or as memory allows (``auto``).
        tracking: Whether MLflow is told.
    """

    device: str = "auto"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    frozen: Literal["auto", "cached", "online"] = "auto"
    tracking: bool = True
