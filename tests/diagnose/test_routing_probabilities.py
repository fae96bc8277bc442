"""What the router prefers, and the weights that come of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mst_distill.data.samples import rows_of
from mst_distill.diagnose.routing_probabilities import (
    held_out_weights,
    preference_table,
    weights_of,
)
from toy_diagnoses import finished
from toy_runs import KINDS

pytestmark = pytest.mark.usefixtures("float64")


def test_the_k_largest_weigh_the_same():
    preference = torch.tensor([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1]])
    assert weights_of(preference, 1).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert weights_of(preference, 2).tolist() == [[0, 0.5, 0.5], [0.5, 0.5, 0]]
    assert weights_of(preference, None).equal(preference)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_a_held_out_sample(kind):
    toy = finished(kind)
    table = preference_table(toy.run, toy.observer, toy.done.router, toy.panel.names, 3)
    rows = rows_of(toy.run.splits, "test")
    assert table["id"].tolist() == toy.run.splits["id"].iloc[rows].tolist()
    assert list(table.columns) == ["id", *toy.panel.names]
    x = torch.from_numpy(toy.run.samples.modalities[toy.run.target][rows])
    with torch.no_grad():
        c = toy.done.router(toy.observer({toy.run.target: x})).double().softmax(dim=1).numpy()
    np.testing.assert_allclose(table[list(toy.panel.names)], c, rtol=1e-10)
    chosen = held_out_weights(table, 1)
    assert chosen.argmax(axis=1).tolist() == c.argmax(axis=1).tolist()
    assert chosen.sum() == len(rows)
