"""Nodes of `ingest`: raw files become samples, and samples get their splits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, get_args

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.artifacts.provenance import depends_on
from mst_distill.benchmarks.class_counts import ClassCounts
from mst_distill.benchmarks.source import Protocol, SampleSource, check_index, told
from mst_distill.benchmarks.splits import checked_splits, stratified_limit
from mst_distill.data.samples import Samples
from mst_distill.data.summary import count_classes, describe
from mst_distill.errors import unknown
from mst_distill.import_path import resolve
from mst_distill.parameters import Benchmark

log = logging.getLogger(__name__)


@depends_on(seed=())
def build_samples(benchmark: Benchmark, protocol: Protocol, limit: Any, seed: int) -> SampleSource:
    """Open a benchmark's raw files; the sample store then reads them slice by slice.

    Args:
        benchmark: The source's class and arguments.
        protocol: ``heldout`` or ``random``.
        limit: How many samples to keep, stratified over splits and classes, or ``all``.
        seed: The run's, by which ``random`` deals: what cannot be judged is refused before hours
            of reading.

    Raises:
        ValueError: The protocol or the limit is none of these, or no store or no table of splits
            that a run can be judged on could be made of the index.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(unknown("protocol", protocol, get_args(Protocol)))
    if limit != "all" and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"limit is {limit!r}; it must be a number above 0, or 'all'")
    kind: Callable[..., SampleSource] = resolve(benchmark.type, SampleSource)
    try:
        source = kind(protocol, **benchmark.arguments)
    except TypeError as error:
        raise TypeError(f"benchmark {benchmark.type}: {error}") from error
    check_index(source)  # all of it, whatever the limit leaves
    _check_own_splits(source, protocol, seed)
    source.index = source.index.reset_index(drop=True)
    source.opened_with = {"protocol": protocol, **benchmark.model_dump(mode="json")}
    if isinstance(limit, int) and (count := len(source.index)) > limit:
        source.index = stratified_limit(source.index, limit)
        source.omitted = {}  # of the samples that are wanted now none is
        _check_own_splits(source, protocol, seed, f" (`limit` keeps {limit} of {count} samples)")
    return source


def _check_own_splits(
    source: SampleSource, protocol: Protocol, seed: int, limited: str = ""
) -> None:
    try:
        checked_splits(source.index, list(source.classes), source.ignored_label, protocol, seed)
    except ValueError as error:
        raise ValueError(f"{told(source)}: {error}{limited}") from error


def assign_splits(samples: Samples, protocol: Protocol, seed: int) -> pd.DataFrame:
    """Say which sample is for training, validation and test in this run.

    Raises:
        ValueError: A run on these splits cannot be judged: see `checked_splits`, and for the pixels
            of dense labels `ClassCounts.check`.
    """
    classes, ignored = samples.classes, samples.ignored_label
    splits = checked_splits(samples.index, classes, ignored, protocol, seed)
    if samples.dense:
        ClassCounts.of(samples.labels, splits["split"].to_numpy(), classes, ignored).check()
    return splits


def summarise_samples(
    samples: Samples, splits: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Say what was read: a table of classes and splits, and all else; warn of what is doubtful."""
    report = describe(samples, splits)
    for warning in report["warnings"]:
        log.warning("%s", warning)
    return count_classes(samples, splits), report


def draw_samples(samples: Samples) -> Figure:
    """Draw a few samples in each modality."""
    from mst_distill.data.gallery import gallery

    return gallery(samples)
