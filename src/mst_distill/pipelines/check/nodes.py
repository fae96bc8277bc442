"""Node of `check`: a few samples pass all networks and all stages."""

from __future__ import annotations

import logging
import time

from mst_distill.artifacts.provenance import depends_on
from mst_distill.data.samples import Samples
from mst_distill.pipelines.check.first_samples import first_samples
from mst_distill.plan import Plan

log = logging.getLogger(__name__)

STAGES = ("teachers", "masks", "route")


@depends_on(
    "benchmark",
    "protocol",
    "fold",
    "seed",
    "labelled_per_batch",
    "target",
    "members",
    "training",
    "teachers",
    "masks",
    "route",
    "given",
    "metric",
    "runtime",
)
def compute_first_steps(plan: Plan) -> None:
    """Read about twenty samples, and compute one epoch of each stage on them.

    The result is a table in the log. Nothing is written.
    """
    from mst_distill.mst.given_teachers import check_given, with_given
    from mst_distill.mst.layers import count_weights
    from mst_distill.mst.networks import build_members
    from mst_distill.mst.plan_run import run_of
    from mst_distill.mst.run_stages import run_stages

    start = time.monotonic()
    with first_samples(plan) as samples:
        read = time.monotonic()
        splits = samples.index[["id", "group", "label", "split"]]
        run = with_given(run_of(samples, splits, plan), plan.given)
        check_given(run, plan.given, plan.masks)
        nets = build_members(run, plan)
        done = run_stages(run, _short(plan))
        trained = time.monotonic()
        weights = {name: count_weights(net) for name, net in nets.items()}
        masks = {name: count_weights(mask) for name, mask in done.masks.items()}
        lines = [
            *_samples_lines(samples),
            "",
            *_lines("network", "weights", {name: f"{of:,}" for name, of in weights.items()}),
            "",
            *_lines("mask", "weights", {name: f"{of:,}" for name, of in masks.items()}),
            "",
            f"The student is {plan.target!r}. {len(samples)} samples were read in "
            f"{read - start:.1f} s; one epoch of each stage on them took {trained - read:.1f} s.",
        ]
    log.info("Data and networks fit together. Nothing was written.\n%s", "\n".join(lines))


def _short(plan: Plan) -> Plan:
    """The plan with one epoch in each stage."""
    blocks = {name: getattr(plan, name).model_copy(update={"epochs": 1}) for name in STAGES}
    return plan.model_copy(update=blocks)


def _samples_lines(samples: Samples) -> list[str]:
    shapes = {
        name: f"{' x '.join(map(str, array.shape[1:]))} {_reader_of(samples, name)}"
        for name, array in samples.modalities.items()
    }
    classes = ", ".join(samples.classes[:10]) + ("" if len(samples.classes) <= 10 else ", ...")
    omitted = [f"left out: {name!r}: {reason}" for name, reason in samples.omitted.items()]
    return [
        f"{len(samples.classes)} classes: {classes}",
        *omitted,
        "",
        *_lines("modality", "shape and reader", shapes),
    ]


def _reader_of(samples: Samples, name: str) -> str:
    reader = samples.readers.get(name)
    return f"({reader.type.rpartition('.')[2]})" if reader else ""


def _lines(what: str, value: str, values: dict[str, str]) -> list[str]:
    """Format a table of two columns."""
    width = max(map(len, [what, *values]))
    return [f"{key:<{width}}  {text}".rstrip() for key, text in {what: value, **values}.items()]
