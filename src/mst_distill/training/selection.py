"""The rules by which an epoch's student is kept."""

from __future__ import annotations

from mst_distill.training.loop import Row, Rule


def _by_accuracy(row: Row) -> tuple[float, ...]:
    # Equal shares of right samples differ in the last digits with the batches they were counted in.
    return (round(row["valid_accuracy"], 9), -row["valid_ce"])


def _by_cross_entropy(row: Row) -> tuple[float, ...]:
    return (-row["valid_ce"],)


def _by_age(row: Row) -> tuple[float, ...]:
    return (row["epoch"],)


SELECTION: dict[str, Rule] = {
    "accuracy": _by_accuracy,
    "ce": _by_cross_entropy,
    "last": _by_age,
}
"""The largest validation accuracy (ties by cross-entropy), the smallest validation cross-entropy
(a trap: it stops a student that learns from labels alone far too early), or the last epoch."""
