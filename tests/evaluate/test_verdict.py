"""Paired differences with intervals, the sentences on them, and the table of models."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.verdict import (
    calibration_difference,
    comparison_report,
    comparison_table,
    nll_difference,
    paired_difference,
    remarks,
    verdict,
)
from mst_distill.metric import metric_of


def table(
    first: list[int] | np.ndarray, second: list[int] | np.ndarray, labelled: int | np.ndarray = 1
) -> pd.DataFrame:
    """Return predictions of two models for the samples s0, s1, ..."""
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "id": [f"s{row}" for row in range(len(correct))],
                    "group": [f"s{row}" for row in range(len(correct))],
                    "model": model,
                    "correct": correct,
                    "labelled": labelled,
                }
            )
            for model, correct in (("student", first), ("baseline", second))
        ],
        ignore_index=True,
    )


def compare(
    predictions: pd.DataFrame, resamples: int = 4000, confidence: float = 0.95, seed: int = 0
) -> dict[str, float]:
    return paired_difference(
        predictions, "student", "baseline", Bootstrap(resamples, confidence, seed)
    )


def plain_bootstrap(
    gain: np.ndarray, labelled: np.ndarray, confidence: float, resamples: int = 4000
) -> tuple[float, float]:
    """Return the percentile interval over whole samples, computed one draw at a time."""
    rng = np.random.default_rng(99)
    draws = []
    for _ in range(resamples):
        rows = rng.integers(len(gain), size=len(gain))
        draws.append(gain[rows].sum() / labelled[rows].sum())
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


def test_models_that_are_correct_on_the_same_samples_have_no_interval() -> None:
    right = np.random.default_rng(0).integers(2, size=50)
    none = {"difference": 0.0, "low": np.nan, "high": np.nan}
    assert compare(table(right, right)) == pytest.approx(none, nan_ok=True)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_a_student_that_is_always_correct_against_a_baseline_that_never_is(count: int) -> None:
    """The difference is equal on every sample, so its uncertainty cannot be estimated."""
    found = compare(table(np.ones(count), np.zeros(count)))
    none = {"difference": 1.0, "low": np.nan, "high": np.nan}
    assert found == pytest.approx(none, nan_ok=True)
    assert verdict(found, "audio", 0.95) == (
        "The effect of distillation cannot be determined: the audio student differs from the "
        "baseline by +100.00 points, but there is no interval, because the difference is the same "
        "in every resample."
    )


def test_rounding_errors_do_not_make_an_interval() -> None:
    """A third of the pixels of every image is correct; draws differ only in their last digit."""
    labelled = np.random.default_rng(0).integers(1, 1000, size=30)
    draws = Bootstrap(500, 0.95, 0).means(labelled[:, None] / 3, labelled)
    assert 0 < np.ptp(draws) < 1e-12
    found = Bootstrap(500, 0.95, 0).mean(labelled / 3, labelled)
    assert found == pytest.approx({"value": 1 / 3, "low": np.nan, "high": np.nan}, nan_ok=True)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_equals_that_of_a_plain_bootstrap(confidence: float) -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.random(300) < 0.7).astype(int), (rng.random(300) < 0.6).astype(int)
    found = compare(table(first, second), confidence=confidence)
    expected = plain_bootstrap(first - second, np.ones(300), confidence)
    assert found["low"] == pytest.approx(expected[0], abs=0.006)
    assert found["high"] == pytest.approx(expected[1], abs=0.006)


def test_the_interval_is_paired() -> None:
    # Both models are correct on nearly the same half of the samples.
    first = np.arange(400) % 2
    second = np.where(np.arange(400) < 8, 0, first)
    paired = compare(table(first, second))
    assert paired["difference"] == pytest.approx(4 / 400)
    # From the standard deviation of the mean of 4 gains of 1 in 400; unpaired, it would be 0.035.
    assert paired["high"] - paired["low"] == pytest.approx(2 * 1.96 * 0.01 * 0.5, abs=0.004)


def test_the_pixels_of_an_image_are_drawn_together() -> None:
    rng = np.random.default_rng(2)
    labelled = rng.integers(50, 1000, size=40)
    share = rng.random((2, 40))
    first, second = (np.round(labelled * of_model).astype(int) for of_model in share)
    found = compare(table(first, second, labelled))
    assert found["difference"] == pytest.approx((first - second).sum() / labelled.sum())
    low, high = plain_bootstrap(first - second, labelled, 0.95)
    assert found["low"] == pytest.approx(low, abs=0.015)
    assert found["high"] == pytest.approx(high, abs=0.015)
    # Pixels drawn one by one would make the interval far too narrow.
    independent = np.sqrt(2 * 0.25 / labelled.sum())
    assert found["high"] - found["low"] > 5 * (2 * 1.96 * independent)


def test_a_drawn_image_is_weighted_by_its_pixels() -> None:
    # All pixels correct against none: 100 points in every resample.
    labelled = np.array([1, 10, 100, 1000])
    assert np.all(Bootstrap(4000, 0.95, 0).means(labelled[:, None], labelled) == 1)
    assert compare(table(labelled, np.zeros(4), labelled))["difference"] == 1


def test_samples_are_paired_by_id_in_any_order() -> None:
    predictions = table([1, 1, 0, 0, 1, 0, 1, 1], [1, 0, 0, 0, 1, 1, 0, 0])
    baseline = predictions[predictions["model"] == "baseline"].iloc[::-1]
    reversed_table = pd.concat([baseline, predictions[predictions["model"] == "student"]])
    assert compare(reversed_table) == compare(predictions)


def test_other_models_in_the_table_do_not_matter() -> None:
    predictions = table([1, 0, 1], [0, 0, 1])
    others = predictions.assign(model="teacher", correct=0)
    assert compare(pd.concat([others, predictions])) == compare(predictions)


def test_the_draws_depend_only_on_the_seed() -> None:
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
            "against the baseline.",
        ),
        (
            (-0.034, -0.056, -0.012),
            "Distillation hurt the audio student: -3.40 points, 95% interval -5.60 to -1.20 "
            "against the baseline.",
        ),
        (
            (0.004, -0.01, 0.018),
            "Distillation did not measurably help the audio student: +0.40 points, 95% interval "
            "-1.00 to +1.80 against the baseline.",
        ),
    ],
)
def test_the_verdict_states_the_sign_of_the_interval(
    interval: tuple[float, float, float], expected: str
) -> None:
    difference = dict(zip(("difference", "low", "high"), interval, strict=True))
    assert verdict(difference, "audio", 0.95) == expected


@pytest.mark.parametrize("interval", [(0.01, 0.0, 0.02), (-0.01, -0.02, 0.0)])
def test_an_interval_that_touches_zero_is_not_measurable(
    interval: tuple[float, float, float],
) -> None:
    difference = dict(zip(("difference", "low", "high"), interval, strict=True))
    assert "did not measurably help the image student" in verdict(difference, "image", 0.9)
    assert "90% interval" in verdict(difference, "image", 0.9)


def predictions_of(
    student: tuple[np.ndarray, np.ndarray], baseline: tuple[np.ndarray, np.ndarray]
) -> pd.DataFrame:
    """Return predictions with the confidences and likelihoods of two-class models."""
    (of_student, student_correct), (of_baseline, baseline_correct) = student, baseline
    predictions = table(student_correct.astype(int), baseline_correct.astype(int))
    confidence = np.concatenate([of_student, of_baseline])
    likelihood = np.where(predictions["correct"] == 1, confidence, 1 - confidence)
    return predictions.assign(confidence=confidence, nll=-np.log(likelihood))


def draw(
    rng: np.random.Generator, count: int, shape: tuple[float, float], excess: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw confidences from a beta distribution, and correctness with that chance less `excess`."""
    confidence = rng.beta(*shape, count).clip(0.02, 0.98)
    return confidence, rng.random(count) < confidence - excess


