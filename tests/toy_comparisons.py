"""Comparisons on small samples, and methods for tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import yaml
from torch import Tensor

from mst_distill.compare.method import Distilling, Method
from mst_distill.compare.teacher_cache import TeacherPool
from mst_distill.compare.teaching import resolve_methods, teachers_for, train_teacher
from mst_distill.mst.features import ModelOutput
from mst_distill.parameters import Compare
from mst_distill.plan import Plan
from mst_distill.training.batches import Batch
from mst_distill.training.run import Run
from toy_runs import make_plan, make_run

BASE = Path(__file__).parents[1] / "conf" / "base" / "parameters_compare.yml"
METHODS = yaml.safe_load(BASE.read_text())["compare"]["methods"]
"""The methods of the project, as its parameters list them."""


def make_comparison_plan(
    kind: str = "two modalities", methods: dict | None = None, **compare
) -> Plan:
    """Make the plan of a toy run with all methods, or with the given ones."""
    block = Compare.model_validate({"methods": methods or METHODS, **compare})
    return make_plan(kind, compare=block)


def make_pool(run: Run, plan: Plan) -> TeacherPool:
    """Train every teacher of the run's target."""
    names = plan.members.teachers_of(run.target)
    nets = {name: train_teacher(run, plan, name).students[plan.selection] for name in names}
    return TeacherPool(run, nets, plan.members, plan.route.batch_size)


def method_teacher_pairs(kind: str) -> list[tuple[str, type[Method], str]]:
    """List the name and class of every method with each teacher that it has a trial with."""
    run, _ = make_run(kind)
    plan = make_comparison_plan(kind)
    return [
        (name, method, teacher)
        for name, method in resolve_methods(plan.compare).items()
        for teacher in teachers_for(method, plan, run.target)
    ]


class Mimic(Distilling):
    """A method of the user's own: squared difference of the logits."""

    teachers = ("crossmodal",)

    def distil(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Compute ``apart``."""
        return {"apart": (student.logits - teacher.logits).square().mean()}


class Failing(Mimic):
    """Fails in its first step."""

    def distil(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Raise."""
        raise ZeroDivisionError("deliberate failure")


class Killing(Mimic):
    """Ends its process in its first step, as a lack of memory does."""

    def distil(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Do not return."""
        os.kill(os.getpid(), signal.SIGKILL)
        return {}
