"""The networks of a finished run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mst_distill.mst.ensemble import SpecialistEnsemble


@dataclass(frozen=True)
class FinishedRun:
    """The networks of a finished run.

    Attributes:
        members: Member name to its network after stage 1.
        ensemble: The specialists.
        students: Selection criterion to the student.
        baselines: Selection criterion to the baseline.
    """

    members: dict[str, nn.Module]
    ensemble: SpecialistEnsemble
    students: dict[str, nn.Module]
    baselines: dict[str, nn.Module]

    @property
    def teachers(self) -> dict[str, nn.Module]:
        """Teacher name to its network, in the order of the specialists."""
        return {name: specialised.net for name, specialised in self.ensemble.teachers.items()}
