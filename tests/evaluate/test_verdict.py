"""The paired difference and its interval, the sentence about it, and the table of models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.verdict import (
    calibration_difference,
    comparison_table,
    nll_difference,
    paired_difference,
    remarks,
    verdict,
)


def table(
    first: list[int] | np.ndarray, second: list[int] | np.ndarray, judged: int | np.ndarray = 1
) -> pd.DataFrame:
    """Predictions of two models about the samples s0, s1, ..."""
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "id": [f"s{row}" for row in range(len(correct))],
                    "model": model,
                    "correct": correct,
                    "judged": judged,
                }
            )
            for model, correct in (("student", first), ("control", second))
        ],
        ignore_index=True,
    )


def compare(
    predictions: pd.DataFrame, resamples: int = 4000, confidence: float = 0.95, seed: int = 0
) -> dict[str, float]:
    return paired_difference(
        predictions, "student", "control", Bootstrap(resamples, confidence, seed)
    )


def bootstrap(
    gain: np.ndarray, judged: np.ndarray, confidence: float, resamples: int = 4000
) -> tuple[float, float]:
    """The percentile interval over whole samples, one draw at a time."""
    rng = np.random.default_rng(99)
    draws = []
    for _ in range(resamples):
        rows = rng.integers(len(gain), size=len(gain))
        draws.append(gain[rows].sum() / judged[rows].sum())
    low, high = np.percentile(draws, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(low), float(high)


def test_the_difference_is_that_of_the_accuracies() -> None:
    found = compare(table([1, 1, 1, 0, 1], [1, 0, 0, 1, 1]))
    assert found["difference"] == pytest.approx(4 / 5 - 3 / 5)


def test_the_interval_of_two_samples_by_hand() -> None:
    # Gains 1 and 0, drawn twice: means 0, 1/2 and 1 with chances 1/4, 1/2 and 1/4.
    predictions = table([1, 0], [0, 0])
    assert compare(predictions, confidence=0.95) == {"difference": 0.5, "low": 0.0, "high": 1.0}
    # Three tenths of the draws lie on either side of 1/2, so both ends of 40 % are 1/2.
    without_width = {"difference": 0.5, "low": np.nan, "high": np.nan}
    assert compare(predictions, confidence=0.4) == pytest.approx(without_width, nan_ok=True)


def test_models_that_are_right_about_the_same_samples_have_no_interval() -> None:
    right = np.random.default_rng(0).integers(2, size=50)
    none = {"difference": 0.0, "low": np.nan, "high": np.nan}
    assert compare(table(right, right)) == pytest.approx(none, nan_ok=True)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_a_student_that_is_always_right_against_a_control_that_never_is(count: int) -> None:
    """One held-out sample says so in every draw, and so do forty: nobody knows how surely."""
    found = compare(table(np.ones(count), np.zeros(count)))
    none = {"difference": 1.0, "low": np.nan, "high": np.nan}
    assert found == pytest.approx(none, nan_ok=True)
    assert verdict(found, "audio", 0.95) == (
        "Nothing can be told of distillation: the audio student differs from the control by "
        "+100.00 points, and there is no interval, for the difference is the same on every "
        "held-out sample."
    )


def test_rounding_makes_no_interval() -> None:
    """A third of every image's pixels, in images of many sizes: draws differ in the last digit."""
    judged = np.random.default_rng(0).integers(1, 1000, size=30)
    draws = Bootstrap(500, 0.95, 0).means(judged[:, None] / 3, judged)
    assert 0 < np.ptp(draws) < 1e-12
    found = Bootstrap(500, 0.95, 0).mean(judged / 3, judged)
    assert found == pytest.approx({"value": 1 / 3, "low": np.nan, "high": np.nan}, nan_ok=True)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_is_that_of_a_plain_bootstrap(confidence: float) -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.random(300) < 0.7).astype(int), (rng.random(300) < 0.6).astype(int)
    found = compare(table(first, second), confidence=confidence)
    expected = bootstrap(first - second, np.ones(300), confidence)
    assert found["low"] == pytest.approx(expected[0], abs=0.006)
    assert found["high"] == pytest.approx(expected[1], abs=0.006)


def test_the_interval_uses_the_pairs() -> None:
    # Both models are right about nearly the same half of the samples.
    first = np.arange(400) % 2
    second = np.where(np.arange(400) < 8, 0, first)
    paired = compare(table(first, second))
    assert paired["difference"] == pytest.approx(4 / 400)
    # Deviation of the mean of 4 gains of 1 among 400; unpaired it were 0.035.
    assert paired["high"] - paired["low"] == pytest.approx(2 * 1.96 * 0.01 * 0.5, abs=0.004)


def test_the_pixels_of_an_image_are_drawn_together() -> None:
    rng = np.random.default_rng(2)
    judged = rng.integers(50, 1000, size=40)
    share = rng.random((2, 40))
    first, second = (np.round(judged * part).astype(int) for part in share)
    found = compare(table(first, second, judged))
    assert found["difference"] == pytest.approx((first - second).sum() / judged.sum())
    low, high = bootstrap(first - second, judged, 0.95)
    assert found["low"] == pytest.approx(low, abs=0.015)
    assert found["high"] == pytest.approx(high, abs=0.015)
    # Pixels drawn one by one would make the interval far too narrow.
    alone = np.sqrt(2 * 0.25 / judged.sum())
    assert found["high"] - found["low"] > 5 * (2 * 1.96 * alone)


