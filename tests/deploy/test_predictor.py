"""A student in use: probabilities, abstention, and values that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mst_distill.artifacts.student_input import StudentInput
from mst_distill.deploy.predictor import Predictor
from mst_distill.media.feature_files import Features
from mst_distill.parameters import Runtime

CPU = Runtime(device="cpu")


class Identity(nn.Module):
    """The inputs are the logits."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def predictor(temperature: float = 1.0, least_confidence: float = 0.0) -> Predictor:
    described = StudentInput("m", (3,), False, ("a", "b", "c"), None, temperature, "", None)
    return Predictor(Identity(), described, Features((3,)), least_confidence, CPU)


def logits_of(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities, np.float32))


def test_probabilities_are_those_of_the_scaled_logits() -> None:
    """softmax(log(p) / T) is p^(1 / T), normalised: here p^2."""
    table, _ = predictor(temperature=0.5).predict([logits_of(0.5, 0.3, 0.2)])
    expected = np.array([0.25, 0.09, 0.04]) / 0.38
    assert table.loc[0, ["p:a", "p:b", "p:c"]].to_list() == pytest.approx(expected, abs=1e-6)
    assert table.loc[0, "confidence"] == pytest.approx(expected[0], abs=1e-6)
    assert table.loc[0, "label"] == "a"
    assert list(table) == ["label", "confidence", "p:a", "p:b", "p:c", "error"]


def test_a_sample_below_the_least_confidence_has_probabilities_but_no_label() -> None:
    values = [logits_of(0.6, 0.3, 0.1), logits_of(0.1, 0.5, 0.4)]
    table, _ = predictor(least_confidence=0.55).predict(values)
    assert table["label"].to_list() == ["a", ""]
    assert table["p:b"].to_list() == pytest.approx([0.3, 0.5], abs=1e-6)
    assert table["error"].to_list() == ["", ""]


@pytest.mark.parametrize("damaged", [[0], [1], [2], [0, 2], [0, 1, 2]])
def test_a_value_that_cannot_be_read_has_its_reason_and_does_not_move_the_others(
    damaged: list[int],
) -> None:
    values = [logits_of(*np.roll([0.8, 0.1, 0.1], row)) for row in range(3)]
    for row in damaged:
        values[row] = np.array([np.nan, 1, 2], np.float32)
    table, _ = predictor().predict(values)
    for row, label in enumerate("abc"):
        broken = row in damaged
        assert table.loc[row, "label"] == ("" if broken else label)
        assert table.loc[row, "error"] == ("contains NaN or infinity" if broken else "")
        assert np.isnan(table.loc[row, "confidence"]) == broken


def test_a_reader_that_returns_another_shape_is_an_error() -> None:
    wrong = predictor()
    wrong.reader = Features((2,))
    with pytest.raises(ValueError, match=r"returned the shape \(2,\), .*trained on \(3,\)"):
        wrong.predict([np.array([1, 2], np.float32)])


def test_dense_labels_become_a_map_and_means() -> None:
    """Two classes on 1 x 2 pixels: class 1 with probability 0.9, class 0 with 0.6."""
    described = StudentInput("m", (2, 1, 2), True, ("x", "y"), None, 1.0, "", None)
    student = Predictor(Identity(), described, Features((2, 1, 2)), 0.7, CPU)
    logits = logits_of(0.1, 0.6, 0.9, 0.4).reshape(2, 1, 2)
    table, (pixels,) = student.predict([logits])
    assert pixels is not None
    assert pixels.tolist() == [[1, 255]]  # the second pixel is below the least confidence
    assert table.loc[0, ["p:x", "p:y"]].to_list() == pytest.approx([0.35, 0.65], abs=1e-6)
    assert table.loc[0, "confidence"] == pytest.approx(0.75, abs=1e-6)
    assert table.loc[0, "label"] == ""


def test_batches_do_not_change_the_results() -> None:
    torch.manual_seed(0)
    described = StudentInput("m", (3,), False, ("a", "b"), None, 2.0, "", None)
    student = Predictor(nn.Linear(3, 2).double().float(), described, Features((3,)), 0.0, CPU)
    values = list(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    whole, _ = student.predict(values)
    for row, value in enumerate(values):
        single, _ = student.predict([value])
        assert single["label"][0] == whole["label"][row]
        assert single["confidence"][0] == pytest.approx(whole["confidence"][row], abs=1e-6)
