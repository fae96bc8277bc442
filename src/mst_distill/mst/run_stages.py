"""MST-Distill from untrained networks to the distilled student: stages 1, 2 and 3 in order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mst_distill.mst.ensemble import assemble_ensemble, tabulate_logits
from mst_distill.mst.stage1_teachers import train_members
from mst_distill.mst.stage2_masks import train_masks
from mst_distill.mst.stage3_route import StudentResult, train_student
from mst_distill.plan import Plan
from mst_distill.training.run import Run

Networks = dict[str, nn.Module]

Reuse = Callable[[str, Sequence[Any], Callable[[], Networks]], Networks]
"""Takes the name of a result, the settings that it depends on, and a function that computes it;
returns the result, computed or from an earlier call with equal settings."""


def compute(_name: str, _settings: Sequence[Any], function: Callable[[], Networks]) -> Networks:
    """Compute every result; nothing is reused."""
    return function()


@dataclass(frozen=True)
class StagesResult:
    """The result of all three stages.

    Attributes:
        members: Member name to its network after stage 1.
        masks: Specialist name to its mask after stage 2; empty if ``route.masked`` is off.
        student: The result of stage 3.
    """

    members: Networks
    masks: Networks
    student: StudentResult


def run_stages(run: Run, plan: Plan, reuse: Reuse = compute) -> StagesResult:
    """Run the method of Li et al., "MST-Distill", ACM MM 2025, section 3.

    The pipelines `teachers`, `masks` and `route` call the same functions in the same order, one
    node for each, with the catalog between them.

    Args:
        run: Samples, splits, target, seed and device.
        plan: All parameters; the blocks ``members``, ``teachers``, ``masks`` and ``route`` count.
        reuse: Supplies the results of stages 1 and 2 where they were computed before.
    """
    # Stage 1, collaborative initialisation: teachers and student learn from one another.
    members = reuse("members", [plan.teachers], lambda: train_members(run, plan)[0])
    # Stage 2, specialised teacher adaptation: masks adapt frozen teachers to the student.
    masks: Networks = {}
    if plan.route.masked:
        blocks = [plan.teachers, plan.masks]
        masks = reuse("masks", blocks, lambda: train_masks(run, plan, members)[0])
    # Stage 3, dynamic distillation: a router selects specialists for every sample.
    student = copy.deepcopy(members[run.target])
    ensemble = assemble_ensemble(run, plan, members, masks)
    logits = tabulate_logits(run, ensemble, plan.route.batch_size)
    return StagesResult(members, masks, train_student(run, plan, student, ensemble, logits))