def test_a_drawn_image_counts_with_all_its_pixels() -> None:
    # Right about every pixel against right about none: 100 points, whatever is drawn.
    judged = np.array([1, 10, 100, 1000])
    assert np.all(Bootstrap(4000, 0.95, 0).means(judged[:, None], judged) == 1)
    assert compare(table(judged, np.zeros(4), judged))["difference"] == 1


def test_samples_are_paired_by_id_whatever_their_order() -> None:
    predictions = table([1, 1, 0, 0, 1, 0, 1, 1], [1, 0, 0, 0, 1, 1, 0, 0])
    control = predictions[predictions["model"] == "control"].iloc[::-1]
    turned = pd.concat([control, predictions[predictions["model"] == "student"]])
    assert compare(turned) == compare(predictions)


def test_other_models_in_the_table_do_not_matter() -> None:
    predictions = table([1, 0, 1], [0, 0, 1])
    others = predictions.assign(model="teacher", correct=0)
    assert compare(pd.concat([others, predictions])) == compare(predictions)


def test_the_draws_come_from_the_generator_given() -> None:
    rng = np.random.default_rng(3)
    predictions = table(rng.integers(2, size=57), rng.integers(2, size=57))
    few = [compare(predictions, resamples=30, seed=seed) for seed in (0, 0, 1)]
    assert few[0] == few[1]
    assert few[0] != few[2]


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (
            (0.034, 0.012, 0.056),
            "Distillation helped the audio student: +3.40 points, 95% interval +1.20 to +5.60 "
            "against the control.",
        ),
        (
            (-0.034, -0.056, -0.012),
            "Distillation hurt the audio student: -3.40 points, 95% interval -5.60 to -1.20 "
            "against the control.",
        ),
        (
            (0.004, -0.01, 0.018),
            "Distillation did not measurably help the audio student: +0.40 points, 95% interval "
            "-1.00 to +1.80 against the control.",
        ),
    ],
)
def test_the_verdict_is_one_of_three_sentences(
    interval: tuple[float, float, float], expected: str
) -> None:
    difference = dict(zip(("difference", "low", "high"), interval, strict=True))
    assert verdict(difference, "audio", 0.95) == expected


@pytest.mark.parametrize("interval", [(0.01, 0.0, 0.02), (-0.01, -0.02, 0.0)])
def test_an_interval_that_touches_zero_shows_nothing(interval: tuple[float, float, float]) -> None:
    difference = dict(zip(("difference", "low", "high"), interval, strict=True))
    assert "did not measurably help the image student" in verdict(difference, "image", 0.9)
    assert "90% interval" in verdict(difference, "image", 0.9)


def probable(
    student: tuple[np.ndarray, np.ndarray], control: tuple[np.ndarray, np.ndarray]
) -> pd.DataFrame:
    """Predictions with confidences and the likelihoods of a two-class model that has them."""
    (own, right), (other, well) = student, control
    predictions = table(right.astype(int), well.astype(int))
    confidence = np.concatenate([own, other])
    likely = np.where(predictions["correct"] == 1, confidence, 1 - confidence)
    return predictions.assign(confidence=confidence, nll=-np.log(likely))


