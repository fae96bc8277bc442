"""DML: teacher and student train together from scratch, on labels and each other's output."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mst_distill.compare.context import TrialContext
from mst_distill.compare.method import Method, check_at_least_0
from mst_distill.compare.teacher_cache import TeacherInputs
from mst_distill.mst.features import FeatureExtractor
from mst_distill.mst.losses import distillation
from mst_distill.training.batches import Batch


class DML(Method):
    """L = CE(S) + KL(T || S) + CE(T) + KL(S || T), no gradient to the first of each KL, tau = 1.

    Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", CVPR 2018, equations 4 to 6. As in the
    paper, all terms have the weight 1 throughout by default; the two nets are updated together, not
    in turn.

    Args:
        context: The student, the teacher and the batches.
        kd_weight: The weight of both KL terms.
        temperature: Tau of both, with the factor tau^2.
    """

    teacher_inputs: ClassVar[TeacherInputs] = "inputs"

    def __init__(
        self, context: TrialContext, kd_weight: float = 1.0, temperature: float = 1.0
    ) -> None:
        super().__init__(context)
        self._kd_weight, self._temperature = kd_weight, temperature
        check_at_least_0(kd_weight=kd_weight, temperature=temperature)
        self.peer = self.new_peer()
        self.add_trainable("peer", self.peer.net)

    def new_peer(self) -> FeatureExtractor:
        """Build the net that the student learns with."""
        return self.context.new_teacher()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute ``ce``, ``ce_peer``, the terms of `mutual` and their sum ``loss``."""
        student = self.student(batch.inputs)
        terms = {"ce": self.cross_entropy(student.logits, batch)}
        if pair := self.with_teacher(student, batch):
            output, seen = pair
            peer = self.peer(seen.inputs).logits
            terms["ce_peer"] = self.cross_entropy(peer, seen)
            terms |= self.mutual(output.logits, peer)
        return {"loss": sum(terms.values()), **terms}  # type: ignore[dict-item]

    def mutual(self, student: Tensor, peer: Tensor) -> dict[str, Tensor]:
        """Compute ``kd``, with gradient to the student, and ``kd_peer``, with gradient to the peer.

        Both have their weight.

        Args:
            student: Logits.
            peer: Logits.
        """
        tau = self._temperature
        return {
            "kd": self._kd_weight * distillation(student, peer.detach(), tau).mean(),
            "kd_peer": self._kd_weight * distillation(peer, student.detach(), tau).mean(),
        }
