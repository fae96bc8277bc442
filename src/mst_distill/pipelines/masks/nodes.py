"""Nodes of `masks`: stage 2."""

from __future__ import annotations

import pandas as pd

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.data.samples import Samples
from mst_distill.parameters import Masks, Members, Runtime
from mst_distill.pipelines.bundles import Partitions, bundle_nets, continuing, figures_of, load_nets


def train_masks(
    samples: Samples,
    splits: pd.DataFrame,
    members: Partitions,
    state: Checkpoints,
    target: str,
    seed: int,
    nets: Members,
    masks: Masks,
    runtime: Runtime,
) -> tuple[dict[str, ModelBundle], pd.DataFrame]:
    """Train a mask for every masked layer of the frozen teachers; masks by specialist, history."""
    from mst_distill.mst.networks import mask_arguments
    from mst_distill.mst.stage2_masks import train_masks as train
    from mst_distill.training.run import Run

    loaded = load_nets(members)
    student = loaded.pop(target)
    run = continuing(Run(samples, splits, target, seed, runtime), state)
    trained, done = train(run, loaded, student, nets, masks)
    bundles = bundle_nets(
        trained,
        lambda name: mask_arguments(trained[name], masks),
        lambda name: figures_of(done.kept["joint"].row, ("kd",), f"_{name}"),
    )
    return bundles, done.history
