"""Nodes of `masks`: stage 2."""

from __future__ import annotations

import pandas as pd

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.artifacts.provenance import depends_on
from mst_distill.data.samples import Samples
from mst_distill.pipelines.nets import (
    Partitions,
    bundle_nets,
    load_nets,
    metrics_of,
    open_run_with_given,
)
from mst_distill.plan import Plan


@depends_on("target", "seed", "members", "training", "masks", "masked_given", "runtime", given=())
def train_masks(
    samples: Samples,
    splits: pd.DataFrame,
    members: Partitions,
    checkpoints: Checkpoints,
    plan: Plan,
) -> tuple[dict[str, ModelBundle], pd.DataFrame]:
    """Train a mask for every masked layer of the frozen teachers, trained and given.

    Returns:
        Specialist name to mask, and the history.
    """
    from mst_distill.mst.given_teachers import check_given
    from mst_distill.mst.networks import mask_arguments
    from mst_distill.mst.stage2_masks import train_masks as train

    run = open_run_with_given(samples, splits, plan, checkpoints)
    check_given(run, plan.given, plan.masks)
    masks, done = train(run, plan, load_nets(members))
    bundles = bundle_nets(
        masks,
        lambda name: mask_arguments(masks[name], plan.masks),
        lambda name: metrics_of(done.best["joint"].row, ("kd",), f"_{name}"),
    )
    return bundles, done.history
