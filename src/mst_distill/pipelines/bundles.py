"""Nets on their way into and out of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.parameters import Members, Route

if TYPE_CHECKING:
    from torch import nn

    from mst_distill.mst.ensemble import Panel
    from mst_distill.training.loop import Row
    from mst_distill.training.run import Run

Partitions = dict[str, Callable[[], ModelBundle]]
"""What a folder of bundles loads as: a name to a function that loads the bundle."""


def load_nets(partitions: Partitions) -> dict[str, nn.Module]:
    """Load all nets of an entry, by name; the catalog has verified them."""
    return {name: load().net for name, load in partitions.items()}


def continuing(run: Run, state: Checkpoints) -> Run:
    """The run with a place for the state of its stages, from which they go on after a stop."""
    return replace(run, checkpoints=state)


@dataclass(frozen=True)
class Stages:
    """What stages 1 and 2 left.

    Attributes:
        members: Member name to its net.
        panel: The specialists.
    """

    members: dict[str, nn.Module]
    panel: Panel


def load_stages(
    run: Run, members: Partitions, masks: Partitions, nets: Members, route: Route
) -> Stages:
    """Load members and masks, and put them together.

    Args:
        run: The run.
        members: Of stage 1.
        masks: Of stage 2.
        nets: The members' block of parameters.
        route: Stage 3's, which says how masks are worn.
    """
    from mst_distill.mst.ensemble import assemble_panel

    first, second = load_nets(members), load_nets(masks)
    panel = assemble_panel(run, first, second, nets, route.stacked_masks, route.masked)
    return Stages(first, panel)


@dataclass(frozen=True)
class Finished:
    """What all stages left.

    Attributes:
        stages: Of stages 1 and 2.
        students: Rule of selection to the student.
        controls: Rule of selection to the control.
    """

    stages: Stages
    students: dict[str, nn.Module]
    controls: dict[str, nn.Module]


def load_finished(
    run: Run,
    members: Partitions,
    masks: Partitions,
    students: Partitions,
    controls: Partitions,
    nets: Members,
    route: Route,
) -> Finished:
    """Load all nets of a run.

    Args:
        run: The run.
        members: Of stage 1.
        masks: Of stage 2.
        students: Of stage 3.
        controls: Of `evaluate`.
        nets: The members' block of parameters.
        route: Stage 3's.
    """
    stages = load_stages(run, members, masks, nets, route)
    return Finished(stages, load_nets(students), load_nets(controls))


def figures_of(row: Row, names: Sequence[str], of: str = "") -> dict[str, float]:
    """The epoch of `row` and its validation figures ``valid_NAME`` + `of`, by name."""
    return {"epoch": int(row["epoch"]), **{name: row[f"valid_{name}{of}"] for name in names}}


def bundle_nets(
    nets: Mapping[str, nn.Module],
    arguments: Callable[[str], dict[str, Any]],
    metrics: Callable[[str], dict[str, float]],
) -> dict[str, ModelBundle]:
    """Bundle several nets of one stage; the catalog adds where they are from.

    Args:
        nets: Name to net.
        arguments: A name to what the net's class was called with.
        metrics: A name to its figures.
    """
    return {
        name: ModelBundle.of(net, arguments(name), metrics=metrics(name))
        for name, net in nets.items()
    }