def test_the_nll_difference_is_paired_with_the_interval_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(4)
    predictions = predictions_of(draw(rng, 200, (6, 2)), draw(rng, 200, (3, 2)))
    found = nll_difference(predictions, "student", "baseline", Bootstrap(4000, 0.95, 0))
    nll = predictions["nll"].to_numpy().reshape(2, -1)
    assert found["difference"] == pytest.approx(nll[0].mean() - nll[1].mean(), rel=1e-12)
    low, high = plain_bootstrap(nll[0] - nll[1], np.ones(200), 0.95)
    assert [found["low"], found["high"]] == pytest.approx([low, high], abs=0.02)
    reversed_table = predictions.iloc[::-1]
    assert nll_difference(reversed_table, "student", "baseline", Bootstrap(9, 0.95, 0))[
        "difference"
    ] == pytest.approx(found["difference"])


def test_with_dense_labels_every_pixel_has_the_same_weight_in_the_nll() -> None:
    labelled = np.array([10, 1000, 1])
    predictions = table([1, 1, 1], [1, 1, 1], labelled).assign(nll=[1.0, 2, 3, 0.5, 2.5, 9])
    found = nll_difference(predictions, "student", "baseline", Bootstrap(50, 0.95, 0))
    expected = (10 * 0.5 + 1000 * -0.5 + 1 * -6) / 1011
    assert found["difference"] == pytest.approx(expected, rel=1e-12)


