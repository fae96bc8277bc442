"""A few samples of a benchmark, in a store that is deleted after use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from mst_distill.benchmarks.opening import open_source
from mst_distill.benchmarks.splits import stratified_limit
from mst_distill.data.samples import ABSENT, Samples, are_complete
from mst_distill.data.store import open_store, write_store
from mst_distill.plan import Plan

COUNT = 20
"""Number of samples; more if there are more combinations of split and class."""


@contextmanager
def first_samples(plan: Plan) -> Iterator[Samples]:
    """Open the raw files with all checks, and read a few samples of each split and class.

    These have all modalities. If some samples do not, one training sample of each combination of
    absent modalities is read as well.

    Readers are fitted on these samples alone. Half of them may be damaged.

    Args:
        plan: ``benchmark``, ``protocol``, ``fold``, ``seed`` and ``members``.

    Raises:
        ValueError, TypeError, OSError: As for a whole run; the message names file and rule.
    """
    source = open_source(plan.benchmark, plan.protocol, "all", plan.seed, plan.fold)
    source.modalities = tuple(plan.members.modalities)
    index = source.index
    complete, incomplete = index[are_complete(index)], index[~are_complete(index)]
    combinations = len(complete.drop_duplicates(["split", "label"]))
    first = [stratified_limit(complete, max(COUNT, combinations))]
    if len(incomplete):
        first.append(incomplete[incomplete["split"] == "train"].drop_duplicates(ABSENT))
    source.index = pd.concat(first, ignore_index=True)
    source.omitted, source.tolerated_share = {}, 0.5
    with TemporaryDirectory() as folder:
        write_store(source, Path(folder) / "samples")
        yield open_store(Path(folder) / "samples")
