"""Reliance: what a net loses when one modality is permuted among the held-out samples.

The size of gradient x input depends on the scale and width of an input, not only on its use.
Permutation keeps both and only breaks the relation to the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from mst_distill.artifacts.progress import progress
from mst_distill.diagnose.knowledge_sources import Source
from mst_distill.evaluate.accumulate import MetricAccumulator
from mst_distill.evaluate.bootstrap import Bootstrap, sampling_units
from mst_distill.training.batches import Batches
from mst_distill.training.device import autocast
from mst_distill.training.run import Run
from mst_distill.training.seeding import Stream, derive_seed

REPEATS = 5
"""Number of permutations over which the results of every sample are averaged."""

COLUMNS = [
    *("source", "modality", "accuracy", "permuted", "points", "low", "high"),
    *("nll", "nll_permuted", "nats", "nats_low", "nats_high"),
]


def reliance_table(
    run: Run, sources: Sequence[Source], batch_size: int, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Permute each modality of every net that sees several, over the test split.

    Only samples with all modalities are used.

    This is permutation importance (Breiman, "Random Forests", Machine Learning 45, 2001, section
    10) of a fixed net on held-out samples, that is, its model reliance (Fisher, Rudin and Dominici,
    "All Models are Wrong, but Many are Useful", JMLR 20, 2019, section 3) as a difference instead
    of a ratio. Intervals are paired, over samples or groups; the value of a sample is its mean loss
    over the permutations.

    Args:
        run: The run.
        sources: Nets. Those that see only one modality are skipped, because without it they can
            only guess.
        batch_size: Samples at a time.
        bootstrap: Settings of the intervals.

    Returns:
        One row for each net and modality, with `COLUMNS`: ``accuracy`` and ``permuted`` (mean
        accuracy over the permutations), shares in [0, 1] of samples or labelled pixels; their
        difference in ``points`` with ``low`` and ``high``, above 0 if permutation costs accuracy;
        ``nll`` and ``nll_permuted``, and the increase in ``nats``, with ``nats_low`` and
        ``nats_high``. There are no rows if no net sees several modalities or if there is only one
        held-out sample.
    """
    rows = run.rows("test", run.modalities)
    several = [source for source in sources if len(source.modalities) > 1]
    if not several or len(rows) < 2:
        return pd.DataFrame(columns=COLUMNS)
    seen = list(dict.fromkeys(name for source in several for name in source.modalities))
    labelled, unpermuted = _evaluate(
        run, several, _batches(run, rows, seen, batch_size), None, "without permutation"
    )
    groups = sampling_units(run.splits).to_numpy()[rows]
    metrics: dict[tuple[str, str], dict[str, Any]] = {}
    for name in seen:
        affected = [source for source in several if name in source.modalities]
        fixed = _batches(run, rows, [other for other in seen if other != name], batch_size)
        outcomes = []
        for repeat in range(REPEATS):
            order = cycle(len(rows), derive_seed(run.seed, Stream.RELIANCE, name, str(repeat)))
            permuted = _batches(run, rows[order], [name], batch_size)
            title = f"{name} permuted, {repeat + 1}/{REPEATS}"
            outcomes.append(_evaluate(run, affected, fixed, permuted, title)[1])
        for source in (source.title for source in affected):
            mean = np.mean([outcome[source] for outcome in outcomes], axis=0)
            metrics[source, name] = _compare(unpermuted[source], mean, labelled, groups, bootstrap)
    table = [
        {"source": source.title, "modality": name, **metrics[source.title, name]}
        for source in several
        for name in source.modalities
    ]
    return pd.DataFrame(table, columns=COLUMNS)


def cycle(count: int, seed: int) -> np.ndarray:
    """Return a random permutation of ``0 ... count - 1`` without a fixed point.

    It is a single cycle, drawn uniformly: each index maps to its predecessor in a random order.
    """
    order = np.random.default_rng(seed).permutation(count)
    permutation = np.empty_like(order)
    permutation[order] = np.roll(order, 1)
    return permutation


@torch.no_grad()
def _evaluate(
    run: Run, sources: Sequence[Source], fixed: Batches, permuted: Batches | None, title: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Evaluate nets on n samples, optionally with one permuted modality.

    Args:
        run: The run.
        sources: The nets.
        fixed: Labels and the modalities that are not permuted.
        permuted: The permuted modality in batches of the same sizes, or None.
        title: Title of the progress bar.

    Returns:
        ``(n,)`` labelled pixels of each sample (0 or 1 with one label for each sample); and net to
        ``(n, 2)``: the number of these that are correct, and the sum of their negative
        log-likelihoods.
    """
    classes, ignored = len(run.samples.classes), run.samples.ignored_label
    accumulators = {
        source.title: MetricAccumulator(classes, 1, ignored, run.device) for source in sources
    }
    labelled: list[np.ndarray] = []
    outcomes: dict[str, list[np.ndarray]] = {source.title: [] for source in sources}
    pairs = zip(fixed, [None] * len(fixed) if permuted is None else permuted, strict=True)
    for batch, other in progress(pairs, title, "batch", total=len(fixed)):
        inputs = batch.inputs | (other.inputs if other else {})
        for source in sources:
            with autocast(run.device, run.runtime):
                logits = source.logits({name: inputs[name] for name in source.modalities})
            outcome = accumulators[source.title].update(logits, batch.label)
            sums = [outcome["correct"].double(), outcome["nll"] * outcome["labelled"]]
            outcomes[source.title].append(torch.stack(sums, dim=1).cpu().numpy())
        labelled.append(outcome["labelled"].cpu().numpy())
    return np.concatenate(labelled), {name: np.concatenate(of) for name, of in outcomes.items()}


def _compare(
    unpermuted: np.ndarray,
    permuted: np.ndarray,
    labelled: np.ndarray,
    groups: np.ndarray,
    bootstrap: Bootstrap,
) -> dict[str, float]:
    """Return metrics and differences from the outcomes of `_evaluate`, ``(n, 2)`` each."""
    pixels = labelled.sum()
    points = bootstrap.mean(100 * (unpermuted - permuted)[:, 0], labelled, groups)
    nats = bootstrap.mean((permuted - unpermuted)[:, 1], labelled, groups)
    return {
        "accuracy": unpermuted[:, 0].sum() / pixels,
        "permuted": permuted[:, 0].sum() / pixels,
        "points": points["value"],
        "low": points["low"],
        "high": points["high"],
        "nll": unpermuted[:, 1].sum() / pixels,
        "nll_permuted": permuted[:, 1].sum() / pixels,
        "nats": nats["value"],
        "nats_low": nats["low"],
        "nats_high": nats["high"],
    }


def _batches(run: Run, rows: np.ndarray, modalities: Sequence[str], batch_size: int) -> Batches:
    return Batches(run.samples, rows, modalities, batch_size, run.runtime, run.device)
