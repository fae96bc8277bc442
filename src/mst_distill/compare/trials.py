"""The trials of a comparison: each method once with each teacher that it can use."""

from __future__ import annotations

import hashlib
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.code_digest import code_of
from mst_distill.artifacts.progress import progress
from mst_distill.artifacts.provenance import Origin, plain_parameters, texts_in
from mst_distill.artifacts.signals import Interrupted
from mst_distill.benchmarks.splits import assign_splits, checked_splits, keep_labels
from mst_distill.compare.context import MethodResult
from mst_distill.compare.executors import Executor, WorkerDied, executor_of, workers_of
from mst_distill.compare.method import Method
from mst_distill.compare.teacher_cache import TeacherPool
from mst_distill.compare.teaching import resolve_methods, teach, teachers_for, train_teacher
from mst_distill.compare.trial_store import Trial, TrialLog, TrialResult
from mst_distill.data.samples import UNLABELLED, Samples
from mst_distill.data.store import open_store
from mst_distill.errors import is_expected
from mst_distill.evaluate.metrics import measure
from mst_distill.evaluate.predictions import evaluate_nets
from mst_distill.metric import metric_of
from mst_distill.mst.given_teachers import check_given, with_given
from mst_distill.mst.networks import arguments_of, build_members
from mst_distill.parameters import Member
from mst_distill.plan import Plan
from mst_distill.training.memory import Peak
from mst_distill.training.run import Run

log = logging.getLogger(__name__)


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

    def run_of(self, plan: Plan, splits: pd.DataFrame, target: str, seed: int) -> Run:
        """The run of one target and seed."""
        return Run(
            self.samples,
            splits,
            target,
            seed,
            plan.runtime,
            recipe=plan.training,
            metric=metric_of(plan.metric),
        )

    def reopen(self) -> Callable[[], Comparison]:
        """A function that opens the comparison in another process.

        If the samples are in a store, they are opened there, and not sent.
        """
        folder = self.samples.folder
        if self.plan.runtime.executor == "sequential" or folder is None or not folder.is_dir():
            return partial(_same, self)
        return partial(_reopened, folder.absolute(), self.plan, self.log)

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
                run = self.run_of(plan, splits, first, seed)
                check_given(with_given(run, plan.given), plan.given, plan.masks)
        for student in {*self.targets} & {*plan.students}:
            of_student = plan.with_student(student)
            run = self.run_of(of_student, splits, of_student.target, plan.seed)
            build_members(run, of_student)

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


def _reopened(folder: Path, plan: Plan, trial_log: TrialLog) -> Comparison:
    return Comparison(open_store(folder), plan, trial_log)


def run_trials(comparison: Comparison, tuning: pd.DataFrame | None = None) -> pd.DataFrame:
    """Run the trials for which the log has no result of the same origin, and return all results.

    A trial that fails is recorded with its error, and the next trial starts.

    Args:
        comparison: The comparison.
        tuning: The settings that were chosen, from `choose_settings`; by default the first ones.

    Returns:
        One row for each trial and selection criterion: the trial's attributes, ``selection``, the
        metrics on the held-out split, the costs and ``error``. A trial that failed has one row
        without metrics.

    Raises:
        ValueError, TypeError: See `Comparison.check`; raised before the first trial.
        RuntimeError: All trials failed; the message has the error of the first.
    """
    comparison.check()
    chosen = {} if tuning is None else chosen_settings(tuning)
    methods = comparison.plan.compare.methods
    planned = {
        trial: methods[trial.method].choices[chosen.get((trial.target, trial.title), 0)]
        for trials in comparison.trials().values()
        for trial in trials
    }
    results = list(results_of(comparison, planned, "trials").values())
    errors = [result.error for result in results if result.error]
    if errors and len(errors) == len(results):
        raise RuntimeError(f"all {len(results)} trials failed, the first with: {errors[0]}")
    return pd.DataFrame([row for result in results for row in _rows(result)])


