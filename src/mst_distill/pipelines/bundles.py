"""Nets on their way into and out of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mst_distill.bundle import ModelBundle
from mst_distill.checkpoint import Checkpoints
from mst_distill.parameters import Masks, Members, Route, Teachers
from mst_distill.provenance import changes, provenance, terms

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from mst_distill.distillation.panel import Panel
    from mst_distill.training.loop import Row
    from mst_distill.training.run import Run

Partitions = dict[str, Callable[[], ModelBundle]]
"""What Kedro's partitioned dataset loads: a name to a function that loads the bundle."""


@dataclass(frozen=True)
class Nets:
    """The nets of a partitioned entry.

    Attributes:
        nets: By name.
        digests: Name to the SHA-256 of its weights.
    """

    nets: dict[str, nn.Module]
    digests: dict[str, str]


def load_nets(partitions: Partitions, stage: str, origin: Mapping[str, Any]) -> Nets:
    """Load all nets of a partitioned entry, if they are those that would be made now.

    Args:
        partitions: The entry.
        stage: The pipeline that makes them.
        origin: The `provenance` that they would have.

    Raises:
        ValueError: One was made on other terms; the message names it and what differs.
    """
    bundles = {name: load() for name, load in partitions.items()}
    for name, bundle in bundles.items():
        if clauses := changes(bundle.provenance, origin):
            raise ValueError(
                f"{name!r} of the stage {stage!r} was made on other terms: {'; '.join(clauses)}. "
                f"Run again from this stage on, or set them back"
            )
    return Nets(
        {name: bundle.net for name, bundle in bundles.items()},
        {f"{stage}/{name}": bundle.sha256 for name, bundle in bundles.items()},
    )


def continuing(run: Run, state: Checkpoints, origin: Mapping[str, Any], nets: Members) -> Run:
    """The run with a place for the state of its stages, from which they go on after a stop.

    Args:
        run: The run.
        state: The place.
        origin: The `provenance` of what the stage makes.
        nets: The members, whose code counts too.
    """
    from mst_distill.distillation.members import member_class

    kinds = [member_class(name, member) for name, member in nets.all_of(run.target).items()]
    return replace(run, checkpoints=state.on(terms(origin, kinds)))


@dataclass(frozen=True)
class Stages:
    """What stages 1 and 2 left.

    Attributes:
        members: Member name to its net.
        panel: The specialists.
        made_from: Every bundle's weights' SHA-256.
    """

    members: dict[str, nn.Module]
    panel: Panel
    made_from: dict[str, str]


def load_stages(
    run: Run,
    members: Partitions,
    masks: Partitions,
    nets: Members,
    teachers: Teachers,
    adaptation: Masks,
    route: Route,
) -> Stages:
    """Load members and masks, if they are those that would be made now.

    Args:
        run: The run.
        members: Of stage 1.
        masks: Of stage 2.
        nets: The members' block of parameters.
        teachers: Stage 1's.
        adaptation: Stage 2's.
        route: Stage 3's, which says how masks are worn.

    Raises:
        ValueError: As `load_nets`.
    """
    from mst_distill.distillation.panel import assemble_panel

    blocks: dict[str, Any] = {"target": run.target, "members": nets, "teachers": teachers}
    origin = provenance(run.samples, run.splits, run.seed, **blocks)
    first = load_nets(members, "teachers", origin)
    blocks["masks"] = adaptation
    origin = provenance(run.samples, run.splits, run.seed, first.digests, **blocks)
    second = load_nets(masks, "masks", origin)
    panel = assemble_panel(run, first.nets, second.nets, nets, route.stacked_masks, route.masked)
    return Stages(first.nets, panel, {**first.digests, **second.digests})


@dataclass(frozen=True)
class Finished:
    """What all stages left.

    Attributes:
        stages: Of stages 1 and 2.
        students: Rule of selection to the student.
        controls: Rule of selection to the control.
        origin: The `provenance` of what stage 3 makes.
    """

    stages: Stages
    students: dict[str, nn.Module]
    controls: dict[str, nn.Module]
    origin: dict[str, Any]


def load_finished(
    run: Run,
    members: Partitions,
    masks: Partitions,
    students: Partitions,
    controls: Partitions,
    nets: Members,
    teachers: Teachers,
    adaptation: Masks,
    route: Route,
) -> Finished:
    """Load all nets of a run, if they are those that would be made now.

    Args:
        run: The run.
        members: Of stage 1.
        masks: Of stage 2.
        students: Of stage 3.
        controls: Of `evaluate`.
        nets: The members' block of parameters.
        teachers: Stage 1's.
        adaptation: Stage 2's.
        route: Stage 3's.

    Raises:
        ValueError: As `load_nets`.
    """
    stages = load_stages(run, members, masks, nets, teachers, adaptation, route)
    blocks: dict[str, Any] = {
        "target": run.target,
        "members": nets,
        "teachers": teachers,
        "route": route,
    }
    alone = provenance(run.samples, run.splits, run.seed, **blocks)
    taught = provenance(
        run.samples, run.splits, run.seed, stages.made_from, **blocks, masks=adaptation
    )
    return Finished(
        stages,
        load_nets(students, "route", taught).nets,
        load_nets(controls, "evaluate", alone).nets,
        taught,
    )


def refuse_other_logits(table: pd.DataFrame, stages: Stages, route: Route) -> None:
    """Refuse a table of specialists' logits that is of others than those that are there.

    Raises:
        ValueError: It is.
    """
    if table.attrs != logits_origin(stages, route):
        raise ValueError(
            "specialist_logits are of other specialists than those that are there: run again from "
            "the node compute_specialist_logits"
        )


def logits_origin(stages: Stages, route: Route) -> dict[Hashable | None, Any]:
    """What a table of specialists' logits says of its origin."""
    return {
        "made_from": stages.made_from,
        "stacked_masks": route.stacked_masks,
        "masked": route.masked,
    }


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
