"""What every compared method is: a loss for the student, and how the student is taught by it.

A method is one file in `methods/` and one line of the parameters. It says in class attributes whom
it can learn from and what it wants to hear of them, and makes what else has to learn in
``__init__``. Most add terms to cross-entropy and define `Distilling.distil`; one that weighs its
terms in its own way defines ``losses``, and one whose training has several parts `teach`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mst_distill.compare.context import CROSSMODAL, Setup, Taught
from mst_distill.compare.teacher_cache import Hears
from mst_distill.mst.features import Observed
from mst_distill.mst.losses import cross_entropy, validation_figures
from mst_distill.parameters import MULTIMODAL
from mst_distill.training.batches import Batch
from mst_distill.training.task import Task

HALVED_AFTER = (30, 60, 90)
"""Epochs after which a method's terms weigh half of what they did, as in the reference."""


class Method(Task):
    """A student and what it learns from.

    Attributes:
        teachers: The kinds of teacher it learns from, each a trial of its own; none: nobody.
        hears: What it wants of the teacher in every batch.
        dense: Whether it can be used where every pixel has a label.

    Args:
        setup: The student, the teacher, the batches.
    """

    teachers: ClassVar[tuple[str, ...]] = (MULTIMODAL, CROSSMODAL)
    hears: ClassVar[Hears] = "logits"
    dense: ClassVar[bool] = True

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.student = setup.student
        self.trainable = nn.ModuleDict({"student": self.student.net})

    @classmethod
    def teach(cls, setup: Setup) -> Taught:
        """Train the student for the setup's epochs."""
        return setup.fit(cls(setup), setup.epochs)

    def learn(self, name: str, module: nn.Module) -> nn.Module:
        """Let `module` learn beside the student."""
        self.trainable[name] = self.setup.run.place(module)  # type: ignore[operator]
        return module

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """The student's ``accuracy`` and ``ce``."""
        logits = self.student(batch.inputs).logits
        return validation_figures(logits, batch.label, self.setup.ignored)

    def cross_entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        """CE of what learns from labels."""
        return cross_entropy(logits, batch.label, self.setup.ignored)


class Distilling(Method):
    """L = (1 - a) CE(S) + a (sum of the method's terms), a halved after 30, 60 and 90 epochs."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._weight = setup.weight

    @abstractmethod
    def distil(self, student: Observed, teacher: Observed, batch: Batch) -> dict[str, Tensor]:
        """The method's terms: scalars with gradient to whatever learns."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``ce``, the method's terms, unweighted, and the weighted sum ``loss``."""
        student = self.student(batch.inputs)
        teacher = Observed.of(batch.frozen["teacher"])
        ce = self.cross_entropy(student.logits, batch)
        with torch.autocast(batch.label.device.type, enabled=False):
            terms = self.distil(student.precise(), teacher.precise(), batch)
        loss = (1 - self._weight) * ce + self._weight * sum(terms.values())
        return {"loss": loss, "ce": ce, **terms}

    def state(self) -> dict[str, Any]:
        """The terms' weight."""
        return {"weight": self._weight}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self._weight = state["weight"]

    def end_epoch(self, epoch: int) -> None:
        """Let the terms' weight fall."""
        if epoch + 1 in HALVED_AFTER:
            self._weight /= 2