def chosen_settings(tuning: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Return the number of the chosen setting by target and title, from `choose_settings`."""
    chosen = tuning[tuning["chosen"].astype(bool)]
    keys = zip(chosen["target"], chosen["title"], strict=True)
    return dict(zip(keys, map(int, chosen["setting"]), strict=True))


@dataclass(frozen=True)
class TrialJob:
    """The training of a trial or of a teacher, as a worker receives it.

    Attributes:
        trial: The trial, or a teacher, see `TrialRunner.teachers`.
        target: The student of the run to which it belongs.
        origin: What its result is made from.
        arguments: The arguments of its method; none for a teacher.
    """

    trial: Trial
    target: str
    origin: Origin
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The trial, for messages."""
        return f"{self.trial.title} ({self.trial.target}, seed {self.trial.seed})"

    @property
    def group(self) -> tuple[str, int]:
        """Jobs of one target and seed share their trained teachers."""
        return self.target, self.trial.seed


@dataclass(frozen=True)
class Outcome:
    """What a worker returns.

    Attributes:
        result: The result.
        bundle: The net; None if the training failed, or if it helps to choose a setting.
        traceback: Of an error that is not expected, or empty.
    """

    result: TrialResult
    bundle: ModelBundle | None = None
    traceback: str = ""


TrialExecutor = Executor[TrialJob, Outcome]


class TrialWorker:
    """Trains what it is given, with the teachers of the last run.

    Args:
        comparison: The comparison.
    """

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._group: tuple[str, int] | None = None

    def __call__(self, job: TrialJob) -> Outcome:
        """Train."""
        if job.group != self._group:
            self._runner = TrialRunner(self._comparison, *job.group)
            self._group = job.group
        return self._runner.outcome(job)


def open_worker(open_comparison: Callable[[], Comparison], threads: int) -> TrialWorker:
    """Open a comparison in a process with as many threads, and make its worker."""
    torch.set_num_threads(threads)
    return TrialWorker(open_comparison())


def results_of(
    comparison: Comparison, planned: Mapping[Trial, Mapping[str, Any]], title: str
) -> dict[Trial, TrialResult]:
    """Load the results of trials from the log, or run the trials, after the teachers they need.

    Args:
        comparison: The comparison.
        planned: The trials with the arguments of their methods.
        title: The title of the progress bar.
    """
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in planned:
        groups.setdefault((trial.target, trial.seed), []).append(trial)
    threads = max(1, torch.get_num_threads() // workers_of(comparison.plan.runtime))
    make_work = partial(open_worker, comparison.reopen(), threads)
    results: dict[Trial, TrialResult] = {}
    with executor_of(comparison.plan.runtime, make_work) as executor:
        teachers = _teachers_of(comparison, groups, executor)
        with progress(range(0), title, "trial", total=len(planned)) as bar:
            jobs = []
            for group, trials in groups.items():
                runner = TrialRunner(comparison, *group)
                for trial in trials:
                    found = runner.plan(trial, planned[trial], teachers)
                    if isinstance(found, TrialResult):
                        results[trial] = found
                        bar.update()
                    else:
                        jobs.append(found)
            for result in _run(comparison.log, executor, jobs, title, bar):
                results[result.trial] = result
    return {trial: results[trial] for trial in planned}


def _teachers_of(
    comparison: Comparison, groups: Iterable[tuple[str, int]], executor: TrialExecutor
) -> dict[Trial, TrialResult]:
    """Load the results of the teachers that some groups need from the log, or train them."""
    teachers: dict[Trial, TrialResult] = {}
    jobs: dict[Trial, TrialJob] = {}
    for group in groups:
        for job in TrialRunner(comparison, *group).teachers():
            if job.trial in teachers or job.trial in jobs:
                continue
            if found := comparison.log.find(job.trial, job.origin):
                teachers[job.trial] = found
            else:
                jobs[job.trial] = job
    if jobs:
        with progress(range(0), "teachers", "teacher", total=len(jobs)) as bar:
            for result in _run(comparison.log, executor, [*jobs.values()], "teachers", bar):
                teachers[result.trial] = result
    return teachers


def _run(
    trial_log: TrialLog, executor: TrialExecutor, jobs: Sequence[TrialJob], title: str, bar: Any
) -> Iterator[TrialResult]:
    """Run jobs, and record each in the log when it ends."""

    def announce(job: TrialJob) -> None:
        bar.set_description(f"{title}: {job.title}")

    with closing(executor.run(jobs, announce)) as outcomes:
        for job, outcome in outcomes:
            if isinstance(outcome, WorkerDied):
                outcome = Outcome(TrialResult(job.trial, error=f"WorkerDied: {outcome}"))
            if outcome.result.error:
                log.error("%s failed: %s%s", job.title, outcome.result.error, outcome.traceback)
            trial_log.record(outcome.result, job.origin, outcome.bundle)
            bar.update()
            yield outcome.result


class TrialRunner:
    """The trials of one target and one seed, which share their trained teachers.

    Args:
        comparison: The comparison.
        target: The student, as in `Comparison.targets`.
        seed: The seed. With one of tuning, neither students nor teachers are evaluated on the
            held-out split.
    """

    def __init__(self, comparison: Comparison, target: str, seed: int) -> None:
        self._tuning = seed in comparison.tuning_seeds
        self._target = target
        splits = assign_splits(comparison.samples.index, comparison.plan.protocol, seed)
        splits = keep_labels(splits, comparison.plan.label_shares, seed)
        self._comparison = comparison
        self._plan = plan = comparison.plan.with_student(target)
        run = comparison.run_of(plan, splits, plan.target, seed)
        self._run = with_given(run, plan.given)

    def teachers(self) -> Iterator[TrialJob]:
        """The trainings of all teachers, which are the same for all targets."""
        plan = self._plan
        for name, member in plan.members.teachers_of(self._run.target).items():
            parameters = {
                "seed": self._run.seed,
                "member": member,
                "teachers": plan.teachers,
                "selection": plan.selection,
            }
            yield TrialJob(self._teacher(name), self._target, self._origin(parameters))

    def plan(
        self,
        trial: Trial,
        arguments: Mapping[str, Any],
        teachers: Mapping[Trial, TrialResult],
    ) -> TrialJob | TrialResult:
        """Load the result of a trial from the log, or plan its job.

        Args:
            trial: The trial.
            arguments: The arguments of its method.
            teachers: The results of all `teachers`.
        """
        trial_log = self._comparison.log
        if self._run.samples.dense and not self._comparison.methods[trial.method].dense:
            return TrialResult(trial, error="the method does not support a label for every pixel")
        names = self._plan.members.teachers_of(self._run.target)
        failed = {name: of for name in names if (of := teachers[self._teacher(name)]).error}
        weights = {}
        if not failed:
            weights = {name: trial_log.identity(self._teacher(name)) for name in names}
        origin = self._origin(self._parameters_of(trial, arguments), weights)
        if found := trial_log.find(trial, origin):
            return found
        job = TrialJob(trial, self._target, origin, arguments)
        if not failed:
            return job
        name, of = next(iter(failed.items()))
        error = f"RuntimeError: the {name} teacher could not be trained: {of.error}"
        log.error("%s failed: %s", job.title, error)
        result = TrialResult(trial, error=error)
        trial_log.record(result, origin)
        return result

    def outcome(self, job: TrialJob) -> Outcome:
        """Train a net; an error is part of the outcome."""
        trial, origin = job.trial, job.origin
        checkpoints = self._comparison.log.checkpoints(trial, origin)
        run = replace(self._run, checkpoints=checkpoints)
        is_teacher = trial == self._teacher(trial.teacher)
        member_name = trial.teacher if is_teacher else run.target
        try:
            trained, cost = _measure_cost(run, self._prepare(run, job, is_teacher))
            metrics = _validation(trained)
            if not self._tuning:
                metrics = self._metrics(trained, member_name)
        except Interrupted:
            raise
        except Exception as error:  # one method that fails must not stop the comparison
            result = TrialResult(trial, error=f"{type(error).__name__}: {error}")
            unexpected = "" if is_expected(error) else "\n" + traceback.format_exc()
            return Outcome(result, traceback=unexpected)
        result = TrialResult(trial, metrics, cost)
        # No one needs the students of settings that are tried.
        if trial.setting is not None:
            return Outcome(result)
        member = self._plan.members.all_of(self._run.target)[member_name]
        return Outcome(result, self._bundle(trained, member, origin))

    def _prepare(self, run: Run, job: TrialJob, is_teacher: bool) -> Callable[[], MethodResult]:
        """The training as a function; what all trials share, the teachers, is loaded before."""
        trial, plan = job.trial, self._plan
        if is_teacher:
            return partial(train_teacher, run, plan, trial.teacher)
        method = self._comparison.methods[trial.method]
        return partial(teach, run, plan, self._pool, method, trial.teacher, job.arguments)

    def _teacher(self, name: str) -> Trial:
        return Trial("teacher", name, "teachers", self._run.seed)

    @cached_property
    def _pool(self) -> TeacherPool:
        plan = self._plan
        load = partial(self._comparison.log.bundle, allowed=plan.members.net_types())
        names = plan.members.teachers_of(self._run.target)
        nets = {name: load(self._teacher(name)).net for name in names}
        return TeacherPool(self._run, nets, plan.members, plan.route.batch_size)

    def _origin(
        self, parameters: Mapping[str, Any], teachers: Mapping[str, str] = MappingProxyType({})
    ) -> Origin:
        """Return everything that the result of a trial depends on."""
        runtime = {"precision": self._plan.runtime.precision}
        plain = plain_parameters({**parameters, "runtime": runtime})
        if recipe := self._plan.training.model_dump(mode="json"):
            plain["training"] = recipe
        if self._plan.metric != "accuracy":
            plain["metric"] = self._plan.metric
        splits = hashlib.sha256(self._run.splits.to_csv(index=False).encode()).hexdigest()
        inputs = {"samples": self._run.samples.digest, "splits": splits}
        inputs |= {f"{name} teacher": weights for name, weights in teachers.items()}
        return Origin("trial", plain, inputs, code_of(run_trials, *texts_in(plain)))

    def _metrics(self, trained: MethodResult, member_name: str) -> dict[str, dict[str, float]]:
        """Map each selection criterion to the scalar metrics on the held-out split.

        Those on the validation split, of the epoch that the criterion selects, begin with
        ``valid_``.
        """
        samples, size = self._run.samples, self._plan.route.batch_size
        bins = self._plan.evaluate.calibration_bins
        metric_counts = evaluate_nets(self._run, trained.students, member_name, size, bins)
        valid = _validation(trained)
        return {
            criterion: valid[criterion]
            | {name: value for name, value in metrics.items() if not isinstance(value, dict)}
            for criterion, metrics in (
                (criterion, measure(accumulator, samples.classes, samples.dense))
                for criterion, accumulator in metric_counts.items()
            )
        }

    def _bundle(self, trained: MethodResult, member: Member, origin: Origin) -> ModelBundle:
        """Bundle the net that the run's own criterion selects, or the net if there is only one."""
        criterion: str = self._plan.selection
        criterion = criterion if criterion in trained.students else next(iter(trained.students))
        row = trained.rows[criterion]
        return ModelBundle.of(
            trained.students[criterion].cpu(),  # to be sent to another process
            arguments_of(member, len(self._run.samples.classes)),
            metrics={name: row[f"valid_{name}"] for name in self._plan.validated},
            provenance=origin.record(),
        )

    def _parameters_of(self, trial: Trial, arguments: Mapping[str, Any]) -> dict[str, Any]:
        plan = self._plan
        method = plan.compare.methods[trial.method]
        per_batch = {} if self._run.unlabelled is None else {"per_batch": plan.labelled_per_batch}
        every = self._comparison.methods[trial.method].all_teachers
        given = {name: of for name, of in plan.given.items() if every or name == trial.teacher}
        return {
            **per_batch,
            **({"given": given} if given else {}),
            "seed": trial.seed,
            "target": plan.target,
            "teacher": trial.teacher,
            "method": {"type": method.type, "arguments": dict(arguments)},
            "compare": plan.compare.model_dump(include={"weight", "budget"}),
            "members": plan.members,
            "teachers": plan.teachers,
            "masks": plan.masks,
            "route": plan.route,
            "calibration_bins": plan.evaluate.calibration_bins,
        }


def _validation(trained: MethodResult) -> dict[str, dict[str, float]]:
    """Map each selection criterion to the validation metrics of the epoch that it selects."""
    return {
        criterion: {name: value for name, value in row.items() if name.startswith("valid_")}
        for criterion, row in trained.rows.items()
    }


def _measure_cost(
    run: Run, train: Callable[[], MethodResult]
) -> tuple[MethodResult, dict[str, float]]:
    """Call `train`; return its result and cost."""
    start = time.perf_counter()
    with Peak(run.device) as peak:
        trained = train()
    cost: dict[str, float] = {
        "student_epochs": trained.student_epochs,
        "seconds": time.perf_counter() - start + trained.seconds_before,
        "extra_parameters": trained.extra_parameters,
    }
    return trained, cost if peak.bytes is None else {**cost, "peak_bytes": peak.bytes}


def _rows(result: TrialResult) -> Iterator[dict[str, Any]]:
    trial = result.trial
    key = {
        "target": trial.target,
        "title": trial.title,
        "method": trial.method,
        "teacher": trial.teacher,
        "seed": trial.seed,
    }
    for criterion, metrics in result.metrics.items():
        yield {**key, "selection": criterion, **metrics, **result.cost, "error": ""}
    if result.error:
        yield {**key, "selection": "", "error": result.error}
