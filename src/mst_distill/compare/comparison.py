"""The inputs of a comparison: its trials, and the checks before the first of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from mst_distill.benchmarks.splits import checked_splits
from mst_distill.compare.method import Method
from mst_distill.compare.teaching import resolve_methods, teachers_for
from mst_distill.compare.trial_store import Trial, TrialLog
from mst_distill.data.samples import UNLABELLED, Samples
from mst_distill.data.store import open_store
from mst_distill.mst.given_teachers import check_given, with_given
from mst_distill.mst.networks import build_members
from mst_distill.mst.plan_run import run_of
from mst_distill.plan import Plan


@dataclass(frozen=True)
class Comparison:
    """The inputs of a comparison, and the log of its trials.

    Attributes:
        samples: The store.
        plan: All parameters; ``seed`` is the first of the seeds.
        log: Receives the results.
    """

    samples: Samples
    plan: Plan
    log: TrialLog

    @cached_property
    def methods(self) -> dict[str, type[Method]]:
        """Name in the parameters to the class of the method."""
        return resolve_methods(self.plan.compare)

    @property
    def targets(self) -> tuple[str, ...]:
        """The students: names of modalities, and of students of other sizes."""
        return self.plan.compared_students

    @property
    def _lacks_labels(self) -> bool:
        """Whether training samples lack a label, or the run hides some."""
        samples = self.samples
        unknown = not samples.dense and bool((samples.labels == UNLABELLED).any())
        return unknown or self.plan.labelled < 1

    def trials(self) -> dict[tuple[str, int], list[Trial]]:
        """List all trials by target and seed.

        Raises:
            ValueError, TypeError: A method or target does not exist.
        """
        seeds = range(self.plan.seed, self.plan.seed + self.plan.compare.seeds)
        methods = {
            name: method
            for name, method in self.methods.items()
            if self._lacks_labels or not method.needs_unlabelled
        }
        return {
            (target, seed): [
                Trial(name, teacher, target, seed)
                for name, method in methods.items()
                for teacher in teachers_for(
                    method, self.plan, self.plan.members.modality_of(target)
                )
            ]
            for seed in seeds
            for target in self.targets
        }

    def reopen(self) -> Callable[[], Comparison]:
        """A function that opens the comparison in another process.

        If the samples are in a store, they are opened there, and not sent.
        """
        folder = self.samples.folder
        if self.plan.runtime.executor == "sequential" or folder is None or not folder.is_dir():
            return partial(_same, self)
        return partial(_reopened, Path.cwd(), folder.absolute(), self.plan, self.log)

    @property
    def tuning_seeds(self) -> range:
        """The seeds on which settings are chosen."""
        first = self.plan.compare.first_tuning_seed
        return range(first, first + self.plan.compare.tuning_seeds)

    def check(self) -> None:
        """Check methods, targets, terms, and the splits of every seed.

        Raises:
            ValueError, TypeError: A method or target does not exist, the terms are not equal for
                all methods, tuning would see what is reported, or the splits of a seed cannot be
                evaluated.
        """
        samples, plan = self.samples, self.plan
        for key in ("learning_rate", "batch_size"):
            first, last = getattr(plan.teachers, key), getattr(plan.route, key)
            if first != last:
                raise ValueError(
                    f"teachers.{key} is {first} and route.{key} is {last}: MST-Distill would be "
                    f"trained with both and the other methods with the latter. Set both to one "
                    f"value, for example --params=teachers.{key}={last}"
                )
        seeds = list(dict.fromkeys(seed for _, seed in self.trials()))
        if self.tuning_seeds:
            self._check_tuning(seeds)
        for seed in (*seeds, *self.tuning_seeds):
            classes, ignored = samples.classes, samples.ignored_label
            splits = checked_splits(
                samples.index, classes, ignored, plan.protocol, seed, plan.label_shares
            )
            if plan.given:
                first = next(iter(samples.modalities))
                of_seed = plan.model_copy(update={"target": first, "seed": seed})
                run = run_of(samples, splits, of_seed)
                check_given(with_given(run, plan.given), plan.given, plan.masks)
        for student in {*self.targets} & {*plan.students}:
            of_student = plan.with_student(student)
            build_members(run_of(samples, splits, of_student), of_student)

    def _check_tuning(self, seeds: list[int]) -> None:
        if common := sorted({*seeds} & {*self.tuning_seeds}):
            raise ValueError(
                f"seed {common[0]} would be reported and used for tuning: set "
                f"compare.first_tuning_seed to {max(seeds) + 1} or more"
            )
        if self.plan.protocol == "random":
            raise ValueError(
                "with protocol=random, the seeds of tuning validate on samples that other seeds "
                "test on: choose protocol=heldout, or compare.tuning_seeds=0"
            )


def _same(comparison: Comparison) -> Comparison:
    return comparison


def _reopened(project: Path, folder: Path, plan: Plan, trial_log: TrialLog) -> Comparison:
    for shared in (project, folder):
        if not shared.is_dir():
            raise FileNotFoundError(
                f"{shared} does not exist on {platform.node()}: project and data must be on "
                f"storage that all nodes share under one path, see docs/scaling.md"
            )
    os.chdir(project)  # paths in the parameters are relative to it
    return Comparison(open_store(folder), plan, trial_log)
