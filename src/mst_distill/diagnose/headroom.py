"""What a perfect router would gain among some sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mst_distill.diagnose.prediction_matrix import Outcomes
from mst_distill.evaluate.bootstrap import Bootstrap

LITTLE = 0.01
"""Below so much headroom in accuracy routing cannot matter: one point."""


def headroom(
    outcomes: Outcomes,
    sources: Sequence[str],
    mixture: str,
    others: Sequence[str],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Hold the oracle's choice by label against the best single source and the uniform mixture.

    The oracle takes for every held-out sample the source that does best on it: for one label a
    sample it is right where any source is. No router can do better, whatever it sees.

    Args:
        outcomes: Of all that are named.
        sources: Among whom is chosen.
        mixture: The model that weighs their probabilities alike.
        others: Models to tell beside them.
        bootstrap: Of the intervals.

    Returns:
        ``best_single`` (the name of the source with the best accuracy), ``disputed`` (the share of
        samples that some of them have right and some wrong; of dense labels, that they have
        unequally many pixels right of), and ``accuracy`` and ``nll``: to ``oracle``,
        ``uniform mixture``, ``best single``, every one of `others` and ``headroom`` their
        ``value``, ``low`` and ``high``. Headroom is at least 0 in nats: by so much the NLL of the
        better of the two others is larger. Of accuracy it may be below 0, for a mixture can be
        right where every source is wrong.
    """
    among = outcomes.take(sources)
    disputed = among.correct.min(axis=1) < among.correct.max(axis=1)
    beside = outcomes.take([mixture, *others])
    pixels = outcomes.judged[:, None]
    parts = {
        "accuracy": (among.correct, beside.correct, 1),
        "nll": (among.nll * pixels, beside.nll * pixels, -1),
    }
    return {
        "best_single": sources[int(among.accuracy().argmax())],
        "disputed": float(disputed.mean()),
        **{
            name: _figures(mine, theirs, sign, others, outcomes.judged, bootstrap)
            for name, (mine, theirs, sign) in parts.items()
        },
    }


def _figures(
    among: np.ndarray,
    beside: np.ndarray,
    sign: int,
    others: Sequence[str],
    judged: np.ndarray,
    bootstrap: Bootstrap,
) -> dict[str, dict[str, float]]:
    """Figures by name; the `sign` is 1 where more is better and -1 where less is."""
    oracle = sign * (sign * among).max(axis=1, keepdims=True)
    columns = np.hstack([oracle, among, beside])
    whole = columns.sum(axis=0, keepdims=True) / judged.sum()
    draws = bootstrap.means(columns, judged)

    def tell(means: np.ndarray) -> dict[str, np.ndarray]:
        best = sign * (sign * means[:, 1 : 1 + among.shape[1]]).max(axis=1)
        mixed, *rest = means[:, 1 + among.shape[1] :].T
        oracle = means[:, 0]
        return {
            "oracle": oracle,
            "uniform mixture": mixed,
            "best single": best,
            **dict(zip(others, rest, strict=True)),
            "headroom": sign * oracle - np.maximum(sign * best, sign * mixed),
        }

    told, drawn = tell(whole), tell(draws)
    return {name: bootstrap.interval(told[name][0], drawn[name]) for name in told}
