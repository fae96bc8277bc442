"""Reads networks from the catalog and bundles them for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.data.samples import Samples
from mst_distill.plan import Plan

if TYPE_CHECKING:
    from torch import nn

    from mst_distill.mst.finished_run import FinishedRun
    from mst_distill.training.loop import Row
    from mst_distill.training.run import Run

Partitions = dict[str, Callable[[], ModelBundle]]
"""What a folder of bundles loads as: a name to a function that loads the bundle."""


def open_run_with_given(
    samples: Samples, splits: pd.DataFrame, plan: Plan, checkpoints: Checkpoints | None = None
) -> Run:
    """The run that the plan describes, with its given teachers."""
    from mst_distill.mst.given_teachers import with_given
    from mst_distill.mst.plan_run import run_of

    return with_given(run_of(samples, splits, plan, checkpoints), plan.given)


def open_run_to_train(
    samples: Samples, splits: pd.DataFrame, plan: Plan, checkpoints: Checkpoints
) -> Run:
    """The same without given teachers, which are checked: they are needed once it is trained."""
    from mst_distill.mst.given_teachers import check_given, with_given
    from mst_distill.mst.plan_run import run_of

    run = run_of(samples, splits, plan, checkpoints)
    check_given(with_given(run, plan.given), plan.given, plan.masks)
    return run


def load_nets(partitions: Partitions) -> dict[str, nn.Module]:
    """Load all networks of an entry, by name; the catalog has verified them."""
    return {name: load().net for name, load in partitions.items()}


def load_finished(run: Run, plan: Plan, bundles: Mapping[str, Partitions]) -> FinishedRun:
    """Load the networks of a run.

    Args:
        run: The run.
        plan: All parameters.
        bundles: The entries ``members`` and ``masks`` and, as far as they are needed, ``students``
            and ``baselines``.
    """
    from mst_distill.mst.ensemble import assemble_ensemble
    from mst_distill.mst.finished_run import FinishedRun
    from mst_distill.mst.pretrained import set_rates

    nets = {entry: load_nets(partitions) for entry, partitions in bundles.items()}
    for name, member in plan.members.all_of(run.target).items():
        set_rates(name, nets["members"][name], member)
    ensemble = assemble_ensemble(run, plan, nets["members"], nets["masks"])
    return FinishedRun(
        nets["members"], ensemble, nets.get("students", {}), nets.get("baselines", {})
    )


def metrics_of(row: Row, names: Sequence[str], of: str = "") -> dict[str, float]:
    """The epoch of a row of the history, and its values of ``valid_NAME`` + `of` by name."""
    return {"epoch": int(row["epoch"]), **{name: row[f"valid_{name}{of}"] for name in names}}


def bundle_nets(
    nets: Mapping[str, nn.Module],
    arguments: Callable[[str], dict[str, Any]],
    metrics: Callable[[str], dict[str, float]],
) -> dict[str, ModelBundle]:
    """Bundle the networks of one stage; the catalog adds their origin.

    Args:
        nets: Name to network.
        arguments: A name to the arguments of the network's class.
        metrics: A name to the network's metrics.
    """
    return {
        name: ModelBundle.of(net, arguments(name), metrics=metrics(name))
        for name, net in nets.items()
    }