def draw(
    rng: np.random.Generator, count: int, sure: tuple[float, float], over: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Confidences from a beta distribution, right with that chance less `over`."""
    confidence = rng.beta(*sure, count).clip(0.02, 0.98)
    return confidence, rng.random(count) < confidence - over


def test_the_difference_of_likelihoods_is_paired_and_its_interval_a_plain_bootstrap_s() -> None:
    rng = np.random.default_rng(4)
    predictions = probable(draw(rng, 200, (6, 2)), draw(rng, 200, (3, 2)))
    found = nll_difference(predictions, "student", "control", Bootstrap(4000, 0.95, 0))
    nll = predictions["nll"].to_numpy().reshape(2, -1)
    assert found["difference"] == pytest.approx(nll[0].mean() - nll[1].mean(), rel=1e-12)
    low, high = bootstrap(nll[0] - nll[1], np.ones(200), 0.95)
    assert [found["low"], found["high"]] == pytest.approx([low, high], abs=0.02)
    turned = predictions.iloc[::-1]
    assert nll_difference(turned, "student", "control", Bootstrap(9, 0.95, 0))[
        "difference"
    ] == pytest.approx(found["difference"])


def test_of_dense_labels_every_pixel_has_the_same_share_in_the_likelihood() -> None:
    judged = np.array([10, 1000, 1])
    predictions = table([1, 1, 1], [1, 1, 1], judged).assign(nll=[1.0, 2, 3, 0.5, 2.5, 9])
    found = nll_difference(predictions, "student", "control", Bootstrap(50, 0.95, 0))
    expected = (10 * 0.5 + 1000 * -0.5 + 1 * -6) / 1011
    assert found["difference"] == pytest.approx(expected, rel=1e-12)


def errors_by_hand(confidence: np.ndarray, correct: np.ndarray, bins: int) -> tuple[float, float]:
    """Expected calibration error, and the squared one without bias, bin by bin."""
    expected = squared = 0.0
    for number in range(bins):
        here = (confidence >= number / bins) & (confidence < (number + 1) / bins)
        gaps = correct[here] - confidence[here]
        if not len(gaps):
            continue
        share = len(gaps) / len(confidence)
        expected += share * abs(gaps.mean())
        if len(gaps) > 1:
            squared += share * (gaps.mean() ** 2 - gaps.var(ddof=1) / len(gaps))
    return expected, squared


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_the_difference_of_calibration_errors_is_that_of_both_by_hand(bins: int) -> None:
    rng = np.random.default_rng(5)
    pair = draw(rng, 60, (6, 2), over=0.1), draw(rng, 60, (3, 2))
    chance = Bootstrap(500, 0.95, 0)
    found = calibration_difference(probable(*pair), "student", "control", bins, chance)
    (own, own_squared), (other, other_squared) = (errors_by_hand(*model, bins) for model in pair)
    assert found["difference"] == pytest.approx(own - other, rel=1e-10)
    assert found["squared"] == pytest.approx(own_squared - other_squared, rel=1e-10)
    assert found["low"] < found["squared"] < found["high"]


def test_two_calibrated_models_do_not_differ_however_sure_they_are() -> None:
    """The errors themselves do: chance makes that of the less confident one larger."""
    rng = np.random.default_rng(6)
    found = [
        calibration_difference(
            probable(draw(rng, 150, (2, 2)), draw(rng, 150, (20, 1))),
            *("student", "control", 15, Bootstrap(200, 0.95, 0)),
        )
        for _ in range(100)
    ]
    differences, squares = (np.array([f[n] for f in found]) for n in ("difference", "squared"))
    assert differences.mean() > 0.03
    assert abs(squares.mean()) < 3 * squares.std(ddof=1) / 10
    assert sum(f["low"] > 0 or f["high"] < 0 for f in found) <= 5


def test_a_model_that_is_far_too_sure_is_measurably_worse_calibrated() -> None:
    rng = np.random.default_rng(7)
    pair = draw(rng, 400, (6, 2), over=0.2), draw(rng, 400, (6, 2))
    chance = Bootstrap(500, 0.95, 0)
    assert calibration_difference(probable(*pair), "student", "control", 15, chance)["low"] > 0
    turned = calibration_difference(probable(*pair[::-1]), "student", "control", 15, chance)
    assert turned["high"] < 0


NLL_WORSE = {"difference": 0.12, "low": 0.05, "high": 0.2}
SURER = {"difference": 0.121, "squared": 0.03, "low": 0.01, "high": 0.05}


@pytest.mark.parametrize(
    ("nll", "calibration", "expected"),
    [
        (
            NLL_WORSE,
            SURER,
            [
                "Its likelihood is measurably worse: NLL +0.120 nats, 90% interval +0.050 to "
                "+0.200.",
                "Its calibration is measurably worse: expected calibration error +12.10 points.",
            ],
        ),
        (
            {"difference": -0.12, "low": -0.2, "high": -0.05},
            {"difference": -0.02, "squared": -0.03, "low": -0.05, "high": -0.01},
            [
                "Its likelihood is measurably better: NLL -0.120 nats, 90% interval -0.200 to "
                "-0.050.",
                "Its calibration is measurably better: expected calibration error -2.00 points.",
            ],
        ),
        ({"difference": 0.1, "low": -0.1, "high": 0.3}, {**SURER, "low": -0.01}, []),
        ({"difference": 0.1, "low": 0.0, "high": 0.3}, {"difference": 0.121}, []),
        ({"difference": 0.1, "low": 0.1, "high": 0.1}, {**SURER, "difference": -0.01}, []),
    ],
)
def test_what_is_said_of_the_student_s_probabilities(
    nll: dict[str, float], calibration: dict[str, float], expected: list[str]
) -> None:
    assert remarks(nll, calibration, 0.9) == expected


def test_the_table_has_a_row_a_model_and_a_column_a_number() -> None:
    found = comparison_table(
        {
            "student": {"accuracy": 0.9, "nll": 0.3, "precision": {"a": 1.0}},
            "control": {"accuracy": 0.8, "nll": 0.4, "precision": {"a": 0.5}},
        }
    )
    expected = pd.DataFrame(
        {"model": ["student", "control"], "accuracy": [0.9, 0.8], "nll": [0.3, 0.4]}
    )
    pd.testing.assert_frame_equal(found, expected)


def test_a_difference_that_is_nothing_at_all_tells_nothing() -> None:
    same = {"difference": 0.0, "low": 0.0, "high": 0.0}
    assert verdict(same, "audio", 0.95).startswith("Nothing can be told of distillation")
