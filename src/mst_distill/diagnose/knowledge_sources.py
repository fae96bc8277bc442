"""Knowledge sources: each teacher and each specialist, from which the student could learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mst_distill.evaluate.predictions import teacher_title
from mst_distill.mst.ensemble import SpecialistEnsemble, specialist_name
from mst_distill.mst.split_teacher import UNMASKED, SpecialisedTeacher
from mst_distill.training.batches import Frozen, Inputs
from mst_distill.training.device import wide_products

LogitsFn = Callable[[Inputs], Tensor]
"""A function from inputs to logits that is differentiable with respect to the inputs."""


@dataclass(frozen=True)
class Source:
    """A teacher or a specialist.

    Attributes:
        title: The name in reports: ``audio teacher``, ``audio/hidden``.
        teacher: The teacher itself or that of the specialist: ``multimodal``, a modality, or the
            name of a given teacher.
        masked: Whether the source is a specialist.
        modalities: The modalities that it sees, or the name of a given teacher that reads what is
            recorded.
        logits: The function that computes its logits.
    """

    title: str
    teacher: str
    masked: bool
    modalities: tuple[str, ...]
    logits: LogitsFn

    def frozen(self) -> Frozen:
        """Return its logits as a function that no training step changes."""
        return Frozen(self.modalities, lambda inputs: (self.logits(inputs),))


def sources_of(ensemble: SpecialistEnsemble) -> list[Source]:
    """Return the teachers, followed by the specialists in the order of the ensemble.

    A given teacher without masks is a specialist as it is, and occurs only as a teacher.
    """
    plain = [
        Source(teacher_title(name), name, False, specialised.trunk.modalities, specialised.logits)
        for name, specialised in ensemble.teachers.items()
    ]
    masked = [
        Source(
            specialist_name(name, layer),
            name,
            True,
            specialised.trunk.modalities,
            _logits_of_specialist(specialised, layer),
        )
        for name, specialised in ensemble.teachers.items()
        for layer in specialised.tails
        if layer != UNMASKED
    ]
    return plain + masked


def _logits_of_specialist(specialised: SpecialisedTeacher, layer: str) -> LogitsFn:
    tail = specialised.tails[layer]

    def logits_of(inputs: Inputs) -> Tensor:
        values = specialised.trunk(inputs)
        with wide_products(values[0].device, tail):
            logits: Tensor = tail(*values)
        return logits

    return logits_of
