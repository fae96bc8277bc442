"""Mixtures of probabilities, against numpy, and the evaluation of all models and mixtures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mst_distill.diagnose.evaluated_models import MIXTURES, ROUTED, mixture
from mst_distill.diagnose.routing_probabilities import routing_probability_table
from mst_distill.evaluate.predictions import evaluate_models
from toy_diagnoses import finished
from toy_runs import KINDS

pytestmark = pytest.mark.usefixtures("float64")


def softmax(logits, axis):
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize("shape", [(), (4, 5)])
def test_a_mixture_is_the_weighted_mean_of_the_probabilities(shape):
    rng = np.random.default_rng(0)
    logits, weights = rng.normal(size=(6, 3, 4, *shape)), rng.dirichlet(np.ones(3), 6)
    weights[0] = [0, 1, 0]
    found = mixture(list(torch.from_numpy(logits).unbind(1)), torch.from_numpy(weights)).numpy()
    expected = np.einsum("be,bec...->bc...", weights, softmax(logits, 2))
    np.testing.assert_allclose(softmax(found, 1), expected, rtol=1e-10)
    np.testing.assert_allclose(softmax(found, 1)[0], softmax(logits[0, 1], 0), rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_and_mixture_is_evaluated(kind):
    toy = finished(kind)
    results = evaluate_models(toy.run, toy.models(), 8, 5, 4.0)
    names = {f"{name} teacher" for name in toy.teachers} | set(toy.ensemble.names)
    assert set(results.predictions["model"]) == names | {
        *("student", "baseline", ROUTED),
        *MIXTURES.values(),
    }
    assert set(results.disagreement["group"]) == {"teachers", "specialists"}


def test_the_routed_mixture_is_the_specialist_with_the_largest_probability():
    toy = finished("two modalities")
    predictions = evaluate_models(toy.run, toy.models(), 8, 5, 4.0).predictions
    table = routing_probability_table(
        toy.run, toy.extractor, toy.result.router, toy.ensemble.names, 8
    )
    choice = table.set_index("id")[list(toy.ensemble.names)].idxmax(axis=1)
    outcomes = predictions.set_index(["id", "model"])
    for sample, specialist in choice.items():
        for column in ("prediction", "nll", "confidence"):
            routed, alone = outcomes.loc[(sample, ROUTED)], outcomes.loc[(sample, specialist)]
            assert routed[column] == pytest.approx(alone[column], rel=1e-10)


def test_two_selected_specialists_have_equal_weights():
    toy = finished("two modalities")
    rows = np.flatnonzero(toy.run.splits["split"] == "test")
    arrays = toy.run.samples.modalities
    inputs = {name: torch.from_numpy(array[rows]) for name, array in arrays.items()}
    with torch.no_grad():
        logits = {name: of.double().numpy() for name, of in toy.models(2).logits(inputs).items()}
        c = toy.result.router(toy.extractor(inputs)).numpy()
    ensemble = softmax(np.stack([logits[name] for name in toy.ensemble.names], axis=1), 2)
    best = np.argsort(-c, axis=1)[:, :2]
    expected = np.stack([ensemble[row, pair].mean(axis=0) for row, pair in enumerate(best)])
    np.testing.assert_allclose(softmax(logits[ROUTED], 1), expected, rtol=1e-10)