def errors_by_hand(confidence: np.ndarray, correct: np.ndarray, bins: int) -> tuple[float, float]:
    """Return the expected and the unbiased squared calibration error, computed bin by bin."""
    expected = squared = 0.0
    for index in range(bins):
        in_bin = (confidence >= index / bins) & (confidence < (index + 1) / bins)
        gaps = correct[in_bin] - confidence[in_bin]
        if not len(gaps):
            continue
        share = len(gaps) / len(confidence)
        expected += share * abs(gaps.mean())
        if len(gaps) > 1:
            squared += share * (gaps.mean() ** 2 - gaps.var(ddof=1) / len(gaps))
    return expected, squared


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_the_calibration_difference_is_that_of_the_errors_by_hand(bins: int) -> None:
    rng = np.random.default_rng(5)
    pair = draw(rng, 60, (6, 2), excess=0.1), draw(rng, 60, (3, 2))
    bootstrap = Bootstrap(500, 0.95, 0)
    found = calibration_difference(predictions_of(*pair), "student", "baseline", bins, bootstrap)
    (student, student_squared), (baseline, baseline_squared) = (
        errors_by_hand(*model, bins) for model in pair
    )
    assert found["difference"] == pytest.approx(student - baseline, rel=1e-10)
    assert found["squared"] == pytest.approx(student_squared - baseline_squared, rel=1e-10)
    assert found["low"] < found["squared"] < found["high"]


def test_two_calibrated_models_do_not_differ_measurably_at_any_confidence() -> None:
    """Their expected calibration errors differ: the less confident model has the larger bias."""
    rng = np.random.default_rng(6)
    found = [
        calibration_difference(
            predictions_of(draw(rng, 150, (2, 2)), draw(rng, 150, (20, 1))),
            *("student", "baseline", 15, Bootstrap(200, 0.95, 0)),
        )
        for _ in range(100)
    ]
    differences, squares = (np.array([f[n] for f in found]) for n in ("difference", "squared"))
    assert differences.mean() > 0.03
    assert abs(squares.mean()) < 3 * squares.std(ddof=1) / 10
    assert sum(f["low"] > 0 or f["high"] < 0 for f in found) <= 5


def test_an_overconfident_model_is_measurably_worse_calibrated() -> None:
    rng = np.random.default_rng(7)
    pair = draw(rng, 400, (6, 2), excess=0.2), draw(rng, 400, (6, 2))
    bootstrap = Bootstrap(500, 0.95, 0)
    assert (
        calibration_difference(predictions_of(*pair), "student", "baseline", 15, bootstrap)["low"]
        > 0
    )
    swapped = calibration_difference(
        predictions_of(*pair[::-1]), "student", "baseline", 15, bootstrap
    )
    assert swapped["high"] < 0


NLL_WORSE = {"difference": 0.12, "low": 0.05, "high": 0.2}
OVERCONFIDENT = {"difference": 0.121, "squared": 0.03, "low": 0.01, "high": 0.05}


NO_NLL = {"difference": 0.01, "low": -0.05, "high": 0.07}


