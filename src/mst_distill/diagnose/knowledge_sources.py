"""Sources: whoever could teach the student, each teacher and each specialist."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from mst_distill.evaluate.predictions import teacher_title
from mst_distill.mst.ensemble import Panel, specialist_name
from mst_distill.mst.networks import forward, modalities_of
from mst_distill.mst.split_teacher import SpecialisedTeacher
from mst_distill.training.batches import Frozen, Inputs
from mst_distill.training.device import wide_products
from mst_distill.training.run import Run

Say = Callable[[Inputs], Tensor]
"""Inputs to logits; gradients flow back to the inputs."""


@dataclass(frozen=True)
class Source:
    """A teacher, or a specialist of it.

    Attributes:
        title: How reports call it: ``audio teacher``, ``audio/hidden``.
        teacher: Whose it is: ``multimodal`` or a modality.
        masked: Whether it is a specialist.
        modalities: What it sees.
        say: Its logits.
    """

    title: str
    teacher: str
    masked: bool
    modalities: tuple[str, ...]
    say: Say

    def frozen(self) -> Frozen:
        """Its logits as something that no step changes."""
        return Frozen(self.modalities, lambda inputs: (self.say(inputs),))


def sources_of(run: Run, teachers: Mapping[str, nn.Module], panel: Panel) -> list[Source]:
    """The teachers, then the specialists in the order of the panel.

    Args:
        run: Says the modalities.
        teachers: Teacher name to its net, placed and in eval mode.
        panel: The specialists.
    """
    plain = [
        Source(
            teacher_title(name), name, False, modalities_of(name, run.modalities), _whole(name, net)
        )
        for name, net in teachers.items()
    ]
    masked = [
        Source(specialist_name(name, layer), name, True, cut.trunk.modalities, _masked(cut, layer))
        for name, cut in panel.teachers.items()
        for layer in cut.tails
    ]
    return plain + masked


def _whole(name: str, net: nn.Module) -> Say:
    return lambda inputs: forward(net, name, inputs)


def _masked(cut: SpecialisedTeacher, layer: str) -> Say:
    tail = cut.tails[layer]

    def say(inputs: Inputs) -> Tensor:
        values = cut.trunk.compute(inputs)
        with wide_products(values[0].device, tail):
            logits: Tensor = tail(*values)
        return logits

    return say
