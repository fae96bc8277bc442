"""Comparisons on small samples, and methods that are awkward."""

from __future__ import annotations

from pathlib import Path

import yaml
from torch import Tensor

from mst_distill.compare.context import Recipe
from mst_distill.compare.method import Distilling, Method
from mst_distill.compare.teacher_cache import TeacherPool
from mst_distill.compare.teaching import resolve_methods, teachers_for, train_teacher
from mst_distill.mst.features import Observed
from mst_distill.parameters import Compare
from mst_distill.training.batches import Batch
from mst_distill.training.run import Run
from toy_runs import MASKS, TEACHERS, make_run, route

BASE = Path(__file__).parents[1] / "conf" / "base" / "parameters_compare.yml"
METHODS = yaml.safe_load(BASE.read_text())["compare"]["methods"]
"""All that the project comes with, as its parameters list them."""


def make_recipe(kind: str = "two modalities", methods: dict | None = None, **compare) -> Recipe:
    """Two epochs of stage 1, two of stage 2, three of stage 3, all methods."""
    _, members = make_run(kind)
    block = Compare.model_validate({"methods": methods or METHODS, **compare})
    return Recipe(members, TEACHERS, MASKS, route(), block)


def make_pool(run: Run, recipe: Recipe) -> TeacherPool:
    """Every teacher of the run's target, trained."""
    names = recipe.members.teachers_of(run.target)
    nets = {name: train_teacher(run, recipe, name).students["ce"] for name in names}
    return TeacherPool(run, nets, recipe.members, recipe.route.batch_size)


def ways(kind: str) -> list[tuple[str, type[Method], str]]:
    """Every method's name and class with every teacher it has a trial with."""
    run, _ = make_run(kind)
    recipe = make_recipe(kind)
    return [
        (name, method, teacher)
        for name, method in resolve_methods(recipe.compare).items()
        for teacher in teachers_for(method, recipe, run.target)
    ]


class Mimic(Distilling):
    """A user's own: the student's logits are pulled to the teacher's."""

    teachers = ("crossmodal",)

    def distil(self, student: Observed, teacher: Observed, batch: Batch) -> dict[str, Tensor]:
        """``apart``."""
        return {"apart": (student.logits - teacher.logits).square().mean()}


class Dying(Mimic):
    """Dies in its first step."""

    def distil(self, student: Observed, teacher: Observed, batch: Batch) -> dict[str, Tensor]:
        """Nothing."""
        raise ZeroDivisionError("it was made to")
