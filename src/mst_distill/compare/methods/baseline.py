"""The baseline: the student trained without a teacher, ``none`` in the paper's tables."""

from __future__ import annotations

from torch import Tensor

from mst_distill.compare.method import Method
from mst_distill.training.batches import Batch


class Baseline(Method):
    """L = CE(S)."""

    needs_labels = True
    seed_key = "Alone"  # the class's first name, which keeps its results reproducible
    teachers = ()
    teacher_inputs = "nothing"

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute ``loss``, the cross-entropy."""
        return {"loss": self.cross_entropy(self.student(batch.inputs).logits, batch)}

    def constants(self) -> tuple[float, ...] | None:
        """Return no number; None for a class that is derived from this one."""
        return () if type(self) is Baseline else None
