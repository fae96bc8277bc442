"""The trials of a comparison: every method with every teacher it can have, each run once."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import pandas as pd

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.code_digest import code_of
from mst_distill.artifacts.progress import progress
from mst_distill.artifacts.provenance import Origin, plain_parameters, texts_in
from mst_distill.artifacts.signals import Interrupted
from mst_distill.benchmarks.source import Protocol
from mst_distill.benchmarks.splits import assign_splits, checked_splits
from mst_distill.compare.context import Recipe, Taught
from mst_distill.compare.method import Method
from mst_distill.compare.teacher_cache import TeacherPool
from mst_distill.compare.teaching import resolve_methods, teach, teachers_for, train_teacher
from mst_distill.compare.trial_store import Outcome, Trial, TrialLog
from mst_distill.data.samples import Samples
from mst_distill.errors import unknown
from mst_distill.evaluate.metrics import measure
from mst_distill.evaluate.predictions import tally_nets
from mst_distill.mst.networks import arguments_of
from mst_distill.parameters import Evaluate, Member, Runtime
from mst_distill.training.memory import Peak
from mst_distill.training.run import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison is made of.

    Attributes:
        samples: The store.
        protocol: How samples are split.
        seed: The first run's.
        recipe: Parameters that change results.
        evaluate: How students are judged.
        runtime: How they are computed.
        log: Where trials are noted.
    """

    samples: Samples
    protocol: Protocol
    seed: int
    recipe: Recipe
    evaluate: Evaluate
    runtime: Runtime
    log: TrialLog

    @cached_property
    def methods(self) -> dict[str, type[Method]]:
        """Name in the parameters to the method."""
        return resolve_methods(self.recipe.compare)

    @property
    def targets(self) -> tuple[str, ...]:
        """The students' modalities.

        Raises:
            ValueError: There is no such modality.
        """
        modalities = tuple(self.recipe.members.modalities)
        wanted = self.recipe.compare.targets
        if wanted != "all" and wanted not in modalities:
            raise ValueError(unknown("compare.targets", wanted, ("all", *modalities)))
        return modalities if wanted == "all" else (wanted,)

    def plan(self) -> dict[tuple[str, int], list[Trial]]:
        """All trials, by target and seed.

        Raises:
            ValueError, TypeError: A method or target does not exist.
        """
        seeds = range(self.seed, self.seed + self.recipe.compare.seeds)
        return {
            (target, seed): [
                Trial(name, teacher, target, seed)
                for name, method in self.methods.items()
                for teacher in teachers_for(method, self.recipe, target)
            ]
            for seed in seeds
            for target in self.targets
        }


def run_trials(comparison: Comparison) -> pd.DataFrame:
    """Run what the log does not have on the same terms, and tell all.

    A trial that dies is noted with its reason, and the next one begins.

    Returns:
        A row a trial and rule of selection: the trial's attributes, ``rule``, the figures on the
        held-out split, the costs, ``error``. A trial that died has one row without figures.

    Raises:
        ValueError: A seed deals splits that nothing can be judged on; said before the first trial.
    """
    plan = comparison.plan()
    samples = comparison.samples
    for seed in dict.fromkeys(seed for _, seed in plan):
        classes, ignored = samples.classes, samples.ignored_label
        checked_splits(samples.index, classes, ignored, comparison.protocol, seed)
    outcomes = []
    with progress(range(0), "trials", "trial", total=sum(map(len, plan.values()))) as bar:
        for (target, seed), trials in plan.items():
            cell = _Cell(comparison, target, seed)
            for trial in trials:
                bar.set_description(f"trials: {trial.title} ({target}, seed {seed})")
                outcomes.append(cell.outcome(trial))
                bar.update()
    return pd.DataFrame([row for outcome in outcomes for row in _rows(outcome)])


