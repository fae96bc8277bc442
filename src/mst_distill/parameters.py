"""Typed parameters: a frozen model for each block of a `Plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from mst_distill.block import Block
from mst_distill.errors import PLAIN_NAME, did_you_mean, is_plain_name
from mst_distill.given_teacher import GivenTeacher

METRICS = {
    "nll": "log_likelihood",
    **{
        name: name
        for name in (
            "accuracy",
            "macro_f1",
            "macro_recall",
            "mean_iou",
            "auroc",
            "average_precision",
        )
    },
}
"""The metrics that can decide, by their setting: the name of their column in tables."""


def metric_name(setting: str) -> str:
    """The name of the column of a metric; of a function, ``metric_`` and the end of its path."""
    return METRICS.get(setting) or f"metric_{setting.rpartition('.')[2]}"


Selection = Literal["metric", "ce", "last"]
"""The criterion that selects an epoch: the best validation value of `Evaluate.metric` (of equal
ones that with the smaller cross-entropy), the smallest validation cross-entropy, or the last
epoch."""


def criterion_name(selection: Selection, metric: str) -> str:
    """The name of a selection criterion, which is that of the metric's column if it selects."""
    return metric if selection == "metric" else selection


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
"""The values that each preset of `Route` sets; a key that is set explicitly overrides them."""


MULTIMODAL = "multimodal"
"""The name of the member that takes all modalities; each other member is named after its one."""

JOINT = "joint"
"""The name under which `TrainingRecipe.transforms` has those of all pictures and dense labels."""

RESERVED = (MULTIMODAL, "student", "specialists", JOINT, "label")
"""Names that no modality may have."""


class Benchmark(Block):
    """The source of the samples: a `SampleSource` by import path, and its arguments."""

    type: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Member(Block):
    """A network by import path.

    Attributes:
        type: The import path of its class.
        arguments: The arguments of the class in addition to the number of classes, which it takes
            as ``classes`` or ``num_classes``.
        start: The import path of a function that initialises the weights of the new network;
            without it, each layer initialises its own.
        masked_layers: The layers that get masks.
        weights: The file from which the network starts, ``.safetensors`` or of `torch.save`; all
            layers but the last must fit.
        learning_rate_scale: The factor of the learning rate by layer, which counts for all layers
            inside; 0 freezes a layer.
    """

    type: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    start: str | None = None
    masked_layers: tuple[str, ...] = ()
    weights: Path | None = None
    learning_rate_scale: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keep the origins of files that were made before there was a choice."""
        values: dict[str, Any] = serialize(self)
        if not self.learning_rate_scale:
            del values["learning_rate_scale"]
        if self.weights is None:
            del values["weights"]
        return values

    @property
    def summary(self) -> str:
        """How the network starts, and its layers with a rate of their own, in words."""
        parts = [f"starts from {self.weights.name}"] if self.weights else []
        parts += [
            f"{layer} {'frozen' if scale == 0 else f'at {scale:g} of the learning rate'}"
            for layer, scale in self.learning_rate_scale.items()
        ]
        return ", ".join(parts)


class Student(Member):
    """A student of another size, which `compare` trains in addition to the net of its modality.

    Attributes:
        modality: What it sees.
    """

    modality: str


NO_STUDENTS = ("all", "teachers")
"""Names that no student of another size may have, because `compare` uses them otherwise."""


class Members(Block):
    """The multimodal teacher, one network for each modality, and students of other sizes.

    Attributes:
        multimodal: The multimodal teacher.
        modalities: Modality to its network, which is its teacher or the student.
        students: Further students by name. Only `compare` trains them.
    """

    multimodal: Member
    modalities: dict[str, Member] = Field(min_length=2)
    # `Plan.students` counts apart, so that a run of `distill` does not depend on them.
    students: dict[str, Student] = Field(default_factory=dict, exclude=True)

    def modality_of(self, student: str) -> str:
        """The modality of a student, which is the name of a modality or of a further student."""
        return self.students[student].modality if student in self.students else student

    def with_student(self, student: str) -> Members:
        """The members with a student in the place of its modality's network; no further ones."""
        modalities = dict(self.modalities)
        if student in self.students:
            keys = dict(self.students[student])
            modality = keys.pop("modality")
            modalities[modality] = Member(**keys)
        return self.model_copy(update={"modalities": modalities, "students": {}})

    def teachers_of(self, target: str) -> dict[str, Member]:
        """The multimodal teacher, followed by the cross-modal teachers.

        Raises:
            ValueError: `target` is not a modality of these members; the message lists them.
        """
        if target not in self.modalities:
            raise ValueError(did_you_mean("target", target, self.modalities))
        crossmodal = {name: net for name, net in self.modalities.items() if name != target}
        return {MULTIMODAL: self.multimodal, **crossmodal}

    def all_of(self, target: str) -> dict[str, Member]:
        """The teachers of `target`, followed by the student."""
        return {**self.teachers_of(target), target: self.modalities[target]}

    @property
    def summary(self) -> str:
        """The `Member.summary` of all members that have one."""
        members = {MULTIMODAL: self.multimodal, **self.modalities}
        return "; ".join(f"{name}: {of.summary}" for name, of in members.items() if of.summary)

    def net_types(self) -> dict[str, list[dict[str, Any]]]:
        """The import paths of all classes, each with the arguments that it is called with."""
        classes: dict[str, list[dict[str, Any]]] = {}
        for member in (self.multimodal, *self.modalities.values(), *self.students.values()):
            classes.setdefault(member.type, []).append(member.arguments)
        return classes

    @model_validator(mode="after")
    def _check_names(self) -> Members:
        for name in self.modalities:
            if name in RESERVED or not name.isidentifier():
                raise ValueError(
                    f"no modality may be named {name!r}: a name consists of letters, digits and _, "
                    f"does not begin with a digit, and is not {', '.join(RESERVED[:-1])} or "
                    f"{RESERVED[-1]}"
                )
        for name, student in self.students.items():
            if name in (*RESERVED, *NO_STUDENTS, *self.modalities) or not is_plain_name(name):
                raise ValueError(
                    f"no student may be named {name!r}: it is part of paths ({PLAIN_NAME}), and "
                    f"differs from the modalities and from {', '.join((*RESERVED, *NO_STUDENTS))}"
                )
            if student.modality not in self.modalities:
                which = f"modality of the student {name!r}"
                raise ValueError(did_you_mean(which, student.modality, self.modalities))
        return self


