"""Opening the raw files of a benchmark, and checking that a run can be evaluated on them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Literal

from mst_distill.benchmarks.source import Protocol, SampleSource, check_index, described
from mst_distill.benchmarks.splits import checked_splits, deal_splits, stratified_limit
from mst_distill.data.samples import UNLABELLED
from mst_distill.errors import add_context, did_you_mean
from mst_distill.import_path import resolve
from mst_distill.parameters import Benchmark


def open_source(
    benchmark: Benchmark,
    protocol: Protocol,
    limit: int | Literal["all"],
    seed: int,
    fold: str | None = None,
) -> SampleSource:
    """Open the raw files of a benchmark, without reading anything large.

    The splits of the run are checked here, before the samples are read, which may take hours.

    Args:
        benchmark: The class of the source and its arguments.
        protocol: How the samples are split.
        limit: Number of samples to use, stratified by split and class, or ``all``.
        seed: Seed of the run, by which the protocols ``random`` and ``grouped`` split the samples.
        fold: The fold of the protocol ``grouped``, see `deal_splits`.

    Raises:
        TypeError: The class does not accept the arguments.
        ValueError: The class does not exist, no store can be built from its index, or a run cannot
            be evaluated on the splits.
    """
    kind: Callable[..., SampleSource] = resolve(benchmark.type, SampleSource)
    _check_arguments(kind, benchmark)
    try:
        source = kind("heldout" if protocol == "grouped" else protocol, **benchmark.arguments)
    except TypeError as error:
        raise TypeError(f"benchmark {benchmark.type}: {error}") from error
    except Exception as error:  # the constructor of a user's class
        add_context(error, f"This happened when the benchmark {benchmark.type} was opened.")
        raise
    check_index(source)  # the whole index, before the limit is applied
    if protocol == "grouped":
        _deal(source, seed, fold)
    _check_own_splits(source, protocol, seed)
    source.index = source.index.reset_index(drop=True)
    source.opened_with = {"protocol": protocol, **benchmark.model_dump(mode="json")}
    if limit != "all" and (count := len(source.index)) > limit:
        source.index = stratified_limit(source.index, limit)
        source.omitted = {}  # no sample within the limit is incomplete
        _check_own_splits(source, protocol, seed, f" (`limit` keeps {limit} of {count} samples)")
    return source


def _deal(source: SampleSource, seed: int, fold: str | None) -> None:
    """Replace the splits of a source by those of the protocol ``grouped``."""
    if source.shared_by_groups:
        raise ValueError(
            f"{described(source)}: its groups share {source.shared_by_groups}, which "
            f"protocol=grouped would put into several splits: choose protocol=heldout"
        )
    index = source.index.reset_index(drop=True)
    labelled = (index["label"] != UNLABELLED).to_numpy()
    if not labelled.any():  # dense labels, which the index does not know
        labelled[:] = True
    try:
        dealt = deal_splits(index[labelled], seed, fold)
    except ValueError as error:
        raise ValueError(f"{described(source)}: {error}") from error
    # Samples without a label go with their group, and are of use for training alone.
    of_group = dict(zip(index.loc[labelled, "group"], dealt, strict=True))
    index["split"] = index["group"].map(of_group).fillna("train")
    source.index = index[labelled | (index["split"] == "train")].reset_index(drop=True)


def _check_arguments(kind: Callable[..., SampleSource], benchmark: Benchmark) -> None:
    """Raise an error for an argument that the class does not have, with the nearest that it has."""
    parameters = list(signature(kind).parameters.values())[1:]  # without the protocol
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    for name in benchmark.arguments:
        if name not in known:
            raise TypeError(f"benchmark {benchmark.type}: {did_you_mean('argument', name, known)}")


def _check_own_splits(
    source: SampleSource, protocol: Protocol, seed: int, limited: str = ""
) -> None:
    try:
        checked_splits(source.index, list(source.classes), source.ignored_label, protocol, seed)
    except ValueError as error:
        raise ValueError(f"{described(source)}: {error}{limited}") from error