class _Cell:
    """Runs the trials of one target and one seed; teachers are made ready for the first."""

    def __init__(self, comparison: Comparison, target: str, seed: int) -> None:
        splits = assign_splits(comparison.samples.index, comparison.protocol, seed)
        self._comparison = comparison
        self._run = Run(comparison.samples, splits, target, seed, comparison.runtime)

    def outcome(self, trial: Trial) -> Outcome:
        """From the log, or by running it now."""
        comparison, recipe = self._comparison, self._comparison.recipe
        method = comparison.methods[trial.method]
        arguments = recipe.compare.methods[trial.method].arguments
        member = recipe.members.modalities[trial.target]
        if self._run.samples.dense and not method.dense:
            return Outcome(trial, error="not for labels at every pixel")

        def prepare(run: Run) -> Callable[[], Taught]:
            return partial(teach, run, recipe, self._pool, method, trial.teacher, arguments)

        teachers, _ = self._teachers
        return self._finished(trial, self._origin(self._terms(trial), teachers), member, prepare)

    @cached_property
    def _teachers(self) -> tuple[dict[str, str], str]:
        """Every teacher of the target to the SHA-256 of its weights, or none and why not.

        They are in the log, or are trained now: once a seed, whoever their students are.
        """
        recipe, notes = self._comparison.recipe, self._comparison.log
        found = {}
        for name, member in recipe.members.teachers_of(self._run.target).items():
            terms = {"seed": self._run.seed, "member": member, "teachers": recipe.teachers}
            trial = self._teacher(name)

            def prepare(run: Run, name: str = name) -> Callable[[], Taught]:
                return partial(train_teacher, run, recipe, name)

            outcome = self._finished(trial, self._origin(terms), member, prepare, name)
            if outcome.error:
                return {}, f"there is no {name} teacher: {outcome.error}"
            found[name] = notes.identity(trial)
        return found, ""

    def _teacher(self, name: str) -> Trial:
        return Trial("teacher", name, "teachers", self._run.seed)

    @cached_property
    def _pool(self) -> TeacherPool:
        """The teachers.

        Raises:
            RuntimeError: The training of one died.
        """
        recipe = self._comparison.recipe
        teachers, error = self._teachers
        if error:
            raise RuntimeError(error)
        nets = {name: self._comparison.log.bundle(self._teacher(name)).net for name in teachers}
        return TeacherPool(self._run, nets, recipe.members, recipe.route.batch_size)

    def _origin(
        self, terms: Mapping[str, Any], teachers: Mapping[str, str] = MappingProxyType({})
    ) -> Origin:
        """What a trial's result depends on."""
        runtime = {"precision": self._comparison.runtime.precision}
        parameters = plain_parameters({**terms, "runtime": runtime})
        splits = hashlib.sha256(self._run.splits.to_csv(index=False).encode()).hexdigest()
        inputs = {"samples": self._run.samples.digest, "splits": splits}
        inputs |= {f"{name} teacher": weights for name, weights in teachers.items()}
        return Origin("trial", parameters, inputs, code_of(run_trials, *texts_in(parameters)))

    def _finished(
        self,
        trial: Trial,
        origin: Origin,
        member: Member,
        prepare: Callable[[Run], Callable[[], Taught]],
        sees: str | None = None,
    ) -> Outcome:
        """What the log has of a trial of this origin, or what comes of it now."""
        notes = self._comparison.log
        if found := notes.find(trial, origin):
            return found
        run = replace(self._run, checkpoints=notes.checkpoints(trial, origin))
        try:
            taught, cost = _measured(run, prepare(run))
            figures = self._figures(taught, sees or run.target)
        except Interrupted:
            raise
        except Exception as error:  # whatever a method dies of, the others shall run
            log.exception("%s (%s, seed %d) died", trial.title, trial.target, trial.seed)
            outcome = Outcome(trial, error=f"{type(error).__name__}: {error}")
            notes.note(outcome, origin)
            return outcome
        outcome = Outcome(trial, figures, cost)
        notes.note(outcome, origin, self._bundle(taught, member, origin))
        return outcome

    def _figures(self, taught: Taught, sees: str) -> dict[str, dict[str, float]]:
        """Rule to the figures on the held-out split that are single numbers."""
        samples, size = self._run.samples, self._comparison.recipe.route.batch_size
        bins = self._comparison.evaluate.calibration_bins
        tallies = tally_nets(self._run, taught.students, sees, size, bins)
        return {
            rule: {name: value for name, value in figures.items() if not isinstance(value, dict)}
            for rule, figures in (
                (rule, measure(tally, samples.classes, samples.dense))
                for rule, tally in tallies.items()
            )
        }

    def _bundle(self, taught: Taught, member: Member, origin: Origin) -> ModelBundle:
        """The net that the run's own rule prefers, or the only one there is."""
        rule: str = self._comparison.recipe.route.selection
        rule = rule if rule in taught.students else next(iter(taught.students))
        return ModelBundle.of(
            taught.students[rule],
            arguments_of(member, len(self._run.samples.classes)),
            metrics={name: taught.rows[rule][f"valid_{name}"] for name in ("accuracy", "ce")},
            provenance=origin.record(),
        )

    def _terms(self, trial: Trial) -> dict[str, Any]:
        recipe = self._comparison.recipe
        return {
            "seed": trial.seed,
            "target": trial.target,
            "teacher": trial.teacher,
            "method": recipe.compare.methods[trial.method],
            "compare": recipe.compare.model_dump(include={"weight", "budget"}),
            "members": recipe.members,
            "teachers": recipe.teachers,
            "masks": recipe.masks,
            "route": recipe.route,
            "calibration_bins": self._comparison.evaluate.calibration_bins,
        }


def _measured(run: Run, train: Callable[[], Taught]) -> tuple[Taught, dict[str, float]]:
    """What `train` gives, and what it costs."""
    start = time.perf_counter()
    with Peak(run.device) as peak:
        taught = train()
    cost: dict[str, float] = {
        "student_epochs": taught.student_epochs,
        "seconds": time.perf_counter() - start + taught.seconds_before,
        "extra_parameters": taught.extra_parameters,
    }
    return taught, cost if peak.bytes is None else {**cost, "peak_bytes": peak.bytes}


def _rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    trial = outcome.trial
    who = {
        "target": trial.target,
        "title": trial.title,
        "method": trial.method,
        "teacher": trial.teacher,
        "seed": trial.seed,
    }
    for rule, figures in outcome.figures.items():
        yield {**who, "rule": rule, **figures, **outcome.cost, "error": ""}
    if outcome.error:
        yield {**who, "rule": "", "error": outcome.error}