@pytest.mark.parametrize(
    ("nll", "scaled", "calibration", "expected"),
    [
        (
            NLL_WORSE,
            NO_NLL,
            OVERCONFIDENT,
            [
                "The student's likelihood is measurably worse: NLL +0.120 nats, 90% interval "
                "+0.050 to +0.200.",
                "After temperature scaling of both, no difference is measurable: NLL +0.010 nats, "
                "90% interval -0.050 to +0.070.",
                "The student's calibration is measurably worse: expected calibration error +12.10 "
                "points.",
            ],
        ),
        (
            {"difference": -0.12, "low": -0.2, "high": -0.05},
            NLL_WORSE,
            {"difference": -0.02, "squared": -0.03, "low": -0.05, "high": -0.01},
            [
                "The student's likelihood is measurably better: NLL -0.120 nats, 90% interval "
                "-0.200 to -0.050.",
                "After temperature scaling of both, the student's likelihood is measurably worse: "
                "NLL +0.120 nats, 90% interval +0.050 to +0.200.",
                "The student's calibration is measurably better: expected calibration error -2.00 "
                "points.",
            ],
        ),
        (
            NO_NLL,
            {"difference": -0.12, "low": -0.2, "high": -0.05},
            {"difference": 0.121},
            [
                "After temperature scaling of both, the student's likelihood is measurably better: "
                "NLL -0.120 nats, 90% interval -0.200 to -0.050.",
            ],
        ),
        (
            NLL_WORSE,
            {"difference": 0.0, "low": np.nan, "high": np.nan},  # no interval
            {"difference": 0.121},
            [
                "The student's likelihood is measurably worse: NLL +0.120 nats, 90% interval "
                "+0.050 to +0.200.",
                "After temperature scaling of both, no difference is measurable: NLL +0.000 nats.",
            ],
        ),
        (
            {"difference": 0.1, "low": -0.1, "high": 0.3},
            NO_NLL,
            {**OVERCONFIDENT, "low": -0.01},
            [],
        ),
        ({"difference": 0.1, "low": 0.0, "high": 0.3}, NO_NLL, {"difference": 0.121}, []),
        (
            {"difference": 0.1, "low": 0.1, "high": 0.1},
            NO_NLL,
            {**OVERCONFIDENT, "difference": -0.01},
            [],
        ),
    ],
)
def test_remarks_on_the_student_s_probabilities(
    nll: dict[str, float],
    scaled: dict[str, float],
    calibration: dict[str, float],
    expected: list[str],
) -> None:
    assert remarks(nll, scaled, calibration, 0.9) == expected


def test_the_report_has_the_scaled_likelihood_next_to_the_unscaled_one() -> None:
    rng = np.random.default_rng(8)
    predictions = predictions_of(draw(rng, 200, (6, 2)), draw(rng, 200, (3, 2)))
    scaled = predictions["nll"].where(predictions["model"] == "student", 0.25)
    report = comparison_report(
        predictions.assign(nll_scaled=scaled),
        {},
        {"student": "baseline"},
        Bootstrap(200, 0.95, 0),
        15,
        "image",
    )
    student, baseline = predictions["nll"].to_numpy().reshape(2, -1)
    found = [report[f"{name}_over_baseline"]["student"] for name in ("nll", "nll_scaled")]
    assert found[0]["difference"] == pytest.approx(student.mean() - baseline.mean(), rel=1e-12)
    assert found[1]["difference"] == pytest.approx(student.mean() - 0.25, rel=1e-12)
    low, high = plain_bootstrap(student - 0.25, np.ones(200), 0.95)
    assert [found[1]["low"], found[1]["high"]] == pytest.approx([low, high], abs=0.03)


def test_the_table_has_a_row_for_each_model_and_a_column_for_each_scalar_metric() -> None:
    found = comparison_table(
        {
            "student": {"accuracy": 0.9, "nll": 0.3, "precision": {"a": 1.0}},
            "baseline": {"accuracy": 0.8, "nll": 0.4, "precision": {"a": 0.5}},
        }
    )
    expected = pd.DataFrame(
        {"model": ["student", "baseline"], "accuracy": [0.9, 0.8], "nll": [0.3, 0.4]}
    )
    pd.testing.assert_frame_equal(found, expected)


def test_a_difference_of_0_on_every_sample_has_no_verdict() -> None:
    same = {"difference": 0.0, "low": 0.0, "high": 0.0}
    assert verdict(same, "audio", 0.95).startswith("The effect of distillation cannot be")


def test_the_verdict_names_another_metric_and_its_unit() -> None:
    difference = {"difference": 0.012, "low": 0.004, "high": 0.02}
    assert verdict(difference, "audio", 0.95, metric_of("macro_f1")) == (
        "Distillation helped the audio student: macro F1 +1.20 points, 95% interval +0.40 to +2.00 "
        "against the baseline."
    )
    assert verdict(difference, "audio", 0.95, metric_of("nll")) == (
        "Distillation helped the audio student: log-likelihood in nats +0.012, 95% interval +0.004 "
        "to +0.020 against the baseline."
    )
    same = {"difference": 0.0, "low": np.nan, "high": np.nan}
    assert verdict(same, "audio", 0.95, metric_of("auroc")) == (
        "The effect of distillation cannot be determined: the audio student differs from the "
        "baseline by AUROC +0.00 points, but there is no interval, because the difference is the "
        "same in every resample."
    )
