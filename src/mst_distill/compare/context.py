"""What a compared method works with: a new student, a teacher, batches and a number of epochs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from torch import Tensor, nn

from mst_distill.compare.teacher_cache import TeacherInputs, TeacherPool
from mst_distill.mst.features import FeatureExtractor
from mst_distill.mst.networks import build_members
from mst_distill.mst.supervision import supervision_of
from mst_distill.parameters import MULTIMODAL
from mst_distill.plan import Plan
from mst_distill.training.batches import Frozen, Inputs
from mst_distill.training.loop import Criterion, FitResult, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.seeding import Stream, derive_seed, generator
from mst_distill.training.selection import criteria
from mst_distill.training.task import Task

CROSSMODAL = "crossmodal"
"""A teacher that reads one modality, which is not the student's."""

GIVEN = "given"
"""A teacher that exists already and has logits alone."""

ANY = (MULTIMODAL, CROSSMODAL, GIVEN)
"""The teachers of a method that needs logits alone."""


@dataclass(frozen=True)
class MethodResult:
    """The result of training with a method.

    Attributes:
        students: Selection criterion to the student of the epoch that the criterion selects.
        rows: Selection criterion to the history row of that epoch.
        history: One row for each epoch of the phase from which the students are selected.
        student_epochs: Passes of the student over the training split, in all phases together.
        extra_parameters: Number of trained weights in addition to the student's.
        seconds_before: Seconds that another trial spent on results that this one reuses.
    """

    students: dict[str, nn.Module]
    rows: dict[str, dict[str, float]]
    history: pd.DataFrame
    student_epochs: int
    extra_parameters: int
    seconds_before: float = 0.0

    def with_earlier_phase(self, earlier: MethodResult) -> MethodResult:
        """Add the extra weights of an `earlier` phase of the same training."""
        return replace(self, extra_parameters=self.extra_parameters + earlier.extra_parameters)


class TrialContext:
    """One trial: a teacher, and a student with the start weights that all methods share.

    Attributes:
        student: The student.
        teacher_inputs: What every batch carries from the teacher.
        supervision: The loss on labels, and the metrics.

    Args:
        run: Data, target, seed and device.
        plan: All parameters.
        pool: The trained teachers.
        teacher_name: ``multimodal``, a modality, the name of a given teacher, or empty if there is
            no teacher.
        teacher_inputs: See the attribute.
    """

    def __init__(
        self,
        run: Run,
        plan: Plan,
        pool: TeacherPool,
        teacher_name: str,
        teacher_inputs: TeacherInputs,
    ) -> None:
        self.run = run
        self.plan = plan
        self.pool = pool
        self.teacher_name = teacher_name
        self.teacher_inputs = teacher_inputs
        self.supervision = supervision_of(run)
        self._frozen: Frozen | None = None
        self.new_student()

    @property
    def weight(self) -> float:
        """a, the weight of a method's terms at the start."""
        return self.plan.compare.weight

    @property
    def temperature(self) -> float:
        """Tau."""
        return self.plan.route.temperature

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return len(self.run.samples.classes)

    @property
    def epochs(self) -> int:
        """The epochs of a student that is trained in a single phase."""
        equal = self.plan.compare.budget == "equal"
        return self._all_epochs if equal else self.plan.route.epochs

    @property
    def _all_epochs(self) -> int:
        """The epochs of the student of MST-Distill, in stages 1 and 3."""
        return self.plan.teachers.epochs + self.plan.route.epochs

    @property
    def teacher_modalities(self) -> tuple[str, ...]:
        """The modalities that the teacher reads; none without a teacher."""
        if self._frozen is not None:
            return self._frozen.modalities
        return self.pool.reads(self.teacher_name) if self.teacher_name else ()

    @property
    def frozen_teacher(self) -> FeatureExtractor:
        """The teacher that was trained before the trial."""
        return self.pool.teacher(self.teacher_name)

    def new_teacher(self) -> FeatureExtractor:
        """Build a teacher with start weights, to be trained with the student."""
        return self._new(self.teacher_name)

    def new_peer(self) -> FeatureExtractor:
        """Build a net of the student's class with start weights of its own."""
        return self._new(self.run.target, derive_seed(self.run.seed, Stream.PEER))

    def new_student(self) -> None:
        """Replace the student by a new one and reset the count of its epochs."""
        self.student = self._new(self.run.target)
        self._student_epochs = 0

    def use_teacher(
        self, function: Callable[[Inputs], tuple[Tensor, ...]], reads: Sequence[str] = ()
    ) -> None:
        """Let later batches carry the output of `function` in place of the trained teacher's.

        Args:
            function: What it computes.
            reads: The names of its inputs; by default those of the teacher, or the student's if
                there is none.
        """
        names = tuple(reads) or self.teacher_modalities or (self.run.target,)
        self._frozen = Frozen(names, function)

    def fit(
        self,
        task: Task,
        epochs: int,
        selections: Mapping[str, Criterion] | None = None,
        phase: str = "",
    ) -> MethodResult:
        """Train a task; the student ends with the weights that the last criterion selects.

        Epoch for epoch, the order of the batches is that of the student of MST-Distill: first that
        of stage 1, then that of stage 3. A phase has the first epochs, and the training itself the
        last ones.

        Args:
            task: The loss and the trainable modules, of which the student is one.
            epochs: Number of epochs.
            selections: Selection criteria by name; by default all of them.
            phase: The name of a phase that comes before the training itself; part of the seeds of
                dropout and of the name of the checkpoint.
        """
        settings = self.plan.route.model_copy(update={"epochs": epochs})
        selections = selections or criteria(self.run.metric.name)
        stream = f"{Stream.COMPARE}{phase}"
        share = 1.0 if task.needs_labels else self.plan.labelled_per_batch
        done_before = 0 if phase else self._all_epochs - epochs
        stage_1 = self.plan.teachers.epochs - done_before
        order = Stream.TEACHERS if stage_1 > 0 else Stream.ROUTE
        if self._frozen is not None:
            batches = self.pool.batches_with(self._frozen, order, share)
        else:
            batches = self.pool.batches(self.teacher_name, self.teacher_inputs, order, share)
        self.run.seed_noise(stream)
        name = f"{type(task).__name__} {self.run.target} <- {self.teacher_name or 'no teacher'}"
        orders = {}
        if stage_1 > 0:
            orders[stage_1] = generator(self.run.seed, Stream.ROUTE, Stream.ORDER).get_state()
        stage = Stage(name, task, *batches, settings, selections, orders)
        done = fit(stage, self.run.runtime, self.run.checkpoint(stream), self.run.recipe)
        self._student_epochs += epochs
        return self._result(task, done)

    def _result(self, task: Task, done: FitResult) -> MethodResult:
        students = {}
        for criterion, best in done.best.items():
            task.trainable.load_state_dict(best.state)
            students[criterion] = copy.deepcopy(self.student.net).eval()
        rows = {criterion: best.row for criterion, best in done.best.items()}
        extra = count_weights(task.trainable) - count_weights(self.student.net)
        return MethodResult(students, rows, done.history, self._student_epochs, extra)

    def _new(self, name: str, seed: int | None = None) -> FeatureExtractor:
        run = self.run if seed is None else replace(self.run, seed=seed)
        net = self.run.place(build_members(run, self.plan)[name])
        layers = self.plan.members.all_of(self.run.target)[name].masked_layers
        return FeatureExtractor(name, net, layers, self.run.samples)


def count_weights(*nets: nn.Module) -> int:
    """Count the weights of all `nets` together."""
    return sum(weight.numel() for net in nets for weight in net.parameters())
