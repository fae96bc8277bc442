"""Mixtures of probabilities, against numpy; and the whole company before the judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mst_distill.diagnose.evaluated_models import MIXTURES, PICKED, mixture
from mst_distill.diagnose.routing_probabilities import preference_table
from mst_distill.evaluate.predictions import judge
from toy_diagnoses import finished
from toy_runs import KINDS

pytestmark = pytest.mark.usefixtures("float64")


def softmax(logits, axis):
    powers = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize("places", [(), (4, 5)])
def test_a_mixture_is_the_weighted_mean_of_the_probabilities(places):
    rng = np.random.default_rng(0)
    logits, weights = rng.normal(size=(6, 3, 4, *places)), rng.dirichlet(np.ones(3), 6)
    weights[0] = [0, 1, 0]
    found = mixture(list(torch.from_numpy(logits).unbind(1)), torch.from_numpy(weights)).numpy()
    expected = np.einsum("be,bec...->bc...", weights, softmax(logits, 2))
    np.testing.assert_allclose(softmax(found, 1), expected, rtol=1e-10)
    np.testing.assert_allclose(softmax(found, 1)[0], softmax(logits[0, 1], 0), rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_judge_hears_everybody(kind):
    toy = finished(kind)
    judged = judge(toy.run, toy.company(), 8, 5, 4.0)
    names = {f"{name} teacher" for name in toy.teachers} | set(toy.panel.names)
    assert set(judged.predictions["model"]) == names | {
        *("student", "control", PICKED),
        *MIXTURES.values(),
    }
    assert set(judged.disagreement["group"]) == {"teachers", "specialists"}


def test_what_is_routed_is_the_specialist_that_is_preferred():
    toy = finished("two modalities")
    judged = judge(toy.run, toy.company(), 8, 5, 4.0).predictions
    table = preference_table(toy.run, toy.observer, toy.done.router, toy.panel.names, 8)
    choice = table.set_index("id")[list(toy.panel.names)].idxmax(axis=1)
    of = judged.set_index(["id", "model"])
    for sample, specialist in choice.items():
        for column in ("prediction", "nll", "confidence"):
            routed, alone = of.loc[(sample, PICKED)], of.loc[(sample, specialist)]
            assert routed[column] == pytest.approx(alone[column], rel=1e-10)


def test_two_chosen_are_mixed_alike():
    toy = finished("two modalities")
    rows = np.flatnonzero(toy.run.splits["split"] == "test")
    arrays = toy.run.samples.modalities
    inputs = {name: torch.from_numpy(array[rows]) for name, array in arrays.items()}
    with torch.no_grad():
        said = {name: of.double().numpy() for name, of in toy.company(2).logits(inputs).items()}
        c = toy.done.router(toy.observer(inputs)).numpy()
    panel = softmax(np.stack([said[name] for name in toy.panel.names], axis=1), 2)
    best = np.argsort(-c, axis=1)[:, :2]
    expected = np.stack([panel[row, pair].mean(axis=0) for row, pair in enumerate(best)])
    np.testing.assert_allclose(softmax(said[PICKED], 1), expected, rtol=1e-10)
