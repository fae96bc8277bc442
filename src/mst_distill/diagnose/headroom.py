"""Headroom: what a perfect router would gain among a group of sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mst_distill.diagnose.prediction_matrix import PredictionMatrix
from mst_distill.evaluate.bootstrap import Bootstrap

NEGLIGIBLE = 0.01
"""With less headroom in accuracy than this (one point), routing cannot matter."""


def headroom(
    matrix: PredictionMatrix,
    sources: Sequence[str],
    mixture: str,
    others: Sequence[str],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Compare an oracle router with the best single source and the uniform mixture.

    The oracle uses the label to select the best source for every held-out sample. With one label
    for each sample, it is correct where any source is correct. No router that selects one source
    can be better.

    Args:
        matrix: Outcomes of all models that are named here.
        sources: Models that the oracle selects from.
        mixture: The model that averages the probabilities of the sources with equal weights.
        others: Models that are reported in addition.
        bootstrap: Settings of the intervals.

    Returns:
        ``best_single`` (the source with the best accuracy), ``disputed`` (the share of samples on
        which the sources differ in the number of correct predictions), and ``accuracy``
        and ``nll``. These two map ``oracle``, ``uniform mixture``, ``best single``, each of
        `others` and ``headroom`` to ``value``, ``low`` and ``high``. Headroom is the gain of the
        oracle over the better one of the best single source and the mixture. For NLL it is at least
        0 nats. For accuracy it can be negative, because a mixture can be correct where every source
        is wrong.
    """
    single = matrix.take(sources)
    disputed = single.correct.min(axis=1) < single.correct.max(axis=1)
    added = matrix.take([mixture, *others])
    pixels = matrix.labelled[:, None]
    metrics = {
        "accuracy": (single.correct, added.correct, 1),
        "nll": (single.nll * pixels, added.nll * pixels, -1),
    }
    return {
        "best_single": sources[int(single.accuracy().argmax())],
        "disputed": float(disputed.mean()),
        **{
            name: _with_intervals(of_sources, of_added, sign, others, matrix, bootstrap)
            for name, (of_sources, of_added, sign) in metrics.items()
        },
    }


def _with_intervals(
    of_sources: np.ndarray,
    of_added: np.ndarray,
    sign: int,
    others: Sequence[str],
    matrix: PredictionMatrix,
    bootstrap: Bootstrap,
) -> dict[str, dict[str, float]]:
    """Return a metric by model name; `sign` is 1 if higher is better and -1 if lower is better."""
    oracle = sign * (sign * of_sources).max(axis=1, keepdims=True)
    columns = np.hstack([oracle, of_sources, of_added])
    means_of_all = columns.sum(axis=0, keepdims=True) / matrix.labelled.sum()
    draws = bootstrap.means(columns, matrix.labelled, matrix.groups)

    def by_name(means: np.ndarray) -> dict[str, np.ndarray]:
        # The best single source is selected again in every resample.
        best = sign * (sign * means[:, 1 : 1 + of_sources.shape[1]]).max(axis=1)
        mixed, *rest = means[:, 1 + of_sources.shape[1] :].T
        oracle = means[:, 0]
        return {
            "oracle": oracle,
            "uniform mixture": mixed,
            "best single": best,
            **dict(zip(others, rest, strict=True)),
            "headroom": sign * oracle - np.maximum(sign * best, sign * mixed),
        }

    values, drawn = by_name(means_of_all), by_name(draws)
    return {name: bootstrap.interval(values[name][0], drawn[name]) for name in values}
