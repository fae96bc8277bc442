"""Nets on their way into and out of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mst_distill.bundle import ModelBundle

if TYPE_CHECKING:
    from torch import nn

    from mst_distill.training.loop import Row

Partitions = dict[str, Callable[[], ModelBundle]]
"""What Kedro's partitioned dataset loads: a name to a function that loads the bundle."""


def load_nets(partitions: Partitions) -> dict[str, nn.Module]:
    """Load all nets of a partitioned entry."""
    return {name: load().net for name, load in partitions.items()}


def figures_of(row: Row, names: Sequence[str], of: str = "") -> dict[str, float]:
    """The epoch of `row` and its validation figures ``valid_NAME`` + `of`, by name."""
    return {"epoch": int(row["epoch"]), **{name: row[f"valid_{name}{of}"] for name in names}}


def bundle_nets(
    nets: Mapping[str, nn.Module],
    arguments: Callable[[str], dict[str, Any]],
    metrics: Callable[[str], dict[str, float]],
    provenance: dict[str, Any],
) -> dict[str, ModelBundle]:
    """Bundle several nets of one stage.

    Args:
        nets: Name to net.
        arguments: A name to what the net's class was called with.
        metrics: A name to its figures.
        provenance: Of the stage.
    """
    return {
        name: ModelBundle.of(net, arguments(name), metrics=metrics(name), provenance=provenance)
        for name, net in nets.items()
    }
