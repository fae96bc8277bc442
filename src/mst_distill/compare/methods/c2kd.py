"""C2KD: student and teacher learn from each other through proxies, on samples of equal ranking."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mst_distill.compare.context import CROSSMODAL, TrialContext
from mst_distill.compare.method import Method, check_at_least_0
from mst_distill.compare.methods.dkd import decoupled_losses, labelled_positions, mean_or_0
from mst_distill.mst.features import ModelOutput, pooled
from mst_distill.mst.losses import distillation
from mst_distill.parameters import TrainingRecipe
from mst_distill.training.batches import Batch

MOMENTUM, POWER = 0.9, 0.9
"""The momentum of SGD, and the power of the polynomial decay of its learning rate."""


class C2KD(Method):
    """L = CE of both nets, KD of each net and its proxy, non-target KD of the proxies, both ways.

    Huo et al., "C2KD: Bridging the Modality Gap for Cross-Modal Knowledge Distillation", CVPR 2024,
    sections 3.2 and 3.3. A proxy is a linear layer on the embedding of its net. The proxies distil
    into each other the probabilities of the classes that are not the target, on the samples for
    which Kendall's tau-b between their logits is above 0; the other samples count as 0. The target
    is left out of both distributions, as in DKD, so that they are over the other classes alone; the
    authors' code sets the target's logit to 0 in both instead, with which it keeps a probability.
    The teacher starts from the trained teacher. The learning rate of SGD falls with
    (1 - epoch / epochs)^0.9, a decay that does not reach the optimiser in the released code of the
    paper behind this project. The authors' proxies have a convolution with batch norm before the
    linear layer, and their rate falls to 0.0001.

    Args:
        context: The student, the teacher and the batches.
        temperature: Tau of all KD terms, 1 as in the authors' code.
        learning_rate: The learning rate of SGD at the start.
    """

    needs_labels = True
    follows_schedule = False
    teachers = (CROSSMODAL,)
    teacher_inputs = "inputs"

    def __init__(
        self, context: TrialContext, temperature: float = 1.0, learning_rate: float = 0.01
    ) -> None:
        super().__init__(context)
        self._temperature, self._rate = temperature, learning_rate
        check_at_least_0(temperature=temperature, learning_rate=learning_rate)
        self._teacher = context.new_teacher()
        self._teacher.net.load_state_dict(context.frozen_teacher.net.state_dict())
        self.add_trainable("teacher", self._teacher.net)
        self._proxies: dict[str, nn.Module] = {}
        for name, net in (("student", self.student), ("teacher", self._teacher)):
            width = net.dry(context.run.samples).embedding.shape[1]
            linear = nn.Conv2d(width, context.classes, 1) if context.run.samples.dense else None
            proxy = self.add_trainable(
                f"proxy_of_{name}", linear or nn.Linear(width, context.classes)
            )
            self._proxies[name] = proxy

    def optimiser(self, learning_rate: float, recipe: TrainingRecipe) -> torch.optim.Optimizer:
        """Create SGD with momentum, whatever the recipe."""
        weights = list(self.trainable.parameters())
        self._sgd = torch.optim.SGD(weights, self._rate, MOMENTUM, fused=weights[0].is_cuda)
        return self._sgd

    def end_epoch(self, epoch: int) -> None:
        """Reduce the learning rate."""
        for group in self._sgd.param_groups:
            group["lr"] = self._rate * (1 - (epoch + 1) / self.epochs) ** POWER

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute ``ce``, ``ce_teacher``, the terms of `proxy_terms` and their sum ``loss``."""
        student = self.student(batch.inputs)
        terms = {"ce": self.cross_entropy(student.logits, batch)}
        if pair := self.with_teacher(student, batch):
            output, seen = pair
            teacher = self._teacher(seen.inputs)
            terms["ce_teacher"] = self.cross_entropy(teacher.logits, seen)
            terms |= self.proxy_terms(output, teacher, seen)
        return {"loss": sum(terms.values()), **terms}  # type: ignore[dict-item]

    def proxy_terms(
        self, student: ModelOutput, teacher: ModelOutput, batch: Batch
    ) -> dict[str, Tensor]:
        """Compute ``kd_student``, ``kd_teacher`` and ``kd_proxies``."""
        temperature = self._temperature
        student_proxy = self._proxy("student", student)
        teacher_proxy = self._proxy("teacher", teacher)
        return {
            "kd_student": _mutual_kd(student.logits, student_proxy, temperature),
            "kd_teacher": _mutual_kd(teacher.logits, teacher_proxy, temperature),
            "kd_proxies": self._between_proxies(student_proxy, teacher_proxy, batch),
        }

    def _proxy(self, name: str, output: ModelOutput) -> Tensor:
        """Compute a proxy's logits, interpolated to the resolution of its net's logits."""
        logits: Tensor = self._proxies[name](output.embedding)
        if logits.shape[2:] != output.logits.shape[2:]:
            logits = nn.functional.interpolate(logits, output.logits.shape[2:], mode="bilinear")
        return logits

    def _between_proxies(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        ignored, temperature = self.context.supervision.ignored, self._temperature
        agree = _agreement(student, teacher) > 0
        label = batch.label
        if label.dim() == 1:  # all samples: to select some, the host would wait for their number
            both = _of_other_classes(student, teacher, label, temperature)
            return (both * agree).mean()
        positions = labelled_positions(student[agree], teacher[agree], label[agree], ignored)
        # The mean is over the pixels of the samples in agreement; the factor makes it one over the
        # batch.
        both = _of_other_classes(*positions, temperature)
        return mean_or_0(both) * agree.to(both.dtype).mean()


def _of_other_classes(
    student: Tensor, teacher: Tensor, label: Tensor, temperature: float
) -> Tensor:
    """Compute NCKD in both directions, each without gradient to its source, ``(n,)``."""
    _, student_loss = decoupled_losses(student, teacher.detach(), label, temperature)
    _, teacher_loss = decoupled_losses(teacher, student.detach(), label, temperature)
    return student_loss + teacher_loss


def kendall(first: Tensor, second: Tensor) -> Tensor:
    """Compute Kendall's tau-b of every row, ``(B, K)`` and ``(B, K)`` to ``(B,)`` in [-1, 1].

    A row in which all values are tied gives 0.
    """
    a, b = (torch.sign(rows[:, :, None] - rows[:, None]) for rows in (first, second))
    concordant = (a * b).sum(dim=(1, 2))
    untied = (a.abs().sum(dim=(1, 2)) * b.abs().sum(dim=(1, 2))).sqrt()
    return concordant / untied.clamp(min=1)


@torch.no_grad()
def _agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute tau-b of each sample's logits; dense logits are averaged over their pixels first."""
    return kendall(pooled(student), pooled(teacher))


def _mutual_kd(net: Tensor, proxy: Tensor, temperature: float) -> Tensor:
    """Compute KD of the logits in both directions, each without gradient to its source."""
    return (
        distillation(proxy, net.detach(), temperature).mean()
        + distillation(net, proxy.detach(), temperature).mean()
    )
