"""What a student should not be trusted with, found by rules from the results of its run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mst_distill.evaluate.bootstrap import MIN_GROUPS
from mst_distill.evaluate.by_value import sentences_by_value
from mst_distill.report.tables import STUDENT, RunResults

LARGE_ERROR = 0.05
"""A calibration error above this is stated, and so is a difference between mean confidence and
accuracy above this."""

FEW_GROUPS = 10
"""With fewer groups in the test split, an interval over groups is a rough one."""

LISTED = 10
"""The largest number of classes that are named."""


def limits(results: RunResults, test_groups: int, protocol: str, limit: object) -> list[str]:
    """Return a sentence for every rule that the student violates.

    Args:
        results: The run.
        test_groups: Number of groups in the test split.
        protocol: ``heldout``, ``grouped`` or ``random``.
        limit: The number of samples that were used, or ``all``.
    """
    return [
        *_of_accuracy(results),
        *_of_classes(results),
        *_of_calibration(results),
        *sentences_by_value(results.metrics.get("by", {}), results.metric),
        *_of_data(test_groups, protocol, limit),
    ]


def _of_accuracy(results: RunResults) -> Iterator[str]:
    commonest, accuracy = results.metrics["commonest_class"], results.models[STUDENT]["accuracy"]
    if accuracy <= commonest["accuracy"]:
        yield (
            f"Its accuracy ({accuracy:.1%}) is not above that of always predicting the commonest "
            f"class, {commonest['class']} ({commonest['accuracy']:.1%})."
        )


def _of_classes(results: RunResults) -> Iterator[str]:
    recall = np.array(list(results.models[STUDENT]["recall"].values()))
    present = results.targets > 0
    chance = 1 / max(len(recall), 1)
    below = [results.classes[at] for at in np.flatnonzero(present & (recall < chance))]
    if below:
        yield (
            f"It recognises {len(below)} of {present.sum()} classes less often than a random guess "
            f"would (recall below {chance:.1%}): {_listed(below)}."
        )


def _of_calibration(results: RunResults) -> Iterator[str]:
    student = results.models[STUDENT]
    scaled = "calibration_error_scaled" in student
    error = student["calibration_error_scaled" if scaled else "calibration_error"]
    if error > LARGE_ERROR:
        how = "after temperature scaling" if scaled else "without temperature scaling"
        yield (
            f"Its confidence is not reliable: the expected calibration error is {error:.1%} {how}."
        )
    bins = results.metric_counts[STUDENT]["calibration"]
    count = max(sum(bins["count"]), 1)
    confidence, accuracy = sum(bins["confidence"]) / count, sum(bins["correct"]) / count
    if abs(confidence - accuracy) > LARGE_ERROR:
        how = "underconfident" if confidence < accuracy else "overconfident"
        yield (
            f"Without temperature scaling it is {how}: its mean confidence is {confidence:.1%}, "
            f"its accuracy {accuracy:.1%}."
        )


def _of_data(test_groups: int, protocol: str, limit: object) -> Iterator[str]:
    if protocol == "random":
        yield (
            "Samples were assigned to splits at random, so that samples of one group may be in the "
            "training and the test split. On new groups it may be less accurate."
        )
    elif test_groups < MIN_GROUPS:
        yield (
            f"The test split has only {test_groups} group{'s' * (test_groups != 1)} (what splits "
            f"must not share, for example a speaker or an actor). The intervals are over samples, "
            f"and say nothing about other groups."
        )
    elif test_groups < FEW_GROUPS:
        yield (
            f"The test split has only {test_groups} groups (what splits must not share, for "
            f"example a speaker or an actor). The intervals are over these groups; with so few, "
            f"they are rough and rather too narrow."
        )
    if limit != "all":
        yield f"Only {limit} samples of the benchmark were used."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"
