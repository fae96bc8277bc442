"""The base classes of compared methods: the loss of the student, and the training with it.

A method is one file in `methods/` and one line in the parameters. Its class attributes state which
teachers it can learn from and what it reads from them; its ``__init__`` adds further trainable
modules. Most methods add terms to cross-entropy and define `Distilling.distil`. A method that
weights its terms differently defines ``losses``, and one that trains in several phases `teach`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mst_distill.compare.context import CROSSMODAL, MethodResult, TrialContext
from mst_distill.compare.teacher_cache import TeacherInputs
from mst_distill.metric import Terms
from mst_distill.mst.features import ModelOutput
from mst_distill.parameters import MULTIMODAL
from mst_distill.training.batches import Batch
from mst_distill.training.task import Task

HALVED_AFTER = (0.3, 0.6, 0.9)
"""The shares of the epochs after which the weight of a method's terms is halved. The reference
halves it after 30, 60 and 90 of its 100 epochs."""


def check_at_least_0(**constants: float) -> None:
    """Check constants of a method, which would make it learn away from its teacher.

    Raises:
        ValueError: One is below 0; the message names it.
    """
    for name, value in constants.items():
        if value < 0:
            raise ValueError(f"{name} is {value}; it must be at least 0")


class Method(Task):
    """A student and the loss that it is trained with.

    Attributes:
        teachers: The kinds of teacher that the method can learn from, with one trial for each
            teacher; empty for a method without a teacher. ``given`` is one that has logits alone.
        all_teachers: Whether the method, which has no single teacher, learns from all of them.
        teacher_inputs: What every batch carries from the teacher.
        dense: Whether the method supports a label for every pixel.
        control: Whether the method has no other modality and is no `baseline` either: a gain of
            cross-modal distillation must exceed that of every control.
        needs_unlabelled: Whether the method is for training samples without a label. If all have
            one, it would be `baseline`, and has no trials.
        seed_key: Part of a trial's seed; by default the name of the class. A method that is renamed
            reproduces its results if it declares the old name here.

    Args:
        context: The student, the teacher and the batches.
    """

    teachers: ClassVar[tuple[str, ...]] = (MULTIMODAL, CROSSMODAL)
    all_teachers: ClassVar[bool] = False
    teacher_inputs: ClassVar[TeacherInputs] = "logits"
    dense: ClassVar[bool] = True
    control: ClassVar[bool] = False
    needs_unlabelled: ClassVar[bool] = False
    seed_key: ClassVar[str]

    def __init__(self, context: TrialContext) -> None:
        self.context = context
        self.student = context.student
        self.trainable = nn.ModuleDict({"student": self.student.net})

    @classmethod
    def stream(cls) -> str:
        """Return the `seed_key` of this very class, which is not inherited, or the class's name."""
        return str(vars(cls).get("seed_key", cls.__qualname__))

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Check arguments before the first trial; by default, `teach` is the first that does.

        Raises:
            ValueError: A value is not allowed.
        """

    @classmethod
    def teach(cls, context: TrialContext, **arguments: Any) -> MethodResult:
        """Train the student for the epochs of the context.

        Args:
            context: The student, the teacher and the batches.
            arguments: The arguments of the class in the parameters.
        """
        return context.fit(cls(context, **arguments), context.epochs)

    def add_trainable(self, name: str, module: nn.Module) -> nn.Module:
        """Train `module` together with the student."""
        self.trainable[name] = self.context.run.place(module)  # type: ignore[operator]
        return module

    def validate(self, batch: Batch) -> dict[str, Tensor | Terms]:
        """Compute the student's metrics."""
        return self.context.supervision.metrics(self.student(batch.inputs).logits, batch.label)

    def with_teacher(self, student: ModelOutput, batch: Batch) -> tuple[ModelOutput, Batch] | None:
        """Select the samples of a batch that the teacher can see.

        Returns:
            The student's output for these samples, and their batch; None if there are fewer than
            two, since relations and batch statistics need two.
        """
        if (found := batch.having_two(self.context.teacher_modalities)) is None:
            return None
        seen, indices = found
        return (student if indices is None else student.at(indices)), seen

    def cross_entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the mean cross-entropy of `logits`, without ignored pixels."""
        return self.context.supervision.loss(logits, batch.label)


class Distilling(Method):
    """L = (1 - a) CE(S) + a (sum of the method's terms); a is halved three times.

    That is after 30, 60 and 90 % of the epochs. If samples lack modalities, CE(S) is over all
    samples that the student can see, and the method's terms are over those that the teacher can see
    too.

    Args:
        context: The student, the teacher and the batches.
        weight: a at the start, in [0, 1]; by default ``compare.weight``.
        temperature: Tau of methods that have one; by default that of the losses of MST-Distill.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self, context: TrialContext, weight: float | None = None, temperature: float | None = None
    ) -> None:
        super().__init__(context)
        self._weight = context.weight if weight is None else weight
        self._given_temperature = temperature
        if not 0 <= self._weight <= 1:
            raise ValueError(f"weight is {weight}; it must be in [0, 1]")
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")

    @property
    def temperature(self) -> float:
        """Tau."""
        given = self._given_temperature
        return self.context.temperature if given is None else given

    @abstractmethod
    def distil(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Compute the method's terms: scalars with gradient to the trainable modules."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute ``ce``, the method's terms, unweighted, and the weighted sum ``loss``."""
        student = self.student(batch.inputs)
        ce = self.cross_entropy(student.logits, batch)
        terms: dict[str, Tensor] = {}
        if pair := self.with_teacher(student, batch):
            output, seen = pair
            teacher = ModelOutput.of(seen.frozen["teacher"])
            with torch.autocast(batch.label.device.type, enabled=False):
                terms = self.distil(output.precise(), teacher.precise(), seen)
        loss = (1 - self._weight) * ce + self._weight * sum(terms.values())
        return {"loss": loss, "ce": ce, **terms}

    def state(self) -> dict[str, Any]:
        """Return the weight of the terms."""
        return {"weight": self._weight}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self._weight = state["weight"]

    def end_epoch(self, epoch: int) -> None:
        """Halve the weight of the terms after the shares of the epochs in `HALVED_AFTER`."""
        done = [round(share * self.epochs) for share in HALVED_AFTER]
        self._weight *= 0.5 ** done.count(epoch + 1)
