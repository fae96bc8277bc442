"""The limits of a student, found by rules."""

from __future__ import annotations

import numpy as np
import pytest

from mst_distill.report.limits import limits
from toy_reports import results_of

GOOD = (np.eye(3, dtype=int) * 20 + 1).tolist()
"""63 of 69 samples are correct."""


def sentences(confusion=GOOD, confidence=63 / 69, groups=10, protocol="heldout", limit="all", **of):
    return limits(results_of(confusion, confidence, **of), groups, protocol, limit)


def test_a_good_student_has_none() -> None:
    assert sentences() == []


def test_classes_below_chance_are_named() -> None:
    # Of three classes, a guess finds a third of the samples: 2 of 6 is not below that, 1 of 6 is.
    found = sentences([[20, 0, 0], [2, 2, 2], [5, 0, 1]], 23 / 32)
    (sentence,) = [text for text in found if "random guess" in text]
    assert sentence == (
        "It recognises 1 of 3 classes less often than a random guess would (recall below 33.3%): c."
    )


def test_many_classes_are_counted() -> None:
    confusion = np.zeros((13, 13), dtype=int)
    confusion[:, 0] = 1
    found = sentences(confusion, 1 / 13)
    assert any("12 of 13 classes" in text and "k and 2 more." in text for text in found)


def test_a_student_no_better_than_the_commonest_class_is_named() -> None:
    (sentence,) = sentences([[7, 1], [3, 1]], 8 / 12)[:1]
    assert sentence == (
        "Its accuracy (66.7%) is not above that of always predicting the commonest class, a "
        "(66.7%)."
    )


@pytest.mark.parametrize(
    ("confidence", "how"), [(0.8, "underconfident"), (0.99, "overconfident"), (0.95, None)]
)
def test_wrong_confidence_has_a_direction(confidence: float, how: str | None) -> None:
    found = sentences(confidence=confidence)
    assert [how in text for text in found if "temperature scaling it is" in text] == (
        [True] if how else []
    )
    assert any("calibration error is" in text for text in found) == (how is not None)


def test_the_scaled_calibration_error_counts_where_there_is_one() -> None:
    found = sentences(confidence=0.8, calibration_error_scaled=0.04)
    assert not any("not reliable" in text for text in found)
    (sentence,) = sentences(calibration_error_scaled=0.062)
    assert "calibration error is 6.2% after temperature scaling" in sentence


def test_few_groups_splits_at_random_and_parts_of_the_data_are_named() -> None:
    assert "only 5 groups (" in sentences(groups=5)[0]
    assert "over these groups; with so few, they are rough" in sentences(groups=5)[0]
    assert "only 1 group (" in sentences(groups=1)[0]
    assert "over samples, and say nothing about other groups" in sentences(groups=4)[0]
    assert len(sentences(protocol="random", groups=2)) == 1
    assert "at random" in sentences(protocol="random")[0]
    assert sentences(limit=300) == ["Only 300 samples of the benchmark were used."]
