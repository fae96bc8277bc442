"""DML: teacher and student train together from scratch, on labels and each other's output."""

from __future__ import annotations

from torch import Tensor

from mst_distill.compare.context import TrialContext
from mst_distill.compare.method import Method
from mst_distill.mst.losses import distillation
from mst_distill.training.batches import Batch


class DML(Method):
    """L = CE(S) + KL(T || S) + CE(T) + KL(S || T), no gradient to the first of each KL, tau = 1.

    Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", CVPR 2018, equations 4 to 6. As in the
    paper, all terms have the weight 1 throughout; the two nets are updated together, not in turn.
    """

    teacher_inputs = "inputs"

    def __init__(self, context: TrialContext) -> None:
        super().__init__(context)
        self.peer = context.new_teacher()
        self.add_trainable("peer", self.peer.net)

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

        Args:
            student: Logits.
            peer: Logits.
        """
        return {
            "kd": distillation(student, peer.detach(), 1.0).mean(),
            "kd_peer": distillation(peer, student.detach(), 1.0).mean(),
        }
