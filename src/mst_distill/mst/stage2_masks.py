"""Stage 2, specialised teacher adaptation: L2(m) = KD(specialist <- student) for every mask m.

Each mask is trained alone and adapts a frozen teacher to the frozen student.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from mst_distill.mst.ensemble import build_ensemble, specialist_name
from mst_distill.mst.losses import distillation, total
from mst_distill.mst.networks import build_mask, feature_shapes
from mst_distill.mst.split_teacher import SpecialisedTeacher
from mst_distill.plan import Plan
from mst_distill.training.batches import Batch, Frozen
from mst_distill.training.loop import FitResult, Row, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.seeding import Stream, seeded
from mst_distill.training.task import Task, backward

STUDENT = "student"
"""The name under which a batch carries the frozen student's logits."""


class Adaptation(Task):
    """L2(m) = KD(specialist of m <- student) for every mask m, each trained alone.

    This is the paper's specialised teacher adaptation, which has no task loss. The masks share no
    weight. The gradient of the summed loss with respect to a mask is therefore that of its own
    loss, and one Adam over all masks takes the same steps as one Adam for each.

    A batch carries, computed without gradient, the student's logits and the output of each
    teacher's trunk. If samples lack modalities, the loss of a mask is the mean over those that its
    teacher and the student can both see; there is none in a batch with fewer than two of these.

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
        """``kd_TEACHER/LAYER`` for each mask, and ``loss``, their sum."""
        terms = dict(self._terms(batch))
        return {"loss": total(terms.values(), batch.label), **terms}

    def descend(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Go backward through one mask at a time, so that only one holds its features."""
        terms: dict[str, Tensor] = {}
        for name, loss in self._terms(batch):
            backward(share * loss)
            terms[name] = loss.detach()
        return {"loss": total(terms.values(), batch.label), **terms}

    def learner(self, weight: str) -> str:
        """The mask that a weight belongs to."""
        position, *_ = weight.split(".")
        return f"mask {self._masks[int(position)]!r}"

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """``kd_TEACHER/LAYER`` for each mask."""
        return dict(self._terms(batch))

    def _terms(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """The losses of the masks by name, computed one after the other."""
        for teacher, specialised in self._teachers.items():
            if (found := batch.having_two(specialised.trunk.modalities)) is None:
                continue
            seen, _ = found
            (student,) = seen.frozen[STUDENT]
            for layer, tail in specialised.tails.items():
                logits = tail(*seen.frozen[teacher])
                kd = distillation(logits, student, self._temperature).mean()
                yield f"kd_{specialist_name(teacher, layer)}", kd

    def joint_criterion(self, row: Row) -> tuple[float, ...]:
        """Rank an epoch by minus the sum over teachers of the mean validation loss of their masks.

        All masks are taken from the same epoch.
        """
        means = [
            sum(row[f"valid_kd_{specialist_name(teacher, layer)}"] for layer in specialised.tails)
            / len(specialised.tails)
            for teacher, specialised in self._teachers.items()
            if specialised.tails
        ]
        return (-sum(means),)


def prepare_masks(
    run: Run, plan: Plan, nets: Mapping[str, nn.Module]
) -> tuple[dict[str, nn.Module], Stage]:
    """Build a mask for every masked layer of every teacher, and prepare their training.

    Args:
        run: The run.
        plan: All parameters.
        nets: Member name to its network after stage 1. The teachers are frozen here; the student is
            evaluated without gradient.

    Returns:
        Specialist name to its mask, and the stage that trains them.
    """
    student = run.place(nets[run.target]).eval()
    masks = build_masks(run, plan, nets)
    ensemble = build_ensemble(run, plan.members, nets, masks)
    # A given teacher without masks has nothing to train.
    unmasked = {name for name, of in run.given.items() if not of.masked_layers}
    teachers = {name: of for name, of in ensemble.teachers.items() if name not in unmasked}
    task = Adaptation(teachers, masks, plan.masks.temperature)
    frozen = {name: specialised.trunk for name, specialised in teachers.items()}
    frozen[STUDENT] = Frozen((run.target,), lambda inputs: (student(inputs[run.target]),))
    batches = run.train_and_valid(Stream.MASKS, plan.masks, (), frozen, needed=[run.target])
    run.seed_noise(Stream.MASKS)
    return masks, Stage("masks", task, *batches, plan.masks, {"joint": task.joint_criterion})


def train_masks(
    run: Run, plan: Plan, nets: Mapping[str, nn.Module]
) -> tuple[dict[str, nn.Module], FitResult]:
    """Train a mask for every masked layer of every teacher; see `prepare_masks`.

    Returns:
        Specialist name to its mask, all at the epoch with the smallest joint validation loss, and
        the fit.
    """
    masks, stage = prepare_masks(run, plan, nets)
    done = fit(stage, run.runtime, run.checkpoint("masks"), run.recipe)
    stage.task.trainable.load_state_dict(done.best["joint"].state)
    return masks, done


def build_masks(run: Run, plan: Plan, nets: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Build new masks by specialist name; a forward pass of each teacher gives their shapes.

    Raises:
        ValueError: A layer does not exist or is too narrow; the message names teacher and layer.
    """
    masks: dict[str, nn.Module] = {}
    trained = plan.members.teachers_of(run.target)
    layers = {name: (nets[name], member.masked_layers) for name, member in trained.items()}
    layers |= {name: (of.net, of.masked_layers) for name, of in run.given.items()}
    for teacher, (net, masked) in layers.items():
        member = run.member_of(teacher)
        shapes = feature_shapes(teacher, net, masked, run.samples, member)
        for layer, shape in shapes.items():
            with seeded(run.seed, Stream.MASK, teacher, layer):
                mask = build_mask(teacher, layer, shape, plan.masks)
            masks[specialist_name(teacher, layer)] = mask
    return masks
