"""Routing probabilities on the held-out split, and the weights that follow from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mst_distill.data.samples import rows_of
from mst_distill.diagnose.routing_probabilities import (
    held_out_weights,
    routing_probability_table,
    weights_of,
)
from toy_diagnoses import finished
from toy_runs import KINDS

pytestmark = pytest.mark.usefixtures("float64")


def test_the_top_k_have_equal_weights():
    probabilities = torch.tensor([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1]])
    assert weights_of(probabilities, 1).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert weights_of(probabilities, 2).tolist() == [[0, 0.5, 0.5], [0.5, 0.5, 0]]
    assert weights_of(probabilities, None).equal(probabilities)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_has_a_row_for_each_held_out_sample(kind):
    toy = finished(kind)
    table = routing_probability_table(
        toy.run, toy.extractor, toy.result.router, toy.ensemble.names, 3
    )
    rows = rows_of(toy.run.splits, "test")
    assert table["id"].tolist() == toy.run.splits["id"].iloc[rows].tolist()
    assert list(table.columns) == ["id", *toy.ensemble.names]
    x = torch.from_numpy(toy.run.samples.modalities[toy.run.target][rows])
    with torch.no_grad():
        c = toy.result.router(toy.extractor({toy.run.target: x})).double().softmax(dim=1).numpy()
    np.testing.assert_allclose(table[list(toy.ensemble.names)], c, rtol=1e-10)
    weights = held_out_weights(table, 1)
    assert weights.argmax(axis=1).tolist() == c.argmax(axis=1).tolist()
    assert weights.sum() == len(rows)
