"""A linear layer on embeddings: it is scikit-learn's model, and its penalty is chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mst_distill.mst.linear_head import NEVER, STRENGTHS, fit_linear_head

Labelled = tuple[np.ndarray, np.ndarray]


def make(classes: int, count: int = 120, seed: int = 0) -> tuple[Labelled, Labelled]:
    """Embeddings of which two features tell the classes and the others are noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    values = rng.normal(size=(count, 12)) * 3 + 5
    values[:, :2] += np.stack([labels, labels**2], axis=1)
    half = count // 2
    return (values[:half], labels[:half]), (values[half:], labels[half:])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("balanced", [False, True])
def test_it_is_the_model_with_the_smallest_validation_loss(classes: int, balanced: bool) -> None:
    train, valid = make(classes)
    weight = "balanced" if balanced else None
    models = [
        make_pipeline(
            StandardScaler(), LogisticRegression(C=c, max_iter=1000, class_weight=weight)
        ).fit(*train)
        for c in STRENGTHS
    ]
    losses = [log_loss(valid[1], model.predict_proba(valid[0])) for model in models]
    best = models[int(np.argmin(losses))]
    head = fit_linear_head(train, valid, classes, balanced)
    with torch.no_grad():
        found = head(torch.from_numpy(valid[0]).float()).softmax(dim=1)
    np.testing.assert_allclose(found.numpy(), best.predict_proba(valid[0]), atol=1e-4)
    assert 0 < int(np.argmin(losses)) < len(STRENGTHS) - 1


def test_a_class_without_a_training_sample_is_never_predicted() -> None:
    train, valid = make(3)
    seen = train[1] != 1
    head = fit_linear_head((train[0][seen], train[1][seen]), valid, 4)
    assert head.bias[1] == head.bias[3] == NEVER
    assert head(torch.from_numpy(valid[0]).float()).argmax(dim=1).unique().tolist() == [0, 2]


def test_a_constant_feature_is_no_fault_and_no_random_number_is_drawn() -> None:
    (values, labels), valid = make(2)
    values[:, 5] = 7
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    head = fit_linear_head((values, labels), valid, 2)
    assert torch.rand(1).equal(expected)
    assert head.weight.isfinite().all()


def test_one_class_is_too_few() -> None:
    (values, labels), valid = make(2)
    with pytest.raises(ValueError, match="of two classes"):
        fit_linear_head((values[labels == 0], labels[labels == 0]), valid, 2)


def test_without_validation_samples_there_is_no_choice() -> None:
    train, valid = make(2)
    with pytest.raises(ValueError, match="labelled validation samples"):
        fit_linear_head(train, (valid[0][:0], valid[1][:0]), 2)
