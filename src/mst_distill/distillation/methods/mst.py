"""MST-Distill itself, on the same terms as the others."""

from __future__ import annotations

from mst_distill.distillation.adaptation import train_masks
from mst_distill.distillation.collaboration import train_members
from mst_distill.distillation.method import Method
from mst_distill.distillation.panel import assemble_panel, tabulate_logits
from mst_distill.distillation.routing import train_student
from mst_distill.distillation.setup import Setup, Taught, count_weights
from mst_distill.parameters import PRESETS, Route


class MST(Method):
    """The three stages, with all teachers, which learn with the student; see their own files.

    Its student has the epochs of stage 1 and of stage 3 behind it, whatever the budget.
    """

    teachers = ()

    @classmethod
    def teach(cls, setup: Setup, preset: str | None = None) -> Taught:
        """Run the three stages.

        Args:
            setup: The student's net and its start weights.
            preset: Another than that of the block ``route``.
        """
        run, recipe = setup.run, setup.recipe
        members, masks = recipe.members, recipe.masks
        route = recipe.route if preset is None else with_preset(recipe.route, preset)
        nets, _ = train_members(run, members, recipe.teachers, masks)
        student = nets.pop(run.target)
        trained, _ = train_masks(run, nets, student, members, masks)
        panel = assemble_panel(run, nets, trained, members, route.stacked_masks)
        table = tabulate_logits(run, panel, route.batch_size)
        done = train_student(run, student, panel, table, route)
        return Taught(
            done.students,
            {rule: kept.row for rule, kept in done.fit.kept.items()},
            done.fit.history,
            recipe.teachers.epochs + route.epochs,
            count_weights(*nets.values(), *trained.values(), done.router),
        )


def with_preset(route: Route, preset: str) -> Route:
    """`route` with the switches of another preset.

    Raises:
        ValueError: There is no such preset.
    """
    switches = {switch for switches in PRESETS.values() for switch in switches}
    own = route.model_dump(exclude={"preset", *switches})
    return Route.model_validate({**own, "preset": preset})
