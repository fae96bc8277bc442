"""The student alone, ``none`` in the paper's tables: what every method has to beat."""

from __future__ import annotations

from torch import Tensor

from mst_distill.compare.method import Method
from mst_distill.training.batches import Batch


class Alone(Method):
    """L = CE(S)."""

    teachers = ()
    hears = "nothing"

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, the cross-entropy."""
        return {"loss": self.cross_entropy(self.student(batch.inputs).logits, batch)}
