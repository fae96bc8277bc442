"""DML: teacher and student learn together from scratch, each from labels and from the other."""

from __future__ import annotations

from torch import Tensor

from mst_distill.compare.context import Setup
from mst_distill.compare.method import Method
from mst_distill.mst.losses import distillation
from mst_distill.training.batches import Batch


class DML(Method):
    """L = CE(S) + KL(T || S) + CE(T) + KL(S || T), each net's target held fast, tau = 1.

    Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", CVPR 2018, equations 4 to 6. As in the
    paper the terms weigh 1 throughout; the two nets take their steps together, not in turn.
    """

    hears = "inputs"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.peer = setup.new_teacher()
        self.learn("peer", self.peer.net)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``ce``, ``ce_peer``, the terms of `mutual` and their sum ``loss``."""
        student, peer = self.student(batch.inputs).logits, self.peer(batch.inputs).logits
        terms = {
            "ce": self.cross_entropy(student, batch),
            "ce_peer": self.cross_entropy(peer, batch),
            **self.mutual(student, peer),
        }
        return {"loss": sum(terms.values()), **terms}  # type: ignore[dict-item]

    def mutual(self, student: Tensor, peer: Tensor) -> dict[str, Tensor]:
        """``kd``, what the student learns from its peer, and ``kd_peer``, the other way round."""
        return {
            "kd": distillation(student, peer.detach(), 1.0).mean(),
            "kd_peer": distillation(peer, student.detach(), 1.0).mean(),
        }
