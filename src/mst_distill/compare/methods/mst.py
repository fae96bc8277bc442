"""MST-Distill itself, on the same terms as the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from mst_distill.compare.context import Setup, Taught, count_weights
from mst_distill.compare.method import Method
from mst_distill.mst.ensemble import assemble_panel, tabulate_logits
from mst_distill.mst.stage1_teachers import train_members
from mst_distill.mst.stage2_masks import train_masks
from mst_distill.mst.stage3_route import train_student
from mst_distill.parameters import PRESETS, Training

T = TypeVar("T", bound=Training)

Changes = Mapping[str, Any] | None
"""Some parameters of a block, by name."""


class MST(Method):
    """The three stages, with all teachers, which learn with the student; see their own files.

    Its student has the epochs of stage 1 and of stage 3 behind it, whatever the budget.
    """

    teachers = ()

    @classmethod
    def teach(
        cls, setup: Setup, teachers: Changes = None, masks: Changes = None, route: Changes = None
    ) -> Taught:
        """Run the three stages.

        Args:
            setup: The student's net and its start weights.
            teachers: What is other than in the block of that name,
            masks: in that one,
            route: and in that.
        """
        run, members, once = setup.run, setup.recipe.members, setup.pool.once
        first = changed(setup.recipe.teachers, teachers)
        second = changed(setup.recipe.masks, masks)
        third = changed(setup.recipe.route, route)
        nets, of_members = once(
            "members", [first], lambda: train_members(run, members, first, second)[0]
        )
        student = nets.pop(run.target)
        worn: dict[str, nn.Module] = {}
        of_masks = 0.0
        if third.masked:
            worn, of_masks = once(
                "masks",
                [first, second],
                lambda: train_masks(run, nets, student, members, second)[0],
            )
        panel = assemble_panel(run, nets, worn, members, third.stacked_masks, third.masked)
        table = tabulate_logits(run, panel, third.batch_size)
        done = train_student(run, student, panel, table, third)
        return Taught(
            done.students,
            {rule: kept.row for rule, kept in done.fit.kept.items()},
            done.fit.history,
            first.epochs + third.epochs,
            count_weights(*nets.values(), *worn.values(), done.router),
            of_members + of_masks,
        )


def changed(block: T, changes: Changes) -> T:
    """`block` with some other values; another preset sets all its switches anew.

    Raises:
        ValueError: There is no such parameter, or no such preset.
    """
    own = block.model_dump()
    if changes and "preset" in changes:
        switches = {switch for switches in PRESETS.values() for switch in switches}
        own = {name: value for name, value in own.items() if name not in switches}
    return type(block).model_validate({**own, **(changes or {})})
