"""All parameters of a run as one typed, frozen object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from mst_distill.block import Block
from mst_distill.errors import PLAIN_NAME, did_you_mean, is_plain_name
from mst_distill.folds import fold_in_path, fold_numbers, kind_of_deal
from mst_distill.given_teacher import GivenTeacher
from mst_distill.parameters import (
    JOINT,
    MULTIMODAL,
    RESERVED,
    Benchmark,
    Budget,
    Card,
    Compare,
    Diagnose,
    Evaluate,
    ExportSettings,
    LabelCurve,
    Masks,
    Members,
    Predict,
    Route,
    Runtime,
    Selection,
    Student,
    Teachers,
    TrainingRecipe,
    criterion_name,
    metric_name,
)


class Plan(Block):
    """All parameters of a run; see `read_plan`.

    Attributes:
        run: A name, which separates the files of this run from those of other runs. It is not a
            number, since Kedro reads ``--params=run=007`` as 7.
        target: The student's modality.
        protocol: How samples are split. ``heldout`` keeps each group in one split, so that nothing
            leaks between the splits; ``grouped`` does so with a split of its own, by `fold` or by
            the seed; ``random`` assigns samples to splits at random by the seed, as the released
            code does.
        fold: With ``grouped``, ``I/K`` for fold I of K, or the name of the group that is the test
            split; without it, the groups are dealt by the seed.
        limit: The number of samples used, stratified by split and class, or ``all``.
        seed: The seed from which all randomness is derived; at least 0.
        labelled: The share of the training labels that is used, in (0, 1], stratified by class. The
            other training samples take part without their labels.
        labelled_validation: The same share of the validation labels; by default `labelled`. The
            other validation samples are not used.
        labelled_per_batch: If some training samples have no label, the share of samples with a
            label in each batch, in (0, 1].
        benchmark: The source of the samples.
        members: The networks.
        training: How all nets are trained.
        teachers: Stage 1.
        masks: Stage 2.
        route: Stage 3.
        evaluate: The evaluation on the test split.
        card: What the model card states of the data and of uses.
        diagnose: The pipeline `diagnose`.
        compare: The pipeline `compare`.
        label_curve: The pipeline `label_curve`.
        predict: The pipeline `predict`.
        export: The pipeline `export`.
        budget: What a student may cost where it is used.
        runtime: Where and how the run is computed.
    """

    run: str
    target: str
    protocol: Literal["heldout", "random", "grouped"]
    fold: str | None
    limit: int | Literal["all"]
    seed: int
    labelled: float = Field(gt=0, le=1)
    labelled_validation: float | None = Field(gt=0, le=1)
    labelled_per_batch: float = Field(gt=0, le=1)
    benchmark: Benchmark
    members: Members
    training: TrainingRecipe
    teachers: Teachers
    masks: Masks
    route: Route
    evaluate: Evaluate
    card: Card
    diagnose: Diagnose
    compare: Compare
    label_curve: LabelCurve
    predict: Predict
    export: ExportSettings
    budget: Budget
    runtime: Runtime

    @property
    def deal(self) -> dict[str, Any]:
        """What decides the split of the protocol ``grouped``; empty for other protocols."""
        if self.protocol != "grouped":
            return {}
        return {"fold": self.fold} if self.fold is not None else {"seed": self.seed}

    @property
    def given(self) -> dict[str, GivenTeacher]:
        """The teachers that exist already, by name."""
        return self.teachers.given

    @property
    def masked_given(self) -> dict[str, GivenTeacher]:
        """Those of them that get masks."""
        return {name: teacher for name, teacher in self.given.items() if teacher.masked_layers}

    @property
    def seen_labels(self) -> dict[str, str | Path]:
        """Which labels they were trained with, by name."""
        return {name: teacher.seen_labels for name, teacher in self.given.items()}

    @property
    def metric(self) -> str:
        """What selects epochs, gives the verdict and orders methods; see `Evaluate`."""
        return self.evaluate.metric

    @property
    def selection(self) -> str:
        """The name of the criterion that selects the epoch of the student."""
        return self.criterion_of(self.route.selection)

    @property
    def validated(self) -> tuple[str, ...]:
        """The validation metrics that are kept with a network."""
        return tuple(dict.fromkeys((metric_name(self.metric), "accuracy", "ce")))

    def criterion_of(self, selection: Selection) -> str:
        """The name of a criterion, see `criterion_name`."""
        return criterion_name(selection, metric_name(self.metric))

    @property
    def students(self) -> dict[str, Student]:
        """The students of other sizes, by name."""
        return self.members.students

    @property
    def compared_students(self) -> tuple[str, ...]:
        """The students that `compare` trains: names of modalities, and of `students`."""
        wanted = self.compare.targets
        every = (*self.members.modalities, *self.students)
        return every if wanted == "all" else (wanted,)

    def with_student(self, student: str) -> Plan:
        """The plan of a student, which is the name of a modality or of a student of another size.

        Its target is the modality, whose network is the student.
        """
        members = self.members
        changes = {"members": members.with_student(student), "target": members.modality_of(student)}
        return self.model_copy(update=changes)

    @property
    def data_name(self) -> str:
        """The part of paths that distinguishes samples and splits of a benchmark."""
        return f"{protocol_in_path(self.protocol, self.fold, self.seed)}-{self.limit}"

    @property
    def label_shares(self) -> dict[str, float]:
        """The share of the labels of ``train`` and ``valid`` that is used."""
        share = self.labelled_validation
        return {"train": self.labelled, "valid": self.labelled if share is None else share}

    def only(self, names: Iterable[str]) -> Plan:
        """The same plan with the fields `names` alone; reading another field is an error."""
        names = set(names)
        if "deal" in names:  # it is computed from these
            names |= {"protocol", "fold", "seed"}
        if {"given", "masked_given", "seen_labels"} & names:
            names |= {"teachers"}
        if "metric" in names:
            names |= {"evaluate"}
        if "students" in names:
            names |= {"members"}
        return Plan.model_construct(**{name: getattr(self, name) for name in names})

    @field_validator("protocol", mode="before")
    @classmethod
    def _check_protocol(cls, protocol: Any) -> Any:
        known = get_args(cls.model_fields["protocol"].annotation)
        if protocol not in known:
            raise ValueError(did_you_mean("protocol", protocol, known))
        return protocol

    @field_validator("fold", mode="before")
    @classmethod
    def _check_fold(cls, fold: Any, known: ValidationInfo) -> str | None:
        if fold is None:
            return None
        if not isinstance(fold, str):
            raise ValueError(
                f"fold is {fold!r}, which Kedro has read as a number, as it reads 03 as 3: set "
                f"fold in quotes in globals.yml, for example fold: '03'"
            )
        if known.data.get("protocol", "grouped") != "grouped":
            raise ValueError(
                f"fold is {fold!r}, and protocol is {known.data['protocol']!r}: set "
                f"protocol=grouped, or remove fold"
            )
        if numbers := fold_numbers(fold):
            return "{}/{}".format(*numbers)
        if not is_plain_name(fold) or kind_of_deal(fold)[0] != "group":
            raise ValueError(
                f"fold is {fold!r}; it must be I/K or the name of a group, which is part of paths: "
                f"{PLAIN_NAME}, and not as 2of5 or seed-0"
            )
        return fold

    @field_validator("run", mode="before")
    @classmethod
    def _check_run(cls, run: Any) -> Any:
        if isinstance(run, (int, float)):
            raise ValueError(
                f"run is {run!r}, which Kedro has read as a number or a truth value, as it reads "
                f"007 as 7: add letters, for example --params=run=run-{run}"
            )
        if not isinstance(run, str) or not is_plain_name(run):
            raise ValueError(f"run is {run!r}; it is part of paths: {PLAIN_NAME}")
        return run

    @field_validator("limit", mode="before")
    @classmethod
    def _check_limit(cls, limit: Any) -> Any:
        if limit != "all" and (type(limit) is not int or limit < 1):
            raise ValueError(f"limit is {limit!r}; it must be an integer above 0, or 'all'")
        return limit

    @field_validator("seed", mode="before")
    @classmethod
    def _check_seed(cls, seed: Any) -> Any:
        if type(seed) is not int or seed < 0:
            raise ValueError(f"seed is {seed!r}; it must be an integer of at least 0")
        return seed

    @model_validator(mode="after")
    def _check_compared_targets(self) -> Plan:
        known = ("all", *self.members.modalities, *self.students)
        if self.compare.targets not in known:
            raise ValueError(did_you_mean("compare.targets", self.compare.targets, known))
        return self

    @model_validator(mode="after")
    def _check_transforms(self) -> Plan:
        known = (*self.members.modalities, JOINT)
        for name in self.training.transforms:
            if name not in known:
                raise ValueError(did_you_mean("modality in training.transforms", name, known))
        return self

    @model_validator(mode="after")
    def _check_given(self) -> Plan:
        known = (*self.members.modalities, MULTIMODAL)
        for name, teacher in self.given.items():
            if name in (*known, *RESERVED) or not name.isidentifier():
                raise ValueError(
                    f"teachers.given has the name {name!r}: a name consists of letters, digits and "
                    f"_, does not begin with a digit, and is none of "
                    f"{', '.join(dict.fromkeys((*known, *RESERVED)))}"
                )
            if teacher.net is not None and teacher.modality not in known:
                which = f"teachers.given.{name}.modality"
                raise ValueError(did_you_mean(which, str(teacher.modality), known))
        return self

    @model_validator(mode="after")
    def _check_specialists(self) -> Plan:
        teachers = self.members.teachers_of(self.target)
        masks = sum(len(teacher.masked_layers) for teacher in teachers.values())
        if not masks:
            raise ValueError(
                f"no teacher of {self.target!r} has masked layers: list at least one layer in the "
                f"masked_layers of one of {', '.join(teachers)}"
            )
        # A given teacher without masks is used as it is.
        specialists = masks + sum(len(of.masked_layers) or 1 for of in self.given.values())
        if self.route.chosen > specialists:
            unmasked = specialists - masks
            given = f" and {unmasked} from given teachers" if unmasked else ""
            raise ValueError(
                f"route.chosen is {self.route.chosen}, but the teachers of {self.target!r} have "
                f"only {masks} masked layers, hence {masks} specialists{given}"
            )
        return self


def protocol_in_path(protocol: str, fold: str | None, seed: int) -> str:
    """Return the part of a path that distinguishes splits."""
    if protocol != "grouped":
        return protocol
    return f"{protocol}-{fold_in_path(None if fold is None else str(fold), seed)}"


def labels_in_path(labelled: float, labelled_validation: float | None) -> str:
    """Return the part of a path that distinguishes runs with hidden labels; else an empty text."""
    if labelled_validation is None:
        labelled_validation = labelled
    if labelled == labelled_validation:
        return "" if labelled == 1 else f"-labelled-{labelled:g}"
    return f"-labelled-{labelled:g}-{labelled_validation:g}"


def read_plan(parameters: Mapping[str, Any]) -> Plan:
    """Validate all parameters of a run.

    Args:
        parameters: Name to value or nested mapping, as Kedro loads them.

    Returns:
        The plan. The precision ``auto`` has been replaced by the one that suits the device, on
        which results depend.

    Raises:
        ValueError: A key is unknown or missing, or a value is out of range; the message names
            every such key, its value, and the nearest valid choice if there is one. For the
            precision ``auto``, also if the device is not available.
    """
    try:
        plan = Plan.model_validate(parameters)
    except ValidationError as error:
        raise ValueError("; ".join(map(_error_clause, error.errors()))) from None
    if plan.runtime.precision != "auto":
        return plan
    from mst_distill.training.device import settle_precision  # imports torch

    return plan.model_copy(update={"runtime": settle_precision(plan.runtime)})


def _error_clause(error: Any) -> str:
    """One of pydantic's errors as a clause of the message."""
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return f"{key}: {message}" if "." in key or key in _BLOCKS else message
    return f"{key} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


_BLOCKS = {
    name
    for name, field in Plan.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Block)
}
