"""Pseudo-labels: a class that a trained net predicts stands in for a label that is missing."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from torch import Tensor

from mst_distill.compare.context import ANY, MethodResult, TrialContext
from mst_distill.compare.method import Method
from mst_distill.compare.methods.baseline import Baseline
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.losses import over_pixels, without_label
from mst_distill.mst.networks import freeze
from mst_distill.training.batches import Batch
from mst_distill.training.selection import criteria


class PseudoLabels(Method):
    """L = CE(S) over all samples; where there is no label, the teacher's prediction is the label.

    Lee, "Pseudo-Label", ICML workshops 2013. Between modalities, labels that a teacher predicts for
    unlabelled pairs are used by Xue, Ren, Gao, Zhao, "Multimodal Knowledge Expansion", ICCV 2021,
    where the student sees more modalities than the teacher; and Gupta, Hoffman, Malik, "Cross Modal
    Distillation for Supervision Transfer", CVPR 2016, train on such pairs with features instead of
    labels. Every prediction counts, however unsure the teacher is. The teacher is trained on the
    labelled samples alone.
    """

    teachers: ClassVar[tuple[str, ...]] = ANY
    needs_unlabelled = True

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute ``loss``, the cross-entropy."""
        logits = self.student(batch.inputs).logits
        teacher = ModelOutput.of(batch.frozen["teacher"]).logits
        seen = batch.seen(self.context.teacher_modalities)
        label = _completed(batch.label, teacher, self.context.supervision.ignored, seen)
        return {"loss": self.cross_entropy(logits, dataclasses.replace(batch, label=label))}


class SelfTraining(PseudoLabels):
    """The same with the student itself as the teacher.

    A first student is trained on the labelled samples for the epochs of stage 1, and its epoch of
    the best validation metric predicts the missing labels. Then a new student is trained on all
    samples for the trial's epochs.
    """

    control = True
    teachers = ()

    @classmethod
    def teach(cls, context: TrialContext, **arguments: Any) -> MethodResult:
        """Train the first student, and the second on what the first predicts."""
        metric = context.run.metric.name
        best = {metric: criteria(metric)[metric]}
        epochs = context.plan.teachers.epochs
        context.teacher_inputs = "nothing"
        context.fit(Baseline(context), epochs, selections=best, phase="/first")
        first = context.student
        freeze([first.net])
        context.new_student()
        context.use_teacher(lambda inputs: (first(inputs).logits,))
        return context.fit(cls(context, **arguments), context.epochs)


def _completed(label: Tensor, teacher: Tensor, ignored: int | None, seen: Tensor | None) -> Tensor:
    """Replace the labels of samples without one by the classes that a teacher predicts.

    Args:
        label: ``(B,)`` or ``(B, H, W)``.
        teacher: Logits ``(B, C)`` or ``(B, C, H, W)``.
        ignored: The label that is no target, or None if every sample has a label.
        seen: Whether the teacher can see each sample, or None if it can see all. The others stay
            without a label.
    """
    if ignored is None:
        return label
    missing = without_label(label, ignored)
    if seen is not None:
        missing = missing & seen
    return label.where(~over_pixels(missing, label), teacher.argmax(dim=1))
