"""Who is heard and who deserves it, against loops over samples and specialists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from mst_distill.mst.gating import cross_entropies, merit, right, weigh

LOGITS = np.random.default_rng(0).normal(size=(5, 3, 4)) * 3
LABEL = np.array([0, 3, 1, 1, 2])


def loop(logits=LOGITS, label=LABEL):
    return np.array(
        [[-log_softmax(of)[y] for of in each] for each, y in zip(logits, label, strict=True)]
    )


def test_cross_entropy_and_merit_of_every_specialist():
    given = torch.from_numpy(LOGITS), torch.from_numpy(LABEL), None
    np.testing.assert_allclose(cross_entropies(*given).numpy(), loop(), rtol=1e-12)
    np.testing.assert_allclose(merit(*given).numpy(), softmax(-loop(), axis=1), rtol=1e-12)


def test_of_dense_labels_cross_entropy_is_over_judged_pixels():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 3, 4, 2, 3))
    label = rng.integers(0, 4, (2, 2, 3))
    label[0, 0, 0] = label[0, 1, 2] = 255
    label[1] = 255
    found = cross_entropies(torch.from_numpy(logits), torch.from_numpy(label), 255).numpy()
    for specialist in range(3):
        terms = [
            -log_softmax(logits[0, specialist, :, y, x])[label[0, y, x]]
            for y, x in np.ndindex(2, 3)
            if label[0, y, x] != 255
        ]
        assert found[0, specialist] == pytest.approx(np.mean(terms), rel=1e-12)
    assert (found[1] == 0).all()


def test_right_is_whether_the_label_has_the_largest_logit():
    given = torch.from_numpy(LOGITS), torch.from_numpy(LABEL)
    wanted = np.array(
        [[of.argmax() == y for of in each] for each, y in zip(LOGITS, LABEL, strict=True)]
    )
    np.testing.assert_array_equal(right(*given, None).numpy(), wanted)
    assert wanted[LABEL == 1].any()
    np.testing.assert_array_equal(right(*given, 1).numpy(), wanted & (LABEL != 1)[:, None])


def test_the_best_are_heard_alike_and_best_first():
    preference = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.1, 0.4]], requires_grad=True)
    heard = weigh(preference, 2)
    assert heard.chosen.tolist() == [[1, 2], [0, 2]]
    assert heard.weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert not heard.weights.requires_grad


def test_those_that_are_wrong_are_not_heard():
    preference = torch.tensor([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [0.2, 0.5, 0.3]])
    well = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    heard = weigh(preference, None).gated(well)
    torch.testing.assert_close(
        heard.weights, torch.tensor([[0.4, 0, 0.6], [0, 0, 0], [0.2, 0.5, 0.3]])
    )
    first = weigh(preference, 1).gated(well)
    assert first.weights.tolist() == [[0.0], [0.0], [1.0]]


def test_of_dense_labels_every_pixel_hears_those_that_are_right_there():
    well = torch.tensor([[[[1, 0, 0]], [[0, 0, 1]], [[1, 0, 1]]]], dtype=torch.bool)
    preference = torch.tensor([[0.2, 0.5, 0.3]])
    heard = weigh(preference, None).gated(well)
    wanted = torch.tensor([[[[0.4, 0, 0]], [[0, 0, 0.625]], [[0.6, 0, 0.375]]]])
    torch.testing.assert_close(heard.weights, wanted)
    first = weigh(preference, 1).gated(well)
    assert first.weights.tolist() == [[[[0.0, 0.0, 1.0]]]]
