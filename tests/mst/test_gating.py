"""Routing weights, teacher quality and correctness, compared with loops over samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from mst_distill.mst.gating import cross_entropies, is_correct, routing_weights, teacher_quality

LOGITS = np.random.default_rng(0).normal(size=(5, 3, 4)) * 3
LABEL = np.array([0, 3, 1, 1, 2])


def cross_entropies_by_loop(logits=LOGITS, label=LABEL):
    return np.array(
        [[-log_softmax(of)[y] for of in each] for each, y in zip(logits, label, strict=True)]
    )


def test_cross_entropy_and_quality_of_every_specialist():
    inputs = torch.from_numpy(LOGITS), torch.from_numpy(LABEL), None
    np.testing.assert_allclose(
        cross_entropies(*inputs).numpy(), cross_entropies_by_loop(), rtol=1e-12
    )
    np.testing.assert_allclose(
        teacher_quality(*inputs).numpy(), softmax(-cross_entropies_by_loop(), axis=1), rtol=1e-12
    )


def test_with_dense_labels_cross_entropy_is_the_mean_over_labelled_pixels():
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


def test_a_specialist_is_correct_if_the_label_has_its_largest_logit():
    inputs = torch.from_numpy(LOGITS), torch.from_numpy(LABEL)
    expected = np.array(
        [[of.argmax() == y for of in each] for each, y in zip(LOGITS, LABEL, strict=True)]
    )
    np.testing.assert_array_equal(is_correct(*inputs, None).numpy(), expected)
    assert expected[LABEL == 1].any()
    # On a sample without a label, nobody is known to be wrong.
    np.testing.assert_array_equal(is_correct(*inputs, 1).numpy(), expected | (LABEL == 1)[:, None])


def test_the_top_k_specialists_have_equal_weights_in_order_of_probability():
    probabilities = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.1, 0.4]], requires_grad=True)
    routing = routing_weights(probabilities, 2)
    assert routing.specialists.tolist() == [[1, 2], [0, 2]]
    assert routing.weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert not routing.weights.requires_grad


def test_incorrect_specialists_have_no_weight():
    probabilities = torch.tensor([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [0.2, 0.5, 0.3]])
    correct = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    routing = routing_weights(probabilities, None).only(correct)
    torch.testing.assert_close(
        routing.weights, torch.tensor([[0.4, 0, 0.6], [0, 0, 0], [0.2, 0.5, 0.3]])
    )
    first = routing_weights(probabilities, 1).only(correct)
    assert first.weights.tolist() == [[0.0], [0.0], [1.0]]


def test_with_dense_labels_each_pixel_has_the_weights_of_its_correct_specialists():
    correct = torch.tensor([[[[1, 0, 0]], [[0, 0, 1]], [[1, 0, 1]]]], dtype=torch.bool)
    probabilities = torch.tensor([[0.2, 0.5, 0.3]])
    routing = routing_weights(probabilities, None).only(correct)
    expected = torch.tensor([[[[0.4, 0, 0]], [[0, 0, 0.625]], [[0.6, 0, 0.375]]]])
    torch.testing.assert_close(routing.weights, expected)
    first = routing_weights(probabilities, 1).only(correct)
    assert first.weights.tolist() == [[[[0.0, 0.0, 1.0]]]]
