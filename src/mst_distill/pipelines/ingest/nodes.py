"""Nodes of `ingest`: raw files are read as samples, which are assigned to splits."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.artifacts.provenance import depends_on
from mst_distill.benchmarks.opening import open_source
from mst_distill.benchmarks.source import SampleSource
from mst_distill.benchmarks.splits import splits_of_run
from mst_distill.data.samples import Samples, check_columns
from mst_distill.data.summary import count_classes, describe
from mst_distill.plan import Plan

log = logging.getLogger(__name__)


@depends_on("benchmark", "protocol", "limit", "deal", seed=(), fold=(), members=(), evaluate=())
def build_samples(plan: Plan) -> SampleSource:
    """Open a benchmark's raw files; the sample store then reads them slice by slice."""
    source = open_source(plan.benchmark, plan.protocol, plan.limit, plan.seed, plan.fold)
    source.modalities = tuple(plan.members.modalities)
    check_columns(source.index, plan.evaluate.by)
    return source


@depends_on("protocol", "seed", "labelled", "labelled_validation")
def assign_splits(samples: Samples, plan: Plan) -> pd.DataFrame:
    """Assign each sample to training, validation or test in this run.

    Raises:
        ValueError: A run on these splits cannot be evaluated, see `splits_of_run`.
    """
    return splits_of_run(samples, plan.protocol, plan.seed, plan.label_shares)


def summarise_samples(
    samples: Samples, splits: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Summarise the samples in a table of classes by splits and a report; log its warnings."""
    report = describe(samples, splits)
    for warning in report["warnings"]:
        log.warning("%s", warning)
    return count_classes(samples, splits), report


def draw_samples(samples: Samples) -> Figure:
    """Draw a few samples in each modality."""
    from mst_distill.data.gallery import gallery

    return gallery(samples)
