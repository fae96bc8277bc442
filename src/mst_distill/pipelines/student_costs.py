"""The costs of the students of a plan, and whether they keep its budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from mst_distill.data.samples import Samples
from mst_distill.plan import Plan

if TYPE_CHECKING:
    from mst_distill.deploy.export import Export

COLUMNS = [
    *("student", "modality", "type", "parameters", "multiply_adds", "bytes", "milliseconds"),
    *("milliseconds_p95", "milliseconds_of_32", "milliseconds_of_32_p95"),
]


def measure_students(samples: Samples, plan: Plan) -> pd.DataFrame:
    """Measure the students that a comparison trains, if there are some of other sizes.

    Raises:
        ValueError: A student cannot be exported; the message names its class.
    """
    from mst_distill.deploy.costs import costs_of

    modalities = {student.modality for student in plan.students.values()}
    rows = []
    for name in plan.compared_students:
        if (modality := plan.members.modality_of(name)) in modalities:
            export = untrained_export(samples, plan.with_student(name))
            row = {"student": name, "modality": modality, "type": export.student.type}
            rows.append({**row, **costs_of(export)})
    return pd.DataFrame(rows, columns=COLUMNS)


def check_budgets(samples: Samples, plan: Plan, compared: bool) -> None:
    """Check that the students that are to be trained keep the budget.

    Args:
        samples: The store.
        plan: All parameters.
        compared: Whether all students of a comparison are trained, or that of the run.

    Raises:
        ValueError: One does not, see `deploy.costs.check_budget`.
    """
    from mst_distill.deploy.costs import check_budget, costs_of

    for name in plan.compared_students if compared else (plan.target,):
        export = untrained_export(samples, plan.with_student(name))
        check_budget(name, costs_of(export), plan.budget)


def untrained_export(samples: Samples, plan: Plan) -> Export:
    """The student of a plan with start weights, and its input."""
    from mst_distill.artifacts.bundle import ModelBundle
    from mst_distill.artifacts.student_input import StudentInput
    from mst_distill.deploy.export import Export
    from mst_distill.mst.networks import arguments_of, build_member, trial_forward
    from mst_distill.training.seeding import Stream, seeded

    target, classes = plan.target, len(samples.classes)
    member = plan.members.modalities[target]
    net = build_member(target, member, classes, seed=0)
    with seeded(0, Stream.LAZY_LAYERS):
        trial_forward(target, net, samples)  # which also gives lazy layers their widths
    bundle = ModelBundle.of(net, arguments_of(member, classes))
    description = StudentInput(
        modality=target,
        shape=tuple(samples.modalities[target].shape[1:]),
        dense=samples.dense,
        classes=samples.classes,
        ignored_label=samples.ignored_label,
        temperature=1.0,
        weights="",
        reader=None,
    )
    return Export(bundle, description)
