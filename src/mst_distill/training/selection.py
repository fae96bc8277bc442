"""The selection criteria: each ranks the epochs of a training by their validation metrics."""

from __future__ import annotations

from mst_distill.training.loop import Criterion, Row


def _by_accuracy(row: Row) -> tuple[float, ...]:
    accuracy = row.get("valid_macro_recall", row["valid_accuracy"])
    # Rounded, because the last digits of an accuracy depend on how the samples are batched.
    return (round(accuracy, 9), -row["valid_ce"])


def _by_cross_entropy(row: Row) -> tuple[float, ...]:
    return (-row["valid_ce"],)


def _by_epoch(row: Row) -> tuple[float, ...]:
    return (row["epoch"],)


SELECTION: dict[str, Criterion] = {
    "accuracy": _by_accuracy,
    "ce": _by_cross_entropy,
    "last": _by_epoch,
}
"""The criterion by name: the largest validation accuracy (ties are broken by cross-entropy), the
smallest validation cross-entropy, or the last epoch. With balanced class weights, the mean recall
of the classes is in the place of the accuracy.

The smallest cross-entropy is a trap: for a student that learns from labels alone it selects an
epoch that is far too early.
"""
