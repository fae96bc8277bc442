"""Stage 2, specialised teacher adaptation: masks pull frozen teachers towards the student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from mst_distill.mst.ensemble import assemble_panel, specialist_name
from mst_distill.mst.losses import distillation
from mst_distill.mst.networks import build_mask, feature_shapes
from mst_distill.mst.split_teacher import SpecialisedTeacher
from mst_distill.parameters import Masks, Members
from mst_distill.training.batches import Batch, Frozen
from mst_distill.training.loop import Fit, Row, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed
from mst_distill.training.task import Task

STUDENT = "student"
"""The name under which a batch carries the frozen student's logits."""


class Adaptation(Task):
    """L_j = KD(specialist j <- student) for every mask j, each trained alone.

    This is the paper's stage of specialised teacher adaptation, which has no task loss. The masks
    share no weight, so the gradient of the sum is to each that of its own loss, and one Adam over
    all steps each as an Adam of its own would.

    A batch carries, frozen, the student's logits and what each teacher's trunk gives.

    Args:
        teachers: Teacher name to its trunk and tails.
        masks: Specialist name (``teacher/layer``) to its mask, the same modules as in the tails.
        temperature: tau of KD.
    """

    def __init__(
        self,
        teachers: Mapping[str, SpecialisedTeacher],
        masks: Mapping[str, nn.Module],
        temperature: float,
    ) -> None:
        self.trainable = nn.ModuleList(masks.values())
        self._masks = tuple(masks)
        self._teachers = teachers
        self._temperature = temperature

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``kd_TEACHER/LAYER`` a mask, and ``loss``, the sum of all L_j."""
        terms = dict(self._terms(batch))
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def descend(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Go back through one mask at a time, so that no two hold their features at once."""
        terms: dict[str, Tensor] = {}
        for name, loss in self._terms(batch):
            (share * loss).backward()
            terms[name] = loss.detach()
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def learner(self, weight: str) -> str:
        """The mask."""
        place, *_ = weight.split(".")
        return f"mask {self._masks[int(place)]!r}"

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """``kd_TEACHER/LAYER`` a mask."""
        return dict(self._terms(batch))

    def _terms(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """The loss of one mask after the other, by name."""
        (student,) = batch.frozen[STUDENT]
        for teacher, specialised in self._teachers.items():
            for layer, tail in specialised.tails.items():
                logits = tail(*batch.frozen[teacher])
                kd = distillation(logits, student, self._temperature).mean()
                yield f"kd_{specialist_name(teacher, layer)}", kd

    def joint_rule(self, row: Row) -> tuple[float, ...]:
        """Ranks an epoch: the smaller the sum over teachers of their masks' mean L, the higher."""
        means = [
            sum(row[f"valid_kd_{specialist_name(teacher, layer)}"] for layer in specialised.tails)
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
    task = Adaptation(panel.teachers, masks, settings.temperature)
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
