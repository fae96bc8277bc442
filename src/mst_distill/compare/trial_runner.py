"""The training of one trial or teacher, in whatever process it takes place."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import torch

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.code_digest import code_of
from mst_distill.artifacts.provenance import Origin, plain_parameters, texts_in
from mst_distill.artifacts.signals import Interrupted
from mst_distill.benchmarks.splits import assign_splits, keep_labels
from mst_distill.compare.comparison import Comparison
from mst_distill.compare.context import MethodResult
from mst_distill.compare.teacher_cache import TeacherPool
from mst_distill.compare.teaching import teach, train_teacher
from mst_distill.compare.trial_store import Trial, TrialResult
from mst_distill.errors import is_expected
from mst_distill.evaluate.metrics import measure
from mst_distill.evaluate.predictions import evaluate_nets
from mst_distill.mst.given_teachers import with_given
from mst_distill.mst.networks import arguments_of
from mst_distill.mst.plan_run import run_of
from mst_distill.parameters import Member
from mst_distill.training.memory import Peak, share_memory
from mst_distill.training.run import Run

log = logging.getLogger(__name__)


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
    def identity(self) -> str:
        """A name that another run gives the same job, and no other job."""
        return hashlib.sha256(f"{self.trial.key} {self.origin.digest}".encode()).hexdigest()

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


def open_worker(
    open_comparison: Callable[[], Comparison], *, threads: int | None, sharers: int | None
) -> TrialWorker:
    """Open a comparison in one of several processes, and make its worker.

    Args:
        open_comparison: See `Comparison.reopen`.
        threads: The number of threads; None for those that PyTorch chooses.
        sharers: The number of workers that share the memory; None for as many as the processors of
            the machine have room for.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    share_memory(sharers or max(1, (os.cpu_count() or 1) // (threads or 1)))
    return TrialWorker(open_comparison())


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
        of_seed = plan.model_copy(update={"seed": seed})
        self._run = with_given(run_of(comparison.samples, splits, of_seed), plan.given)

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
        return Origin("trial", plain, inputs, code_of(TrialRunner, *texts_in(plain)))

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
