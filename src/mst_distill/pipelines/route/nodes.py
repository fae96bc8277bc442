"""Nodes of `route`: the specialists' logits, and stage 3."""

from __future__ import annotations

import pandas as pd

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.artifacts.provenance import depends_on
from mst_distill.data.samples import Samples
from mst_distill.pipelines.nets import (
    Partitions,
    bundle_nets,
    load_finished,
    metrics_of,
    open_run_with_given,
)
from mst_distill.plan import Plan


@depends_on("target", "seed", "members", "given", "runtime", route=("stacked_masks", "masked"))
def compute_specialist_logits(
    samples: Samples, splits: pd.DataFrame, members: Partitions, masks: Partitions, plan: Plan
) -> pd.DataFrame:
    """Evaluate every specialist on every sample once; no rows if stage 3 has to do it online."""
    from mst_distill.mst.ensemble import tabulate_logits

    run = open_run_with_given(samples, splits, plan)
    stages = load_finished(run, plan, {"members": members, "masks": masks})
    return tabulate_logits(run, stages.ensemble, plan.route.batch_size)


@depends_on(
    *("target", "seed", "labelled_per_batch", "members", "training", "given", "route"),
    *("metric", "runtime"),
)
def train_student(
    samples: Samples,
    splits: pd.DataFrame,
    specialist_logits: pd.DataFrame,
    checkpoints: Checkpoints,
    plan: Plan,
    **bundles: Partitions,
) -> tuple[ModelBundle, dict[str, ModelBundle], ModelBundle, pd.DataFrame, pd.DataFrame]:
    """Distil the specialists into the student.

    Args:
        samples: The store.
        splits: The run's splits.
        specialist_logits: From `compute_specialist_logits`.
        checkpoints: Where the training keeps its state.
        plan: All parameters.
        bundles: ``members`` and ``masks``.

    Returns:
        The student, the student under each selection criterion, the router, the history, and how
        many training samples each specialist was selected for.
    """
    from mst_distill.mst.networks import arguments_of
    from mst_distill.mst.stage3_route import router_class
    from mst_distill.mst.stage3_route import train_student as train

    run, route = open_run_with_given(samples, splits, plan, checkpoints), plan.route
    stages = load_finished(run, plan, bundles)
    student = stages.members[plan.target]
    _, router_arguments = router_class(run, route, student)
    done = train(run, plan, student, stages.ensemble, specialist_logits)
    arguments = arguments_of(plan.members.modalities[plan.target], len(samples.classes))
    students = bundle_nets(
        done.students,
        lambda _: arguments,
        lambda criterion: metrics_of(done.fit.best[criterion].row, plan.validated),
    )
    names = stages.ensemble.names
    router = ModelBundle.of(
        done.router,
        {**router_arguments, "specialists": len(names)},
        metrics=metrics_of(done.fit.best[plan.selection].row, plan.validated),
        provenance={"specialists": list(names)},
    )
    return students[plan.selection], students, router, done.fit.history, done.load
