"""The compared methods on a simulated GPU: the metrics of the CPU, and no host waits in a step."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from gpu_steps import recorded_steps
from mst_distill.compare.context import MethodResult
from mst_distill.compare.teacher_cache import TeacherPool
from mst_distill.compare.teaching import resolve_methods, teach
from mst_distill.evaluate.predictions import evaluate_nets
from mst_distill.mst.networks import build_members
from mst_distill.plan import Plan
from mst_distill.training.run import Run
from toy_comparisons import make_comparison_plan, method_teacher_pairs
from toy_runs import make_run, vary

TRIALS = [
    pytest.param(kind, name, teacher, id=f"{kind}: {name} <- {teacher}" if teacher else name)
    for kind in ("two modalities", "dense labels")
    for name, method, teacher in method_teacher_pairs(kind)
    if method.dense or kind != "dense labels"
]

LABELLED_PIXELS = ("c2kd", "dist", "dkd")
"""With dense labels, these methods select the labelled pixels, whose number is a value."""


def train(kind: str, name: str, teacher: str, **runtime: Any) -> tuple[Run, Plan, MethodResult]:
    """Train a student for one epoch with a method and untrained teachers."""
    run, _ = make_run(kind, **runtime)
    plan = make_comparison_plan(kind, budget="reference")
    plan = vary(plan, teachers={"epochs": 1}, masks={"epochs": 1}, route={"epochs": 1})
    nets = build_members(run, plan)
    teachers = {of: run.place(nets[of]) for of in plan.members.teachers_of(run.target)}
    pool = TeacherPool(run, teachers, plan.members, plan.route.batch_size)
    method = resolve_methods(plan.compare)[name]
    arguments = plan.compare.methods[name].arguments
    return run, plan, teach(run, plan, pool, method, teacher, arguments)


@pytest.mark.parametrize(("kind", "name", "teacher"), TRIALS)
def test_the_history_is_that_of_a_cpu_and_no_step_waits(kind: str, name: str, teacher: str) -> None:
    _, _, expected = train(kind, name, teacher)
    with recorded_steps() as recorded:
        run, plan, found = train(kind, name, teacher, device="cuda:1")
        assert all(weight.is_cuda for net in found.students.values() for weight in net.parameters())
        assert evaluate_nets(run, found.students, run.target, plan.route.batch_size, 5)
        assert recorded.gpu.peak[0] == 0
    if name != "crd":  # it draws random numbers in every step, from the generator of the GPU
        pd.testing.assert_frame_equal(found.history, expected.history, rtol=1e-4, atol=1e-6)
    if kind != "dense labels" or name not in LABELLED_PIXELS:
        assert not recorded.waits
