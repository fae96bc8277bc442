"""Controls without another modality: what a regulariser or a second net of the same kind gains.

A gain is one of cross-modal distillation only as far as it exceeds theirs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from mst_distill.compare.context import MethodResult, TrialContext
from mst_distill.compare.methods.baseline import Baseline
from mst_distill.compare.methods.dml import DML
from mst_distill.compare.methods.kd import KD
from mst_distill.mst.features import FeatureExtractor
from mst_distill.mst.networks import freeze
from mst_distill.training.batches import Batch
from mst_distill.training.selection import criteria


class LabelSmoothing(Baseline):
    """L = CE(S), where the target has 1 - e of the probability more than the other classes.

    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section
    7: the target of class k is (1 - e) [k = label] + e / C.

    Args:
        context: The student and the batches.
        smoothing: e, in [0, 1). It replaces that of the recipe.

    Raises:
        ValueError: The smoothing is out of its range.
    """

    control = True

    def __init__(self, context: TrialContext, smoothing: float = 0.1) -> None:
        super().__init__(context)
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is {smoothing}; it must be in [0, 1)")
        self._supervision = dataclasses.replace(context.supervision, smoothing=smoothing)

    def cross_entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute the mean cross-entropy with smoothed targets."""
        return self._supervision.loss(logits, batch.label)

    def constants(self) -> tuple[float, ...] | None:
        """Return no number; None for a class that is derived from this one."""
        return () if type(self) is LabelSmoothing else None


class Peer(DML):
    """Mutual learning of two equal nets of the student's modality, see `DML`.

    Both differ in their start weights alone. The result is the first one.
    """

    control = True
    teachers = ()
    teacher_inputs = "nothing"
    seed_key = "Peer of the same modality"

    def new_peer(self) -> FeatureExtractor:
        """Build the second net."""
        return self.context.new_peer()


class SelfDistillation(KD):
    """KD from a trained net of the student's class, which has seen the student's modality alone.

    Furlanello, Lipton, Tschannen, Itti, Anandkumar, "Born-Again Neural Networks", ICML 2018, one
    generation. The first net has start weights of its own, the epochs of stage 1 and, as a teacher
    has, the epoch that the run's criterion selects.
    """

    control = True
    teachers = ()

    @classmethod
    def teach(cls, context: TrialContext, **arguments: Any) -> MethodResult:
        """Train the first net, and distil it into the student."""
        selection = context.plan.selection
        context.teacher_inputs = "nothing"
        context.student = first = context.new_peer()
        selections = {selection: criteria(context.run.metric.name)[selection]}
        epochs = context.plan.teachers.epochs
        context.fit(Baseline(context), epochs, selections, "/first")
        freeze([first.net])
        context.new_student()
        context.use_teacher(lambda inputs: (first(inputs).logits,))
        return context.fit(cls(context, **arguments), context.epochs)
