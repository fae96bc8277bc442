"""C2KD: both nets learn through a proxy each, from samples on which they agree."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mst_distill.compare.context import CROSSMODAL, Setup, Taught
from mst_distill.compare.method import Method
from mst_distill.compare.methods.dkd import decoupled, mean_or_0, per_place
from mst_distill.mst.features import Observed, pooled
from mst_distill.mst.losses import distillation
from mst_distill.training.batches import Batch

RATE, MOMENTUM, POWER = 0.01, 0.9, 0.9
"""SGD's, and the power of its polynomial decay."""


class C2KD(Method):
    """L = CE of both nets, KD of net and proxy, non-target KD of the proxies, both ways each.

    Huo et al., "C2KD: Bridging the Modality Gap for Cross-Modal Knowledge Distillation", CVPR 2024,
    sections 3.2 and 3.3. A proxy is a linear layer on its net's embedding. The proxies hear one
    another of the classes that are not the target, on samples where Kendall's tau-b between their
    logits is above 0; the others count as 0. The teacher starts from the trained one. SGD's rate
    falls with (1 - epoch / epochs)^0.9, which in the released code of the paper behind this project
    never reaches the optimiser.
    """

    teachers = (CROSSMODAL,)
    hears = "inputs"

    def __init__(self, setup: Setup, epochs: int) -> None:
        super().__init__(setup)
        self._epochs = epochs
        self._teacher = setup.new_teacher()
        self._teacher.net.load_state_dict(setup.frozen_teacher.net.state_dict())
        self.learn("teacher", self._teacher.net)
        self._proxies: dict[str, nn.Module] = {}
        for name, net in (("student", self.student), ("teacher", self._teacher)):
            width = net.dry(setup.run.samples).embedding.shape[1]
            linear = nn.Conv2d(width, setup.classes, 1) if setup.run.samples.dense else None
            proxy = self.learn(f"proxy_of_{name}", linear or nn.Linear(width, setup.classes))
            self._proxies[name] = proxy

    @classmethod
    def teach(cls, setup: Setup) -> Taught:
        """Train all four for the setup's epochs."""
        return setup.fit(cls(setup, setup.epochs), setup.epochs, RATE)

    def optimiser(self, learning_rate: float) -> torch.optim.Optimizer:
        """SGD with momentum."""
        self._sgd = torch.optim.SGD(self.trainable.parameters(), learning_rate, MOMENTUM)
        return self._sgd

    def end_epoch(self, epoch: int) -> None:
        """Let the rate fall."""
        for group in self._sgd.param_groups:
            group["lr"] = RATE * (1 - (epoch + 1) / self._epochs) ** POWER

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``ce``, ``ce_teacher``, the terms of `through_proxies` and their sum ``loss``."""
        student, teacher = self.student(batch.inputs), self._teacher(batch.inputs)
        terms = {
            "ce": self.cross_entropy(student.logits, batch),
            "ce_teacher": self.cross_entropy(teacher.logits, batch),
            **self.through_proxies(student, teacher, batch),
        }
        return {"loss": sum(terms.values()), **terms}  # type: ignore[dict-item]

    def through_proxies(
        self, student: Observed, teacher: Observed, batch: Batch
    ) -> dict[str, Tensor]:
        """``kd_student``, ``kd_teacher`` and ``kd_proxies``."""
        heat = self.setup.temperature
        of_student = self._proxy("student", student)
        of_teacher = self._proxy("teacher", teacher)
        return {
            "kd_student": _both_ways(student.logits, of_student, heat),
            "kd_teacher": _both_ways(teacher.logits, of_teacher, heat),
            "kd_proxies": self._between_proxies(of_student, of_teacher, batch),
        }

    def _proxy(self, name: str, observed: Observed) -> Tensor:
        logits: Tensor = self._proxies[name](observed.embedding)
        if logits.shape[2:] != observed.logits.shape[2:]:
            logits = nn.functional.interpolate(logits, observed.logits.shape[2:], mode="bilinear")
        return logits

    def _between_proxies(self, of_student: Tensor, of_teacher: Tensor, batch: Batch) -> Tensor:
        ignored, heat = self.setup.ignored, self.setup.temperature
        agree = _agreement(of_student, of_teacher) > 0
        if not agree.any():
            return of_student.sum() * 0
        own, other, label = per_place(
            of_student[agree], of_teacher[agree], batch.label[agree], ignored
        )
        towards_teacher = decoupled(own, other.detach(), label, heat)[1]
        towards_student = decoupled(other, own.detach(), label, heat)[1]
        both = towards_teacher + towards_student
        return mean_or_0(both) * agree.to(both.dtype).mean()


def kendall(first: Tensor, second: Tensor) -> Tensor:
    """Kendall's tau-b of every row, ``(B, K)`` and ``(B, K)`` to ``(B,)`` in [-1, 1].

    A row in which all values are tied gives 0.
    """
    one, other = (torch.sign(rows[:, :, None] - rows[:, None]) for rows in (first, second))
    concordant = (one * other).sum(dim=(1, 2))
    untied = (one.abs().sum(dim=(1, 2)) * other.abs().sum(dim=(1, 2))).sqrt()
    return concordant / untied.clamp(min=1)


@torch.no_grad()
def _agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """tau-b of each sample's logits; dense ones are averaged over their places first."""
    return kendall(pooled(student), pooled(teacher))


def _both_ways(net: Tensor, proxy: Tensor, temperature: float) -> Tensor:
    """Each learns from the other, which is held fast."""
    return (
        distillation(proxy, net.detach(), temperature).mean()
        + distillation(net, proxy.detach(), temperature).mean()
    )
