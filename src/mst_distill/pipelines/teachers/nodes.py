"""Nodes of `teachers`: stage 1."""

from __future__ import annotations

import pandas as pd

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.artifacts.provenance import depends_on
from mst_distill.data.samples import Samples
from mst_distill.pipelines.nets import bundle_nets, metrics_of, open_run_to_train
from mst_distill.plan import Plan


@depends_on(
    *(
        "target",
        "seed",
        "labelled_per_batch",
        "members",
        "training",
        "teachers",
        "metric",
        "runtime",
    ),
    masks=(),
    given=(),
)
def train_members(
    samples: Samples, splits: pd.DataFrame, checkpoints: Checkpoints, plan: Plan
) -> tuple[dict[str, ModelBundle], pd.DataFrame]:
    """Train teachers and student together.

    Returns:
        Member name to network, and the history.
    """
    from mst_distill.mst.networks import arguments_of
    from mst_distill.mst.stage1_teachers import row_of
    from mst_distill.mst.stage1_teachers import train_members as train

    nets, done = train(open_run_to_train(samples, splits, plan, checkpoints), plan)
    members = plan.members.all_of(plan.target)
    bundles = bundle_nets(
        nets,
        lambda name: arguments_of(members[name], len(samples.classes)),
        lambda name: metrics_of(row_of(done, name), plan.validated, f"_{name}"),
    )
    return bundles, done.history
