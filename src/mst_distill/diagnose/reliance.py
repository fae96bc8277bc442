"""What a net relies on: what it loses when one modality is permuted among the held-out samples.

How large a gradient times input is tells of an input's scale and width, not of its use; what is
permuted keeps both, and only no longer belongs to the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from mst_distill.artifacts.progress import progress
from mst_distill.data.samples import rows_of
from mst_distill.diagnose.knowledge_sources import Source
from mst_distill.evaluate.accumulate import Tally
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.training.batches import Batches
from mst_distill.training.device import autocast
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed

REPEATS = 5
"""Permutations whose results are averaged for every sample."""

COLUMNS = [
    *("source", "modality", "accuracy", "permuted", "points", "low", "high"),
    *("nll", "nll_permuted", "nats", "nats_low", "nats_high"),
]


def reliance_table(
    run: Run, sources: Sequence[Source], batch_size: int, bootstrap: Bootstrap
) -> pd.DataFrame:
    """Permute each modality of every net that sees several, over the whole test split.

    This is permutation importance (Breiman, "Random Forests", Machine Learning 45, 2001, section
    10), here of a fixed net on held-out samples: its model reliance (Fisher, Rudin and Dominici,
    "All Models are Wrong, but Many are Useful", JMLR 20, 2019, section 3) as a difference instead
    of a ratio. Intervals are over samples, paired: of each sample counts what it loses in the mean
    over the permutations.

    Args:
        run: The run.
        sources: Nets; those that see one modality alone are passed over, for without it they could
            only guess.
        batch_size: Samples at a time.
        bootstrap: Of the intervals.

    Returns:
        A row a net and modality, `COLUMNS`: ``accuracy`` and, in the mean over the permutations,
        ``permuted``, shares in [0, 1] of samples or judged pixels; their difference in ``points``
        with ``low`` and ``high``, above 0 where permuting costs; ``nll`` and ``nll_permuted``, and
        what is added to it in ``nats``. No rows where no net sees several modalities, or where one
        held-out sample has no other to change places with.
    """
    rows = rows_of(run.splits, "test")
    several = [source for source in sources if len(source.modalities) > 1]
    if not several or len(rows) < 2:
        return pd.DataFrame(columns=COLUMNS)
    seen = list(dict.fromkeys(name for source in several for name in source.modalities))
    judged, whole = _ask(run, several, _batches(run, rows, seen, batch_size), None, "as it is")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name in seen:
        within = [source for source in several if name in source.modalities]
        own = _batches(run, rows, [other for other in seen if other != name], batch_size)
        permuted = []
        for repeat in range(REPEATS):
            order = cycle(len(rows), derive_seed(run.seed, "reliance", name, str(repeat)))
            other = _batches(run, rows[order], [name], batch_size)
            title = f"{name} permuted, {repeat + 1}/{REPEATS}"
            permuted.append(_ask(run, within, own, other, title)[1])
        for source in (source.title for source in within):
            mean = np.mean([told[source] for told in permuted], axis=0)
            found[source, name] = _figures(whole[source], mean, judged, bootstrap)
    table = [
        {"source": source.title, "modality": name, **found[source.title, name]}
        for source in several
        for name in source.modalities
    ]
    return pd.DataFrame(table, columns=COLUMNS)


def cycle(count: int, seed: int) -> np.ndarray:
    """A random permutation of ``0 ... count - 1`` in which nobody stays in place.

    It is a single cycle, drawn evenly among all: each gets what the one before it in a random order
    has.
    """
    order = np.random.default_rng(seed).permutation(count)
    place = np.empty_like(order)
    place[order] = np.roll(order, 1)
    return place


@torch.no_grad()
def _ask(
    run: Run, sources: Sequence[Source], own: Batches, other: Batches | None, title: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """How some nets fare on n samples, one modality of which may be of others.

    Args:
        run: The run.
        sources: The nets.
        own: Labels, and the modalities that belong to them.
        other: The one that does not, in as many batches of as many samples.
        title: What is done, for the progress bar.

    Returns:
        ``(n,)`` judged pixels of each sample, 1 for one label a sample; and net to ``(n, 2)``: of
        these the right ones, and the sum of the negative log-likelihood over them.
    """
    classes, ignored = len(run.samples.classes), run.samples.ignored_label
    tallies = {source.title: Tally(classes, 1, ignored, run.device) for source in sources}
    judged: list[np.ndarray] = []
    told: dict[str, list[np.ndarray]] = {source.title: [] for source in sources}
    pairs = zip(own, [None] * len(own) if other is None else other, strict=True)
    for batch, strange in progress(pairs, title, "batch", total=len(own)):
        inputs = batch.inputs | (strange.inputs if strange else {})
        for source in sources:
            with autocast(run.device, run.runtime):
                logits = source.say({name: inputs[name] for name in source.modalities})
            fared = tallies[source.title].update(logits, batch.label)
            both = [fared["correct"].double(), fared["nll"] * fared["judged"]]
            told[source.title].append(torch.stack(both, dim=1).cpu().numpy())
        judged.append(fared["judged"].cpu().numpy())
    return np.concatenate(judged), {name: np.concatenate(of) for name, of in told.items()}


def _figures(
    whole: np.ndarray, permuted: np.ndarray, judged: np.ndarray, bootstrap: Bootstrap
) -> dict[str, float]:
    """From right pixels and negative log-likelihoods, ``(n, 2)``, before and after."""
    pixels = judged.sum()
    points = bootstrap.mean(100 * (whole - permuted)[:, 0], judged)
    nats = bootstrap.mean((permuted - whole)[:, 1], judged)
    return {
        "accuracy": whole[:, 0].sum() / pixels,
        "permuted": permuted[:, 0].sum() / pixels,
        "points": points["value"],
        "low": points["low"],
        "high": points["high"],
        "nll": whole[:, 1].sum() / pixels,
        "nll_permuted": permuted[:, 1].sum() / pixels,
        "nats": nats["value"],
        "nats_low": nats["low"],
        "nats_high": nats["high"],
    }


def _batches(run: Run, rows: np.ndarray, modalities: Sequence[str], batch_size: int) -> Batches:
    return Batches(run.samples, rows, modalities, batch_size, run.runtime, run.device)
