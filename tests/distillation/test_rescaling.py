"""One number a specialist, against a search over a grid."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import log_softmax, softmax

from mst_distill.distillation.rescaling import rescale


def kd(logits, student, tau=4.0):
    p = softmax(student / tau, axis=1)
    q = log_softmax(logits / tau, axis=1)
    return tau**2 * (p * (np.log(p) - q)).sum(axis=1).mean()


def test_the_scale_is_the_best_of_a_grid():
    rng = np.random.default_rng(0)
    student = rng.normal(size=(30, 5))
    specialists = np.stack([4 * student + rng.normal(size=(30, 5)), -student], axis=1)
    found = rescale(torch.from_numpy(specialists), torch.from_numpy(student), 4.0).numpy()
    grid = np.exp(np.linspace(-5, 5, 4001))
    for place in range(2):
        of = specialists[:, place]
        scale = (found[:, place] / of).mean()
        np.testing.assert_allclose(found[:, place], scale * of, rtol=1e-9)
        wanted = grid[np.argmin([kd(s * of, student) for s in grid])]
        assert abs(np.log(scale / wanted)) < 5e-3
    assert 0.2 < (found[:, 0] / specialists[:, 0]).mean() < 0.3
