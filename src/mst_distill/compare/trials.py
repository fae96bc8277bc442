"""The trials of a comparison: each method once with each teacher that it can use."""

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
from mst_distill.benchmarks.splits import assign_splits, checked_splits, keep_labels
from mst_distill.compare.context import MethodResult
from mst_distill.compare.method import Method
from mst_distill.compare.teacher_cache import TeacherPool
from mst_distill.compare.teaching import resolve_methods, teach, teachers_for, train_teacher
from mst_distill.compare.trial_store import Trial, TrialLog, TrialResult
from mst_distill.data.samples import UNLABELLED, Samples
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
    trials_of = comparison.trials()
    results = []
    with progress(range(0), "trials", "trial", total=sum(map(len, trials_of.values()))) as bar:
        for (target, seed), trials in trials_of.items():
            runner = TrialRunner(comparison, target, seed)
            for trial in trials:
                bar.set_description(f"trials: {trial.title} ({target}, seed {seed})")
                setting = chosen.get((target, trial.title), 0)
                choices = comparison.plan.compare.methods[trial.method].choices
                results.append(runner.result_of(trial, choices[setting]))
                bar.update()
    errors = [result.error for result in results if result.error]
    if errors and len(errors) == len(results):
        raise RuntimeError(f"all {len(results)} trials failed, the first with: {errors[0]}")
    return pd.DataFrame([row for result in results for row in _rows(result)])


def chosen_settings(tuning: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Return the number of the chosen setting by target and title, from `choose_settings`."""
    chosen = tuning[tuning["chosen"].astype(bool)]
    keys = zip(chosen["target"], chosen["title"], strict=True)
    return dict(zip(keys, map(int, chosen["setting"]), strict=True))


class TrialRunner:
    """Runs the trials of one target and one seed, which share their trained teachers.

    Args:
        comparison: The comparison.
        target: The student, as in `Comparison.targets`.
        seed: The seed.
        tuning: Whether the trials help to choose settings: neither students nor teachers are then
            evaluated on the held-out split.
    """

    def __init__(
        self, comparison: Comparison, target: str, seed: int, tuning: bool = False
    ) -> None:
        self._tuning = tuning
        splits = assign_splits(comparison.samples.index, comparison.plan.protocol, seed)
        splits = keep_labels(splits, comparison.plan.label_shares, seed)
        self._comparison = comparison
        self._plan = plan = comparison.plan.with_student(target)
        run = comparison.run_of(plan, splits, plan.target, seed)
        self._run = with_given(run, plan.given)

    def result_of(self, trial: Trial, arguments: Mapping[str, Any]) -> TrialResult:
        """Load the result of a trial from the log, or run the trial.

        Args:
            trial: The trial.
            arguments: The arguments of its method.
        """
        method, plan = self._comparison.methods[trial.method], self._plan
        member = plan.members.modalities[plan.target]
        if self._run.samples.dense and not method.dense:
            return TrialResult(trial, error="the method does not support a label for every pixel")

        def prepare(run: Run) -> Callable[[], MethodResult]:
            return partial(teach, run, plan, self._pool, method, trial.teacher, arguments)

        teachers, _ = self._teachers
        parameters = self._parameters_of(trial, arguments)
        return self._load_or_run(trial, self._origin(parameters, teachers), member, prepare)

    @cached_property
    def _teachers(self) -> tuple[dict[str, str], str]:
        """The SHA-256 of every teacher's weights by its name, and an error or an empty text.

        Teachers that the log does not contain are trained now, once for each seed and for all
        targets. If a training fails there are no teachers, and the error gives the reason.
        """
        plan, trial_log = self._plan, self._comparison.log
        found = {}
        for name, member in plan.members.teachers_of(self._run.target).items():
            parameters = {
                "seed": self._run.seed,
                "member": member,
                "teachers": plan.teachers,
                "selection": plan.selection,
            }
            trial = self._teacher(name)

            def prepare(run: Run, name: str = name) -> Callable[[], MethodResult]:
                return partial(train_teacher, run, plan, name)

            result = self._load_or_run(trial, self._origin(parameters), member, prepare, name)
            if result.error:
                return {}, f"the {name} teacher could not be trained: {result.error}"
            found[name] = trial_log.identity(trial)
        return found, ""

    def _teacher(self, name: str) -> Trial:
        return Trial("teacher", name, "teachers", self._run.seed)

    @cached_property
    def _pool(self) -> TeacherPool:
        """The teachers.

        Raises:
            RuntimeError: The training of a teacher failed.
        """
        plan = self._plan
        teachers, error = self._teachers
        if error:
            raise RuntimeError(error)
        load = partial(self._comparison.log.bundle, allowed=plan.members.net_types())
        nets = {name: load(self._teacher(name)).net for name in teachers}
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

    def _load_or_run(
        self,
        trial: Trial,
        origin: Origin,
        member: Member,
        prepare: Callable[[Run], Callable[[], MethodResult]],
        member_name: str | None = None,
    ) -> TrialResult:
        """Load the result of a trial of this origin from the log, or run the trial.

        Args:
            trial: The trial.
            origin: What its result is made from.
            member: The parameters of the net that is trained.
            prepare: Maps a run to the training function.
            member_name: ``multimodal`` or the modality that this net reads; by default the target.
        """
        trial_log = self._comparison.log
        if found := trial_log.find(trial, origin):
            return found
        run = replace(self._run, checkpoints=trial_log.checkpoints(trial, origin))
        try:
            trained, cost = _measure_cost(run, prepare(run))
            metrics = _validation(trained)
            if not self._tuning:
                metrics = self._metrics(trained, member_name or run.target)
        except Interrupted:
            raise
        except Exception as error:  # one method that fails must not stop the comparison
            title = f"{trial.title} ({trial.target}, seed {trial.seed})"
            log.error("%s failed: %s", title, error, exc_info=not is_expected(error))
            result = TrialResult(trial, error=f"{type(error).__name__}: {error}")
            trial_log.record(result, origin)
            return result
        result = TrialResult(trial, metrics, cost)
        # No one needs the students of settings that are tried.
        kept = trial.setting is None
        trial_log.record(result, origin, self._bundle(trained, member, origin) if kept else None)
        return result

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
        return ModelBundle.of(
            trained.students[criterion],
            arguments_of(member, len(self._run.samples.classes)),
            metrics={name: trained.rows[criterion][f"valid_{name}"] for name in ("accuracy", "ce")},
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
