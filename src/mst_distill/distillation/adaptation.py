"""Stage 2, specialised teacher adaptation: masks pull frozen teachers towards the student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mst_distill.distillation.losses import cross_entropy, distillation
from mst_distill.distillation.members import build_mask, feature_shapes
from mst_distill.distillation.panel import assemble_panel, specialist_name
from mst_distill.distillation.specialists import SpecialisedTeacher
from mst_distill.parameters import Masks, Members
from mst_distill.training.batches import Batch, Frozen
from mst_distill.training.loop import Fit, Row, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed
from mst_distill.training.task import Task

STUDENT = "student"
"""The name under which a batch carries the frozen student's logits."""


class Adaptation(Task):
    """L_j = KD(specialist j <- student) + w CE(specialist j) for every mask j, each trained alone.

    The paper's stage of specialised teacher adaptation has no task loss: w = 0. The masks share no
    weight, so the gradient of the sum is to each that of its own loss, and one Adam over all steps
    each as an Adam of its own would.

    A batch carries, frozen, the student's logits and what each teacher's trunk gives.

    Args:
        teachers: Teacher name to its trunk and tails.
        masks: Specialist name (``teacher/layer``) to its mask, the same modules as in the tails.
        temperature: tau of KD.
        label_weight: w.
        ignored: The label that is no target, or None.
    """

    def __init__(
        self,
        teachers: Mapping[str, SpecialisedTeacher],
        masks: Mapping[str, nn.Module],
        temperature: float,
        label_weight: float = 0.0,
        ignored: int | None = None,
    ) -> None:
        self._label_weight = label_weight
        self._ignored = ignored
        self.trainable = nn.ModuleList(masks.values())
        self._masks = tuple(masks)
        self._teachers = teachers
        self._temperature = temperature

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``kd_TEACHER/LAYER`` a mask, ``ce_TEACHER/LAYER`` if it counts, and ``loss``, all L_j."""
        parts = list(self._parts(batch))
        loss = torch.stack([self._sum(part) for part in parts]).sum()
        return {"loss": loss, **{name: term for part in parts for name, term in part.items()}}

    def descend(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Go back through one mask at a time, so that no two hold their features at once."""
        terms: dict[str, Tensor] = {}
        losses = []
        for part in self._parts(batch):
            loss = self._sum(part)
            (share * loss).backward()
            losses.append(loss.detach())
            terms |= {name: term.detach() for name, term in part.items()}
        return {"loss": torch.stack(losses).sum(), **terms}

    def learner(self, weight: str) -> str:
        """The mask."""
        place, *_ = weight.split(".")
        return f"mask {self._masks[int(place)]!r}"

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """``kd_TEACHER/LAYER`` a mask, and ``ce_TEACHER/LAYER`` if it counts."""
        return {name: term for part in self._parts(batch) for name, term in part.items()}

    def _parts(self, batch: Batch) -> Iterator[dict[str, Tensor]]:
        """The terms of one mask after the other, KD first."""
        (student,) = batch.frozen[STUDENT]
        for teacher, specialised in self._teachers.items():
            for layer, tail in specialised.tails.items():
                logits = tail(*batch.frozen[teacher])
                name = specialist_name(teacher, layer)
                part = {f"kd_{name}": distillation(logits, student, self._temperature).mean()}
                if self._label_weight:
                    part[f"ce_{name}"] = cross_entropy(logits, batch.label, self._ignored)
                yield part

    def _sum(self, part: Mapping[str, Any]) -> Any:
        """L_j, of tensors or of a history's numbers."""
        kd, *ce = part.values()
        return kd + self._label_weight * ce[0] if ce else kd

    def joint_rule(self, row: Row) -> tuple[float, ...]:
        """Ranks an epoch: the smaller the sum over teachers of their masks' mean L, the higher."""

        def loss(specialist: str) -> float:
            names = [f"valid_{what}_{specialist}" for what in ("kd", "ce")]
            return float(self._sum({name: row[name] for name in names if name in row}))

        means = [
            sum(loss(specialist_name(teacher, layer)) for layer in specialised.tails)
            / len(specialised.tails)
            for teacher, specialised in self._teachers.items()
            if specialised.tails
        ]
        return (-sum(means),)


def prepare_masks(
    run: Run,
    teachers: Mapping[str, nn.Module],
    student: nn.Module,
    members: Members,
    settings: Masks,
) -> tuple[dict[str, nn.Module], Stage]:
    """Build a mask for every masked layer of every teacher, and lay out their training.

    Args:
        run: The run.
        teachers: Teacher name to its net after stage 1; frozen here.
        student: The target's net after stage 1; asked without gradient.
        members: Says which layers are masked.
        settings: Stage 2.

    Returns:
        Specialist name to its mask, and the stage that trains them.
    """
    run.place(student).eval()
    masks = build_masks(run, teachers, members, settings)
    panel = assemble_panel(run, teachers, masks, members)
    ignored = run.samples.ignored_label
    task = Adaptation(panel.teachers, masks, settings.temperature, settings.label_weight, ignored)
    frozen = {name: specialised.trunk for name, specialised in panel.teachers.items()}
    frozen[STUDENT] = Frozen((run.target,), lambda inputs: (student(inputs[run.target]),))
    batches = run.train_and_valid("masks", settings, (), frozen)
    run.seed_noise("masks")
    return masks, Stage("masks", task, *batches, settings, {"joint": task.joint_rule})


def train_masks(
    run: Run,
    teachers: Mapping[str, nn.Module],
    student: nn.Module,
    members: Members,
    settings: Masks,
) -> tuple[dict[str, nn.Module], Fit]:
    """Train a mask for every masked layer of every teacher; see `prepare_masks`.

    Returns:
        Specialist name to its mask, all from the one epoch with the smallest joint validation loss,
        and the fit.
    """
    masks, stage = prepare_masks(run, teachers, student, members, settings)
    done = fit(stage, run.runtime, run.checkpoint("masks"))
    stage.task.trainable.load_state_dict(done.kept["joint"].state)
    return masks, done


def build_masks(
    run: Run, teachers: Mapping[str, nn.Module], members: Members, settings: Masks
) -> dict[str, nn.Module]:
    """New masks by specialist name; the shapes are found by a dry forward pass of each teacher.

    Raises:
        ValueError: A layer does not exist or is too narrow; the message names teacher and layer.
    """
    masks: dict[str, nn.Module] = {}
    for teacher, member in members.teachers_of(run.target).items():
        shapes = feature_shapes(teacher, teachers[teacher], member.masked_layers, run.samples)
        for layer, shape in shapes.items():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(run.seed, "mask", teacher, layer))
                mask = build_mask(teacher, layer, shape, settings)
            masks[specialist_name(teacher, layer)] = mask
    return masks
