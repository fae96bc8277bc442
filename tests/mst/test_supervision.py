"""The loss on labels and the metrics of validation, against figures by hand and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import recall_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from mst_distill.mst.losses import cross_entropy
from mst_distill.mst.supervision import Supervision, balanced_weights, supervision_of
from mst_distill.parameters import TrainingRecipe
from toy_runs import KINDS, make_run

IGNORED = 3
CLASSES = 4


def make_batch(dense: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (5, 2, 3) if dense else (30,)
    logits = torch.randn((shape[0], CLASSES, *shape[1:]), generator=generator).double()
    label = torch.randint(0, CLASSES, shape, generator=generator)
    return logits, label


def by_hand(logits: Tensor, label: Tensor, of: Supervision) -> float:
    """The mean over labelled samples of -w_y sum_c t_c log p_c, y the label, t smoothed."""
    log_p = logits.log_softmax(dim=1).movedim(1, -1).reshape(-1, CLASSES).numpy()
    labels = label.flatten().numpy()
    weights = np.ones(CLASSES) if of.weights is None else of.weights.numpy()
    losses = []
    for row, target in zip(log_p, labels, strict=True):
        if target == of.ignored:
            continue
        smooth = np.full(CLASSES, of.smoothing / CLASSES)
        smooth[target] += 1 - of.smoothing
        losses.append(-weights[target] * (smooth * row).sum())
    return float(np.mean(losses))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("ignored", [None, IGNORED])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0]])
def test_the_loss_is_that_by_hand(
    weights: list[float] | None, smoothing: float, ignored: int | None, dense: bool
) -> None:
    logits, label = make_batch(dense)
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    supervision = Supervision(ignored, smoothing, given)
    found = supervision.loss(logits, label).item()
    assert found == pytest.approx(by_hand(logits, label, supervision), rel=1e-12)


def test_the_weights_of_rare_classes_do_not_move_the_best_prediction() -> None:
    """With 990 samples of one class and 10 of the other, both get the smoothed probability."""
    label = torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor([990, 10]))
    weights = torch.from_numpy(balanced_weights(label.numpy(), 2))
    logits = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)  # one row for each class
    optimiser = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = Supervision(None, 0.1, weights).loss(logits[label], label)
        value.backward()
        return value

    optimiser.step(loss)
    right = logits.softmax(dim=1).diagonal()
    torch.testing.assert_close(right, torch.full((2,), 0.95).double(), rtol=1e-4, atol=0)


def test_without_options_the_loss_is_cross_entropy_to_the_bit() -> None:
    logits, label = make_batch(dense=False)
    assert Supervision(IGNORED).loss(logits, label).equal(cross_entropy(logits, label, IGNORED))


def test_the_losses_of_micro_batches_add_up() -> None:
    logits, label = make_batch(dense=False)
    supervision = Supervision(None, 0.1, torch.tensor([0.5, 2.0, 1.0, 3.0]).double())
    parts = zip(logits.split([7, 23]), label.split([7, 23]), strict=True)
    added = sum(len(of) / 30 * supervision.loss(part, of) for part, of in parts)
    torch.testing.assert_close(added, supervision.loss(logits, label), rtol=1e-14, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_without_labels_has_no_loss(smoothing: float) -> None:
    logits = torch.randn(3, CLASSES, requires_grad=True)
    loss = Supervision(IGNORED, smoothing, torch.ones(CLASSES)).loss(
        logits, torch.full((3,), IGNORED)
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 3], [7, 2, 1])
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    assert balanced_weights(labels, 4)[[0, 1, 3]] == pytest.approx(expected)
    assert balanced_weights(labels, 4)[2] == 0


@pytest.mark.parametrize("ignored", [None, IGNORED])
def test_the_mean_over_batches_is_the_mean_recall_of_the_classes(ignored: int | None) -> None:
    logits, label = make_batch(dense=False)
    if ignored is not None:
        logits, label = logits[label != ignored], label[label != ignored]
    weights = torch.from_numpy(balanced_weights(label.numpy(), CLASSES))
    supervision = Supervision(ignored, valid_weights=weights)
    batches = zip(logits.split(8), label.split(8), strict=True)
    found = sum(
        len(of) / len(label) * supervision.metrics(part, of)["macro_recall"].item()
        for part, of in batches
    )
    classes = label.unique().tolist()
    expected = recall_score(label, logits.argmax(dim=1), labels=classes, average="macro")
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_of_a_run_are_those_of_its_labels(kind: str) -> None:
    run, _ = make_run(kind)
    run = type(run)(
        run.samples,
        run.splits,
        run.target,
        run.seed,
        run.runtime,
        recipe=TrainingRecipe(class_weights="balanced", label_smoothing=0.1),
    )
    supervision = supervision_of(run)
    assert supervision.smoothing == 0.1
    for split, found in (("train", supervision.weights), ("valid", supervision.valid_weights)):
        labels = run.samples.labels[run.rows(split)].ravel()
        labels = labels[labels != run.samples.ignored_label]
        present = np.unique(labels)
        expected = compute_class_weight("balanced", classes=present, y=labels)
        assert found is not None
        assert found.numpy()[present] == pytest.approx(expected)
    assert supervision_of(make_run(kind)[0]).weights is None
