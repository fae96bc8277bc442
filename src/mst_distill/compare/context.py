"""What a compared method has in hand: a new student, a teacher, batches, so and so many epochs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd
from torch import nn

from mst_distill.compare.teacher_cache import Hears, Say, TeacherPool
from mst_distill.mst.features import Observer
from mst_distill.mst.networks import build_members
from mst_distill.parameters import Compare, Masks, Members, Route, Teachers
from mst_distill.training.loop import Fit, Rule, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.selection import SELECTION
from mst_distill.training.task import Task

CROSSMODAL = "crossmodal"
"""A teacher that sees one modality, and not the student's."""


@dataclass(frozen=True)
class Recipe:
    """The blocks of parameters that a trial depends on."""

    members: Members
    teachers: Teachers
    masks: Masks
    route: Route
    compare: Compare


@dataclass(frozen=True)
class Taught:
    """What a method leaves behind.

    Attributes:
        students: Rule of selection to the student of the epoch that it prefers.
        rows: Rule to that epoch's figures.
        history: A row an epoch of the part that students are selected from.
        student_epochs: How often the student has seen the training split, all parts together.
        extra_parameters: Weights that learned beside the student's.
        seconds_before: That another trial has spent on what this one needed too.
    """

    students: dict[str, nn.Module]
    rows: dict[str, dict[str, float]]
    history: pd.DataFrame
    student_epochs: int
    extra_parameters: int
    seconds_before: float = 0.0

    def beside(self, part: Taught) -> Taught:
        """The same, after a `part` in which other weights learned."""
        return replace(self, extra_parameters=self.extra_parameters + part.extra_parameters)


class Setup:
    """One trial: a student with the start weights that every method's student has, and a teacher.

    Attributes:
        student: The student.
        hears: What the method wants of the teacher in every batch.

    Args:
        run: Data, target, seed, device.
        recipe: The parameters.
        pool: The trained teachers.
        teacher_name: ``multimodal``, a modality, or empty where nobody teaches.
        hears: See there.
    """

    def __init__(
        self, run: Run, recipe: Recipe, pool: TeacherPool, teacher_name: str, hears: Hears
    ) -> None:
        self.run = run
        self.recipe = recipe
        self.pool = pool
        self.teacher_name = teacher_name
        self.hears = hears
        self._say: Say | None = None
        self.start_anew()

    @property
    def weight(self) -> float:
        """a, the share of a method's terms at the start."""
        return self.recipe.compare.weight

    @property
    def temperature(self) -> float:
        """Tau."""
        return self.recipe.route.temperature

    @property
    def ignored(self) -> int | None:
        """The label that is no target, or None."""
        return self.run.samples.ignored_label

    @property
    def classes(self) -> int:
        """C."""
        return len(self.run.samples.classes)

    @property
    def epochs(self) -> int:
        """Of a student that is taught in one go."""
        equal = self.recipe.compare.budget == "equal"
        return self.recipe.route.epochs + (self.recipe.teachers.epochs if equal else 0)

    @property
    def frozen_teacher(self) -> Observer:
        """The teacher that was trained before."""
        return self.pool.teacher(self.teacher_name)

    def new_teacher(self) -> Observer:
        """A teacher with start weights, to be trained with the student."""
        return self._new(self.teacher_name)

    def start_anew(self) -> None:
        """Take a new student; the epochs of the one before do not count."""
        self.student = self._new(self.run.target)
        self._epochs_behind = 0

    def hear(self, say: Say) -> None:
        """Let batches carry what `say` makes of the teacher's inputs, from now on."""
        self._say = say

    def fit(
        self,
        task: Task,
        epochs: int,
        learning_rate: float | None = None,
        rules: Mapping[str, Rule] = SELECTION,
        part: str = "",
    ) -> Taught:
        """Train a task; the student is left as the last of the rules prefers it.

        Args:
            task: What learns and from what; the student is part of its ``trainable``.
            epochs: How long.
            learning_rate: Another than that of stage 3.
            rules: Which epochs to keep.
            part: Of a training in several parts.
        """
        rate = learning_rate or self.recipe.route.learning_rate
        settings = self.recipe.route.model_copy(update={"epochs": epochs, "learning_rate": rate})
        stage = f"compare{part}"
        if self._say:
            batches = self.pool.told(self.teacher_name, self._say, stage)
        else:
            batches = self.pool.batches(self.teacher_name, self.hears, stage)
        self.run.seed_noise(stage)
        name = f"{type(task).__name__} {self.run.target} <- {self.teacher_name or 'nobody'}"
        ready = Stage(name, task, *batches, settings, rules)
        done = fit(ready, self.run.runtime, self.run.checkpoint(stage))
        self._epochs_behind += epochs
        return self._taught(task, done)

    def _taught(self, task: Task, done: Fit) -> Taught:
        students = {}
        for rule, kept in done.kept.items():
            task.trainable.load_state_dict(kept.state)
            students[rule] = copy.deepcopy(self.student.net).eval()
        rows = {rule: kept.row for rule, kept in done.kept.items()}
        extra = count_weights(task.trainable) - count_weights(self.student.net)
        return Taught(students, rows, done.history, self._epochs_behind, extra)

    def _new(self, name: str) -> Observer:
        members, masks = self.recipe.members, self.recipe.masks
        net = self.run.place(build_members(self.run, members, masks)[name])
        layers = members.all_of(self.run.target)[name].masked_layers
        return Observer(name, net, layers, self.run.samples)


def count_weights(*nets: nn.Module) -> int:
    """Weights of all `nets` together."""
    return sum(weight.numel() for net in nets for weight in net.parameters())