RECIPES: dict[str, dict[str, Any]] = {
    "published": {},
    "strong": {
        "optimizer": {"type": "torch.optim.AdamW", "arguments": {"weight_decay": 0.05}},
        "schedule": "cosine",
        "warmup": 0.05,
    },
}
"""The values that each preset of `TrainingRecipe` sets; keys that are set override them."""


SET_ELSEWHERE = {
    "lr": "each stage has its own learning_rate",
    "params": "these are the weights that a stage trains",
    "fused": "it is chosen where the class has it",
}
"""Arguments that an `Optimizer` must not have, and why."""


class Importable(Block):
    """A class by import path, and its arguments. A text in place of the block is the path."""

    type: str
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read_path(cls, values: Any) -> Any:
        return {"type": values} if isinstance(values, str) else values


class Transform(Importable):
    """A random transform of training samples.

    It is called with the tensor of one sample. It must return a tensor of the same shape and type
    with finite values, and draw its random numbers from PyTorch's generator on the CPU.
    """


class Optimizer(Importable):
    """An optimiser, with its arguments except for the learning rate.

    A weight decay applies to weights with two axes or more, not to biases and norms.
    """

    type: str = "torch.optim.Adam"

    @field_validator("arguments")
    @classmethod
    def _check_arguments(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for key, reason in SET_ELSEWHERE.items():
            if key in arguments:
                raise ValueError(f"remove {key!r}: {reason}")
        return arguments


class TrainingRecipe(Block):
    """How all nets are trained: in all stages, as baselines, and by compared methods.

    The default is the recipe of the method's paper: Adam with a constant learning rate. A text in
    place of the block is its preset.

    Attributes:
        preset: Sets several of the other keys, see `RECIPES`.
        optimizer: The optimiser. C2KD has its own.
        schedule: The learning rate over the steps of a training: ``constant``, or ``cosine``: it
            falls to 0 along half a period of a cosine.
        warmup: The share of a training's steps in which the rate rises from 0, in [0, 1).
        gradient_clip: The largest norm of the gradient of a net or mask; larger ones are scaled.
        label_smoothing: The share of the probability that cross-entropy distributes equally over
            all classes, in [0, 1).
        class_weights: ``equal``, or ``balanced``: in cross-entropy, all classes of the training
            split have the same weight in total; epochs are then selected by the mean recall of the
            classes where they would be by accuracy.
        views: K, the number of views of a training sample; epoch e shows view e mod K. View 0 is
            the sample itself, and the others are what `transforms` make of it.
        transforms: The transforms of each modality, in their order; under ``joint`` those of all
            pictures ``(C, H, W)`` together, and of dense labels, which come first.
    """

    preset: Literal["published", "strong"] = Field("published", exclude=True)
    optimizer: Optimizer = Optimizer()
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = Field(0.0, ge=0, lt=1)
    gradient_clip: PositiveFloat | None = None
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["equal", "balanced"] = "equal"
    views: PositiveInt = 1
    transforms: dict[str, tuple[Transform, ...]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            values = {"preset": values}
        preset = values.get("preset", "published")
        if not isinstance(preset, str) or preset not in RECIPES:
            raise ValueError(did_you_mean("preset", str(preset), RECIPES))
        recipe = {**RECIPES[preset], **values}
        optimizer = values.get("optimizer")
        if isinstance(optimizer, dict) and "type" not in optimizer:
            # Arguments alone are those of the preset's optimiser.
            recipe["optimizer"] = {**RECIPES[preset].get("optimizer", {}), **optimizer}
        if values.get("schedule") == "constant" and "warmup" not in values:
            recipe.pop("warmup", None)
        return recipe

    @model_validator(mode="after")
    def _check_warmup(self) -> TrainingRecipe:
        if self.warmup and self.schedule == "constant":
            raise ValueError(
                "warmup is set and schedule is constant: set schedule to cosine, or remove warmup"
            )
        return self

    @model_validator(mode="after")
    def _check_views(self) -> TrainingRecipe:
        for name, transforms in self.transforms.items():
            if not transforms:
                raise ValueError(f"transforms.{name} is empty: remove it, or list a transform")
        if self.views > 1 and not self.transforms:
            raise ValueError(
                f"views is {self.views} and there are no transforms, so that all views would be "
                f"the sample itself: set transforms, or remove views"
            )
        if self.transforms and self.views == 1:
            raise ValueError(
                "transforms are set and views is 1, which is the sample itself: set views to 2 or "
                "more, for example 4"
            )
        return self

    @property
    def summary(self) -> str:
        """The recipe in words."""
        arguments = ", ".join(f"{key} {value}" for key, value in self.optimizer.arguments.items())
        name = self.optimizer.type.rpartition(".")[2]
        parts = [
            f"{name} ({arguments})" if arguments else name,
            "constant learning rate"
            if self.schedule == "constant"
            else "learning rate by a cosine",
        ]
        if self.warmup:
            parts.append(f"{100 * self.warmup:g} % of the steps with a rising rate")
        if self.gradient_clip:
            parts.append(f"gradients of a norm of at most {self.gradient_clip:g}")
        if self.label_smoothing:
            parts.append(f"labels smoothed by {self.label_smoothing:g}")
        if self.class_weights == "balanced":
            parts.append("balanced classes")
        if self.views > 1:
            names = [
                f"{transform.type.rpartition('.')[2]} of {name}"
                for name, transforms in self.transforms.items()
                for transform in transforms
            ]
            parts.append(f"{self.views} views of a sample ({', '.join(names)})")
        return ", ".join(parts)

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keep the origins of files that were made before there was a choice."""
        values, published = serialize(self), TrainingRecipe.model_fields
        return {
            key: value
            for key, value in values.items()
            if getattr(self, key) != published[key].get_default(call_default_factory=True)
        }


class Training(Block):
    """The settings that all stages have; `temperature` is the tau of the distillation loss."""

    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    temperature: PositiveFloat = 4.0


class Teachers(Training):
    """Stage 1, collaborative initialisation.

    Attributes:
        kd: ``mutual``: all members learn from the labels and from one another, as published;
            ``none``: from the labels alone.
        kd_weight: The weight of the KD terms. With more than two modalities, all pairs of members
            together have the same weight as the six pairs of two modalities.
        keep: The criterion that selects the epoch of each member for stages 2 and 3.
        given: Teachers that exist already, by name; they take no part in stage 1.
    """

    kd: Literal["mutual", "none"] = "mutual"
    kd_weight: float = Field(1.0, ge=0)
    keep: Selection = "last"
    # `Plan.given` counts apart, so that stage 1 does not depend on it.
    given: dict[str, GivenTeacher] = Field(default_factory=dict, exclude=True)


class Masks(Training):
    """Stage 2, specialised teacher adaptation.

    Attributes:
        kind: ``attention``, as published, or ``fixed``: one factor for each feature, the same for
            all samples.
        factor: Divides the number of weights of an attention mask.
        heads: The number of attention heads of an attention mask.
    """

    kind: Literal["attention", "fixed"] = "attention"
    factor: PositiveInt = 2
    heads: PositiveInt = 3


class Route(Training):
    """Stage 3, dynamic distillation. The switches are those of the method's description.

    Attributes:
        preset: Sets several of the other keys, see `PRESETS`.
        router: ``hard``, as published: the `chosen` specialists with the largest routing
            probabilities, computed from the student's logits; ``learned``: all specialists,
            weighted with their probabilities, which are computed from the student's detached
            features; ``uniform``: all specialists with equal weights.
        merit_weight: The weight of CE(r, c), which trains a learned router towards the specialists
            with the smallest cross-entropy.
        gated: Whether specialists that are wrong on a sample (on a pixel, with dense labels) have
            no weight there.
        masked: Whether the masks are applied to the specialists.
        halvings: The shares of the epochs after which the weight of KD is halved; if empty, it is
            halved every 30 epochs.
        selection: The criterion that selects the epoch of the student.
        chosen: k, the number of specialists that a ``hard`` router selects for each sample.
        balance: The load-balancing loss LB: ``kl``, a Kullback-Leibler divergence, or ``cv``, a
            coefficient of variation.
        task_weight: w_task, the weight of the student's cross-entropy.
        kd_weight: w_kd, the weight of KD at the start.
        balance_weight: w_lb, the weight of LB at the start.
        stacked_masks: Whether a specialist also has the masks of the layers in front of its own, as
            in the released implementation.
        scaled_balance: Whether LB is divided by the number of specialists, as in the released
            implementation.
        early_decay: Whether the weights decay one epoch early, as in the released implementation.
    """

    preset: Literal["default", "paper", "reference", "merit"] = Field("default", exclude=True)
    router: Literal["hard", "learned", "uniform"] = "hard"
    merit_weight: float = Field(1.0, ge=0)
    gated: bool = False
    masked: bool = True
    halvings: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    selection: Selection = "metric"
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
        """Whether the router is trained."""
        return self.router != "uniform"

    @property
    def top_k(self) -> int | None:
        """The number of specialists selected for a sample; None if all of them are weighted."""
        return self.chosen if self.router == "hard" else None

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            preset = values.get("preset", "default")
            return {**(PRESETS.get(preset, {}) if isinstance(preset, str) else {}), **values}
        return values


class Evaluate(Block):
    """The evaluation on the test split.

    Attributes:
        resamples: The number of bootstrap resamples.
        confidence: The level of the confidence intervals, here and in `compare`.
        calibration_bins: The number of confidence bins of the calibration error.
        metric: What selects epochs, gives the verdict and orders methods: a name of `METRICS`, or
            the import path of a function that maps labels ``(n,)`` and probabilities ``(n, C)`` to
            a number, larger for a better model.
        by: Columns of the sample index, such as ``source``; student and baseline are compared for
            each of their values. As a list, or separated by spaces, since ``--params`` takes none.
    """

    resamples: PositiveInt = 2000
    confidence: float = Field(0.95, gt=0, lt=1)
    calibration_bins: PositiveInt = 15
    metric: str = "accuracy"
    by: tuple[str, ...] = ()

    @field_validator("metric", mode="before")
    @classmethod
    def _check_metric(cls, setting: Any) -> str:
        if not isinstance(setting, str) or (setting not in METRICS and "." not in setting):
            known = [*METRICS, "the import path of a function"]
            raise ValueError(did_you_mean("evaluate.metric", str(setting), known))
        return setting

    @field_validator("by", mode="before")
    @classmethod
    def _split(cls, columns: Any) -> Any:
        return tuple(columns.split()) if isinstance(columns, str) else columns


class Card(Block):
    """What the model card states that no run can find out; texts, all empty by default.

    Attributes:
        benchmark: The import path of the benchmark that the other keys describe; if it is empty,
            they describe any. With another benchmark they do not count, so that a student of own
            data does not get the licence of the data in ``conf/base``.
        license: The licence of the student, as the Hugging Face Hub names it, for example
            ``cc-by-nc-sa-4.0``; ``other`` if it is empty. It follows from the data, not from the
            licence of this project's code.
        data_license: The licences of the data, in words.
        uses: What the student is for.
        not_for: What it is not for.
        contact: Whom to ask.
    """

    benchmark: str = ""
    license: str = ""
    data_license: str = ""
    uses: str = ""
    not_for: str = ""
    contact: str = ""

    def of(self, benchmark: str) -> Card:
        """Return the card of a benchmark, named by its import path: this one or an empty one."""
        return self if self.benchmark in ("", benchmark) else Card()


class Diagnose(Block):
    """The amount of data that `diagnose` uses.

    Attributes:
        samples: The largest number of test samples whose saliency maps and features are computed.
    """

    samples: PositiveInt = 256


class ExportSettings(Block):
    """The pipeline `export`.

    Attributes:
        int8: Whether the student is also written with weights of 8 bits and evaluated, see
            `deploy.quantise`.
        tolerated_loss: The largest loss of accuracy on the test split, in [0, 1], that int8 may
            have against float32; with a larger one nothing is written.
    """

    int8: bool = False
    tolerated_loss: float = Field(0.01, ge=0, le=1)


class Budget(Block):
    """What a student may cost where it is used; a larger one is an error before it is trained.

    Attributes:
        milliseconds: The largest median time of a sample, for the exported ONNX file with one
            thread of this machine's CPU.
        megabytes: The largest size of that file, in 10^6 bytes.
    """

    milliseconds: PositiveFloat | None = None
    megabytes: PositiveFloat | None = None

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return self.milliseconds is not None or self.megabytes is not None


class Predict(Block):
    """The pipeline `predict`: a student is used on new data of its modality.

    Attributes:
        source: A folder with a file for each sample, or a table, ``.csv`` or ``.parquet``, with a
            row for each.
        name: The name of the results.
        column: The column of the table with paths or texts; by default that of the training table,
            or the name of the modality. A student that sees numbers has the columns that it was
            trained on.
        least_confidence: Samples with a smaller confidence, in [0, 1], get no label.
        wanted_accuracy: If set, `least_confidence` is the smallest with which the labelled
            validation samples have this accuracy, in (0, 1].
        batch_size: The number of samples that are read and classified together.
    """

    source: str | None = None
    name: str = "new"
    column: str | None = None
    least_confidence: float = Field(0.0, ge=0, le=1)
    wanted_accuracy: float | None = Field(None, gt=0, le=1)
    batch_size: PositiveInt = 64

    @field_validator("name", mode="before")
    @classmethod
    def _check_name(cls, name: Any) -> Any:
        if not isinstance(name, str) or not is_plain_name(name):
            raise ValueError(f"predict.name is {name!r}; it is part of paths: {PLAIN_NAME}")
        return name

    @model_validator(mode="after")
    def _check_threshold(self) -> Predict:
        if self.wanted_accuracy is not None and self.least_confidence:
            raise ValueError(
                "predict.least_confidence and predict.wanted_accuracy both set the threshold: "
                "remove one of them"
            )
        return self


class ComparedMethod(Block):
    """A method by import path, and the arguments of its ``teach``.

    Attributes:
        type: The import path of its class.
        arguments: The arguments with which it is trained without tuning.
        settings: Other arguments, which replace single ones of `arguments`; among these settings
            and `arguments` themselves, tuning chooses.
    """

    type: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    settings: tuple[dict[str, Any], ...] = ()

    @property
    def choices(self) -> list[dict[str, Any]]:
        """The arguments of every setting; the first are those without tuning."""
        return [self.arguments, *({**self.arguments, **setting} for setting in self.settings)]


class Compare(Block):
    """The methods that `compare` trains the student with, and their budget.

    Attributes:
        methods: Name in the report to the method.
        only: The names of the methods that are trained, as a list or separated by spaces; the
            others are left out. ``all`` by default.
        seeds: The number of seeds, counted from the run's ``seed``.
        targets: The student's modality or the name of a student of another size; or ``all``: each
            in turn.
        budget: ``equal``: every student is trained for the epochs of stages 1 and 3 together;
            ``reference``: a student that is trained in a single stage has the epochs of stage 3,
            as in the paper's tables.
        weight: a, the share of a method's own loss terms in the loss at the start.
        tuning_seeds: The number of seeds on which each method chooses one of its settings by
            validation; 0 for the first setting of each.
        first_tuning_seed: The first of these seeds, whose results are not reported.
    """

    methods: dict[str, ComparedMethod] = Field(min_length=1)
    only: Literal["all"] | tuple[str, ...] = "all"
    seeds: PositiveInt = 5
    targets: str = "all"
    budget: Literal["equal", "reference"] = "equal"
    weight: float = Field(0.5, ge=0, le=1)
    tuning_seeds: int = Field(0, ge=0)
    first_tuning_seed: int = Field(1000, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_methods(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("only", "all") == "all":
            return values
        only, known = values["only"], values.get("methods")
        names = only.split() if isinstance(only, str) else only
        if not isinstance(names, (list, tuple)) or not names or not isinstance(known, dict):
            raise ValueError(
                f"compare.only is {only!r}; it must be 'all' or names of compare.methods, "
                f"separated by spaces"
            )
        names = tuple(dict.fromkeys(names))
        for name in names:
            if name not in known:
                raise ValueError(did_you_mean("method in compare.only", name, known))
        return {**values, "only": names, "methods": {name: known[name] for name in names}}

    @field_validator("methods")
    @classmethod
    def _check_names(cls, methods: dict[str, ComparedMethod]) -> dict[str, ComparedMethod]:
        for name in methods:
            if not is_plain_name(name):
                raise ValueError(
                    f"compare.methods has the name {name!r}; it is part of paths: {PLAIN_NAME}"
                )
        return methods


class LabelCurve(Block):
    """The pipeline `label_curve`: the accuracy of some methods over the share of labels.

    Attributes:
        shares: The shares of the training labels, each in (0, 1], ascending; as a list or separated
            by spaces, since ``--params`` takes no list.
        methods: Names of `Compare.methods`, as a list or separated by spaces.
    """

    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)

    @field_validator("shares", "methods", mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        # A single share on the command line is a number.
        return tuple(str(values).split()) if isinstance(values, str | float | int) else values

    @field_validator("shares")
    @classmethod
    def _sort_shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(shares)))


class Runtime(Block):
    """Where and how a run is computed.

    These parameters affect rounding alone. Of them only ``precision`` belongs to a run's origin.

    Attributes:
        device: ``auto`` (CUDA where it is available), ``cpu``, ``cuda`` or ``cuda:1``.
        precision: ``float32``, as in the method's released implementation; ``tf32`` rounds the
            factors of products to ten bits on CUDA, and nothing on a CPU; ``bfloat16`` is autocast;
            ``auto`` is bfloat16 on a GPU that computes it fast, else float32. A plan has the choice
            in its place.
        frozen: Whether the outputs of frozen networks are computed once and stored (``cached``),
            computed at every step (``online``), or stored if memory allows (``auto``).
        graphs: Whether short steps on CUDA are taken as CUDA graphs, with equal results.
        tracking: Whether the run is tracked by MLflow.
        executor: Who trains the trials of `compare` and `label_curve`: this process, one after the
            other (``sequential``), several ``processes``, the workers of a cluster of ``ray``, or
            jobs of ``slurm``.
        workers: The largest number of workers at a time. By default there are as many processes as
            GPUs have room for, or as there are cores; as many workers of Ray as its nodes have room
            for; and no limit of jobs of Slurm.
        threads: Of each worker. By default processes share those of the machine, and other workers
            have one.
        gpu_share: The share of a GPU for each worker, at most 1. ``auto`` is measured for
            processes: the first trial of each method has a GPU for itself, and the others have the
            share that its memory allows. For other workers it is 1.
        slurm: Options of sbatch, as submitit names them; ``time`` in minutes.
    """

    device: str = "auto"
    precision: Literal["float32", "tf32", "bfloat16", "auto"] = "float32"
    frozen: Literal["auto", "cached", "online"] = "auto"
    graphs: bool = True
    tracking: bool = True
    executor: Literal["sequential", "processes", "ray", "slurm"] = "sequential"
    workers: PositiveInt | None = None
    threads: PositiveInt | None = None
    gpu_share: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = "auto"
    slurm: dict[str, Any] = Field(default={"time": 240})
