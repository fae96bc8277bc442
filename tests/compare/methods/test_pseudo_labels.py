"""Methods that complete missing labels by predictions."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mst_distill.compare.comparison import Comparison
from mst_distill.compare.context import TrialContext
from mst_distill.compare.methods.pseudo_labels import PseudoLabels, SelfTraining
from mst_distill.compare.teaching import teach
from mst_distill.data.samples import LABELLED, UNLABELLED, rows_of
from mst_distill.training.run import Run
from toy_comparisons import make_comparison_plan, make_pool
from toy_runs import make_run

pytestmark = pytest.mark.usefixtures("float64")

KEPT = 7


def hidden_run() -> Run:
    """A run that hides the labels of all but the first few training samples."""
    run, _ = make_run()
    labelled = np.ones(len(run.splits), dtype=bool)
    labelled[rows_of(run.splits, "train")[KEPT:]] = False
    return dataclasses.replace(run, splits=run.splits.assign(**{LABELLED: labelled}))


def test_the_teacher_supplies_the_labels_that_are_missing_and_no_others() -> None:
    run, plan = hidden_run(), make_comparison_plan()
    pool = make_pool(run, plan)
    task = PseudoLabels(TrialContext(run, plan, pool, "audio", "logits"))
    task.trainable.eval()
    train, _ = pool.batches("audio", "logits", "compare")
    for batch in train:
        logits = task.student(batch.inputs).logits
        predicted = batch.frozen["teacher"][0].argmax(dim=1)
        label = torch.where(batch.label == UNLABELLED, predicted, batch.label)
        expected = F.cross_entropy(logits, label)
        assert float(task.losses(batch)["loss"].detach()) == pytest.approx(float(expected.detach()))


def test_the_second_student_learns_what_the_first_predicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, plan = hidden_run(), make_comparison_plan()
    pool = make_pool(run, plan)
    fits: list[tuple[str, int, Any, Any]] = []
    fit = TrialContext.fit

    def recorded(self: TrialContext, task: Any, epochs: int, *args: Any, **options: Any) -> Any:
        fits.append((type(task).__name__, epochs, self.student.net, self._frozen))
        return fit(self, task, epochs, *args, **options)

    monkeypatch.setattr(TrialContext, "fit", recorded)
    done = teach(run, plan, pool, SelfTraining, "", {})
    (first, before, old, _), (second, after, new, teacher_fn) = fits
    assert (first, before) == ("Baseline", plan.teachers.epochs)
    assert (second, after) == ("SelfTraining", plan.teachers.epochs + plan.route.epochs)
    assert old is not new
    assert not any(weight.requires_grad for weight in old.parameters())
    assert done.student_epochs == after
    assert done.extra_parameters == 0
    inputs = {"image": torch.from_numpy(run.samples.modalities["image"][:5])}
    with torch.no_grad():
        assert teacher_fn is not None
        assert teacher_fn(inputs)[0].equal(old(inputs["image"]))


def test_without_missing_labels_these_methods_have_no_trials() -> None:
    plan = make_comparison_plan()
    samples = make_run()[0].samples
    comparison = Comparison(samples, plan, SimpleNamespace())
    names = {trial.method for trials in comparison.trials().values() for trial in trials}
    assert not {"pseudo_labels", "self_training"} & names
    few = dataclasses.replace(comparison, plan=plan.model_copy(update={"labelled": 0.5}))
    more = {trial.method for trials in few.trials().values() for trial in trials}
    assert more - names == {"pseudo_labels", "self_training"}
    labels = np.where(np.arange(len(samples)) == 0, UNLABELLED, samples.labels)
    unknown = dataclasses.replace(comparison, samples=dataclasses.replace(samples, labels=labels))
    assert unknown.trials() == few.trials()
