"""MST-Distill itself, under the same conditions as the other methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from mst_distill.compare.context import MethodResult, TrialContext, count_weights
from mst_distill.compare.method import Method
from mst_distill.mst.run_stages import Networks, run_stages
from mst_distill.parameters import PRESETS, Training

T = TypeVar("T", bound=Training)

Changes = Mapping[str, Any] | None
"""New values for some parameters of a block, by name."""

BUDGET = ("epochs", "batch_size", "learning_rate")
"""Parameters of a block that no argument may change, since all methods of a comparison share them.
"""


class MST(Method):
    """The three stages with all teachers, which are trained with the student; see `run_stages`.

    The student has the epochs of stages 1 and 3, whatever the budget is.
    """

    teachers = ()
    all_teachers = True

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Check that no block has a parameter of `BUDGET`.

        Raises:
            ValueError: One has; the message names the parameter of the run to set instead.
        """
        for block, changes in arguments.items():
            for key in BUDGET:
                if key in (changes or {}):
                    raise ValueError(
                        f"{block}.{key} is {changes[key]}, but all methods of a comparison have "
                        f"the same budget, which the run's own block sets, for example "
                        f"--params={block}.{key}={changes[key]}"
                    )

    @classmethod
    def teach(  # type: ignore[override]  # it has no further arguments
        cls,
        context: TrialContext,
        teachers: Changes = None,
        masks: Changes = None,
        route: Changes = None,
    ) -> MethodResult:
        """Run the three stages.

        Args:
            context: The run, the parameters, and the results of stages that other trials share.
            teachers: Parameters that differ from the block ``teachers``.
            masks: Parameters that differ from the block ``masks``.
            route: Parameters that differ from the block ``route``.
        """
        plan = context.plan.model_copy(
            update={
                "teachers": changed(context.plan.teachers, teachers),
                "masks": changed(context.plan.masks, masks),
                "route": changed(context.plan.route, route),
            }
        )
        seconds_before = 0.0

        def reuse(name: str, settings: Sequence[Any], compute: Callable[[], Networks]) -> Networks:
            nonlocal seconds_before
            result, seconds = context.pool.compute_once(name, settings, compute)
            seconds_before += seconds
            return result

        done = run_stages(context.run, plan, reuse)
        student = done.student
        teachers_of = [net for name, net in done.members.items() if name != context.run.target]
        return MethodResult(
            student.students,
            {criterion: best.row for criterion, best in student.fit.best.items()},
            student.fit.history,
            plan.teachers.epochs + plan.route.epochs,
            count_weights(*teachers_of, *done.masks.values(), student.router),
            seconds_before,
        )


def changed(block: T, changes: Changes) -> T:
    """Copy a block with new values; a new preset resets all switches that presets set.

    Raises:
        ValueError: A parameter or preset does not exist.
    """
    values = dict(block)
    if changes and "preset" in changes:
        switches = {switch for switches in PRESETS.values() for switch in switches}
        values = {name: value for name, value in values.items() if name not in switches}
    return type(block).model_validate({**values, **(changes or {})})
