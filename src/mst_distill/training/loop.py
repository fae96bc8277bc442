"""The training loop: epochs over batches, one optimiser, and the weights of the best epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NoReturn, TypeVar

import pandas as pd
import torch
from torch import Tensor

from mst_distill.artifacts.checkpoint import Checkpoint, State
from mst_distill.artifacts.progress import figures, progress
from mst_distill.artifacts.signals import asked
from mst_distill.metric import Terms
from mst_distill.parameters import Runtime, Training, TrainingRecipe
from mst_distill.training.batches import Batch, Batches
from mst_distill.training.device import autocast, wide_products
from mst_distill.training.graphs import StepGraphs
from mst_distill.training.memory import naming_memory
from mst_distill.training.micro_batches import MicroBatcher
from mst_distill.training.not_finite import (
    FiniteSteps,
    Step,
    describe_ranges,
    find_not_finite,
    list_some,
)
from mst_distill.training.optimisation import SCALE, clip_gradients, rate_factor
from mst_distill.training.task import Task

V = TypeVar("V", Tensor, Tensor | Terms)

PUBLISHED = TrainingRecipe()
"""The recipe of the method's paper."""

Row = dict[str, float]
"""One epoch: ``epoch`` (from 0), ``train_*`` (mean loss terms), ``valid_*`` (metrics after it)."""

Criterion = Callable[[Row], tuple[float, ...]]
"""Ranks an epoch; the epoch of the highest rank is selected, on a tie the first."""


@dataclass(frozen=True)
class BestEpoch:
    """The row of the epoch that a criterion selects, and the state of `Task.trainable` after it."""

    row: Row
    state: dict[str, Tensor]


@dataclass(frozen=True)
class FitResult:
    """The result of a training: one row for each epoch, and the best epoch for each criterion."""

    history: pd.DataFrame
    best: dict[str, BestEpoch]


@dataclass(frozen=True)
class Stage:
    """A training that is ready to begin.

    Attributes:
        name: The name in the progress bar and in error messages.
        task: The modules that are trained, and their loss.
        train: Training batches.
        valid: Validation batches, evaluated after every epoch.
        settings: Number of epochs and learning rate.
        selections: Name to criterion; the weights of the epoch that each one selects are stored.
        orders: Number of an epoch to the state of the generator, see `Batches.order`, from which
            its order and those of later epochs are drawn; by default all follow from the first.
    """

    name: str
    task: Task
    train: Batches
    valid: Batches
    settings: Training
    selections: Mapping[str, Criterion]
    orders: Mapping[int, Tensor] = field(default_factory=dict)


def fit(
    stage: Stage,
    runtime: Runtime,
    checkpoint: Checkpoint | None = None,
    recipe: TrainingRecipe = PUBLISHED,
) -> FitResult:
    """Train a stage with its task's optimiser.

    If a batch does not fit in the GPU's memory, its gradient is accumulated over micro-batches. If
    the loss is a mean over samples and the nets have no batch statistics, the result differs by
    rounding alone. Every other quantity over a batch is then computed over each micro-batch:
    batch statistics, the balance loss of a router, relations between samples, and the mean over
    labelled pixels.

    Args:
        stage: The stage to train.
        runtime: Precision.
        checkpoint: The file to which the state is saved from time to time. An interrupted training
            continues from it and ends with the same weights, rows and metrics.
        recipe: Optimiser, learning rate over the steps, and the clipping of gradients.

    Raises:
        torch.OutOfMemoryError: The smallest micro-batch, the state of the optimiser or a copy of
            the weights does not fit in the GPU's memory.
        FloatingPointError: A loss term, a gradient or a metric is not finite. It is raised before
            any weight changes. The message names the term, or the module that the gradient belongs
            to. It also gives stage, epoch and step, and the samples with the range of their values
            by modality.
    """
    training = _Training(stage, runtime, checkpoint, recipe)
    epochs, steps = stage.settings.epochs, len(stage.train)
    with (
        naming_memory(f"stage {stage.name!r}", "choose smaller nets"),
        wide_products(stage.train.device, stage.task.trainable),
        progress(
            range(0), stage.name, "step", total=epochs * steps, done=training.steps_done
        ) as bar,
    ):
        for epoch in range(len(training.rows), epochs):
            bar.set_description(f"{stage.name} epoch {epoch + 1}/{epochs}")
            for _ in training.train_epoch():
                bar.update()
            training.end_epoch()
            bar.set_postfix_str(figures(_headline_metrics(training.rows[-1])), refresh=False)
    return training.finish()


class _Training:
    """A training in progress: optimiser, rows, best epochs, and the position in the epoch."""

    def __init__(
        self,
        stage: Stage,
        runtime: Runtime,
        checkpoint: Checkpoint | None,
        recipe: TrainingRecipe = PUBLISHED,
    ) -> None:
        self._stage = stage
        self._recipe = recipe
        self._task = stage.task
        self._task.epochs = stage.settings.epochs
        self._runtime = runtime
        self._checkpoint = checkpoint
        self._optimiser = stage.task.optimiser(stage.settings.learning_rate, recipe)
        self._finite_steps = FiniteSteps(self._optimiser, stage.train.device)
        self.rows: list[Row] = []
        self._best: dict[str, BestEpoch] = {}
        self._step = 0
        self._means = _Means()
        self._micro_batcher = MicroBatcher(f"stage {stage.name!r}")
        self._graphs = self._make_graphs()
        self._finished = False
        if checkpoint and (state := checkpoint.load()):
            self._restore(state)

    @property
    def steps_done(self) -> int:
        """Number of steps that are done, including those before an interruption."""
        return len(self.rows) * len(self._stage.train) + self._step

    def train_epoch(self) -> Iterator[None]:
        """Take the remaining steps of the current epoch one at a time."""
        if self._step == 0 and (new := self._stage.orders.get(len(self.rows))) is not None:
            self._stage.train.order = new
        # The state of the generator before it draws the order of this epoch. A training that
        # continues in the middle of the epoch restores it and draws the same order.
        order = self._stage.train.order
        self._task.start_epoch(len(self.rows))
        self._task.trainable.train()
        for step in self._take_steps():
            self._check(self._finite_steps.add(step))
            terms = step.values[: len(step.terms)].clone()  # without the norms, in a checkpoint
            self._means.add(step.terms, terms, len(step.entry))
            self._step += 1
            # After a signal the next update of the progress bar raises `Interrupted`: the state is
            # saved before that.
            if self._checkpoint and (self._checkpoint.due or asked()):
                self._check(self._finite_steps.first())
                self._checkpoint.save(self._state(order))
            yield

    def _take_steps(self) -> Iterator[Step]:
        train = self._stage.train
        if self._graphs is None:
            yield from map(self._take, train.start(self._step, len(self.rows)))
            return
        for entry in train.entries(self._step, len(self.rows)):
            constants = self._task.constants()
            if self._micro_batcher.size is not None:  # batches do not fit in memory
                self._graphs = None
            if self._graphs is None or constants is None:
                yield self._take_at(entry)
            else:
                step = self._graphs.take(entry, constants, self._take_whole, self._take_at)
                yield replace(step, number=self._step)

    def _make_graphs(self) -> StepGraphs | None:
        """CUDA graphs, if steps consist of nothing but operations on the GPU."""
        train = self._stage.train
        if not self._runtime.graphs or self._task.constants() is None:
            return None
        if self._recipe.schedule != "constant":  # the rate is a number of the host
            return None
        if not (self._finite_steps.on_device and train.is_on_device):
            return None
        return StepGraphs(self._optimiser, train.device)

    def _take_whole(self, entry: Tensor) -> Step:
        """Take a step on the samples with some `Batch.entry`, all at once."""
        batch = self._stage.train.complete(entry)
        with autocast(self._stage.train.device, self._runtime):
            terms = self._task.descend(batch)
        return self._update(batch, terms)

    def _take_at(self, entry: Tensor) -> Step:
        """Take a step on the samples with some `Batch.entry`."""
        return self._take(self._stage.train.complete(entry))

    def _take(self, batch: Batch) -> Step:
        """Take a step, in micro-batches if memory requires it."""
        with autocast(self._stage.train.device, self._runtime):
            terms = self._in_micro_batches(batch, self._task.descend, self._make_undo())
        return self._update(batch, terms)

    def _update(self, batch: Batch, terms: Mapping[str, Tensor]) -> Step:
        """Change the weights, unless a loss term or a gradient is not finite."""
        step = Step.of(self._step, batch.entry, terms, self._task.trainable)
        self._check(self._finite_steps.guard(step))
        if self._recipe.gradient_clip is not None:
            clip_gradients(self._task.parts(), self._recipe.gradient_clip)
        self._set_rate()
        self._optimiser.step()
        self._optimiser.zero_grad()
        return step

    def _set_rate(self) -> None:
        """Set the learning rate of the step, which depends on its number alone."""
        if self._recipe.schedule == "constant" or not self._task.follows_schedule:
            return
        settings = self._stage.settings
        steps = settings.epochs * len(self._stage.train)
        rate = settings.learning_rate * rate_factor(self._recipe, self.steps_done, steps)
        for group in self._optimiser.param_groups:
            group["lr"] = group.get(SCALE, 1.0) * rate

    def end_epoch(self) -> None:
        """Validate the epoch, and store its weights if a criterion selects it."""
        self._check(self._finite_steps.first())
        epoch, valid = len(self.rows), self._stage.valid
        row = {"epoch": float(epoch), **self._means.row("train_")}
        self._task.trainable.eval()
        means, terms = _Means(), dict[str, list[Terms]]()
        for batch in valid:
            with torch.no_grad(), autocast(valid.device, self._runtime):
                metrics = self._in_micro_batches(
                    batch, lambda micro_batch, _share: self._task.validate(micro_batch)
                )
            scalars = {name: of for name, of in metrics.items() if isinstance(of, Tensor)}
            means.add(tuple(scalars), torch.stack([*scalars.values()]), len(batch.label))
            for name, of in metrics.items():
                if isinstance(of, Terms):
                    terms.setdefault(name, []).append(of)
        of_valid = means.row("valid_")
        found = {name: torch.tensor(value) for name, value in {**row, **of_valid}.items()}
        if problem := find_not_finite(found):
            self._raise_not_finite(f"{problem} in")
        row |= {f"valid_{name}": Terms.join(parts).value() for name, parts in terms.items()}
        row |= of_valid
        self.rows.append(row)
        for name, rank in self._stage.selections.items():
            if name not in self._best or rank(row) > rank(self._best[name].row):
                self._best[name] = BestEpoch(row, _copy_state(self._task, self._best.get(name)))
        self._task.end_epoch(epoch)
        self._step, self._means = 0, _Means()

    def _make_undo(self) -> Callable[[], None]:
        """Return a function that reverts a step in which memory ran out.

        Running batch statistics are not reverted.
        """
        before = self._task.state()

        def undo() -> None:
            self._optimiser.zero_grad()
            self._task.load_state(before)

        return undo

    def _in_micro_batches(
        self,
        batch: Batch,
        compute: Callable[[Batch, float], Mapping[str, V]],
        undo: Callable[[], None] | None = None,
    ) -> Mapping[str, V]:
        """Apply `compute` to a batch, in micro-batches if memory requires it.

        Args:
            batch: The batch.
            compute: Maps a micro-batch and its share of the batch's samples to scalars, and to
                terms of a metric.
            undo: As in `MicroBatcher.each`.

        Returns:
            The means over the micro-batches, each weighted with its share; of a value that some
            lack, over the others. Terms are joined.
        """
        count = len(batch.label)

        def part(indices: Tensor) -> tuple[Mapping[str, V], float]:
            share = len(indices) / count
            return compute(batch.micro_batch(indices), share), share

        results = self._micro_batcher.each(count, part, undo)
        if len(results) == 1:
            return results[0][0]
        names = dict.fromkeys(name for values, _ in results for name in values)
        return {
            name: _combine([(values[name], share) for values, share in results if name in values])
            for name in names
        }

    def finish(self) -> FitResult:
        """Return the result, and save a last checkpoint that marks the training as finished."""
        self._task.trainable.eval()
        if self._checkpoint and not self._finished:
            self._finished = True
            self._checkpoint.save(self._state(self._stage.train.order))
        return FitResult(pd.DataFrame(self.rows).astype({"epoch": int}), self._best)

    def _state(self, order: Tensor) -> State:
        """Everything that the remaining training depends on.

        Args:
            order: `Batches.order` of the training batches before the current epoch.
        """
        device = self._stage.train.device
        return {
            "trainable": self._task.trainable.state_dict(),
            "optimiser": {} if self._finished else self._optimiser.state_dict(),
            "task": self._task.state(),
            "rows": self.rows,
            "best": {name: (best.row, best.state) for name, best in self._best.items()},
            "over": self._finished,
            "step": self._step,
            "part": self._micro_batcher.size,
            "means": asdict(self._means),
            "order": order,
            "noise": torch.get_rng_state(),
            "noise_on_device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def _restore(self, state: State) -> None:
        self._task.trainable.load_state_dict(state["trainable"])
        self._finished = state["over"]
        if not self._finished:
            self._optimiser.load_state_dict(state["optimiser"])
        self._task.load_state(state["task"])
        self.rows = state["rows"]
        device = self._stage.train.device
        for name, (row, weights) in state["best"].items():
            self._best[name] = BestEpoch(row, {key: of.to(device) for key, of in weights.items()})
        self._step = state["step"]
        self._micro_batcher.size = state["part"]
        self._means = _Means(**state["means"])
        self._stage.train.order = state["order"]
        torch.set_rng_state(state["noise"])
        if state["noise_on_device"] is not None:
            torch.cuda.set_rng_state(state["noise_on_device"], device)

    def _check(self, step: Step | None) -> None:
        """Raise an error for a step that is not finite."""
        if step is None:
            return
        problem, weights = step.problem()
        if weights:
            modules = list(dict.fromkeys(map(self._task.learner, weights)))
            problem = f"the gradient of {list_some(modules, 3)} {problem}"
        batch = self._stage.train.at(step.entry)
        self._raise_not_finite(f"{problem} in step {step.number} of", batch)

    def _raise_not_finite(self, what: str, batch: Batch | None = None) -> NoReturn:
        samples = ranges = ""
        if batch is not None:
            samples = f", on the samples {list_some(self._stage.train.ids(batch), 5)}"
            ranges = describe_ranges(batch)
        raise FloatingPointError(
            f"{what} epoch {len(self.rows)} of stage {self._stage.name!r}{samples}: lower the "
            f"learning rate, or check the samples for extreme values{ranges}"
        )


@dataclass
class _Means:
    """Means over the samples of all batches; of a value that a batch lacks, over the others.

    The values of the batches stay on the device until `row` fetches the means, so that no batch has
    to wait for a transfer.

    Attributes:
        values: Names of values to the values of the batches that have these.
        sizes: The same names to the sizes of these batches.
    """

    values: dict[tuple[str, ...], list[Tensor]] = field(default_factory=dict)
    sizes: dict[tuple[str, ...], list[int]] = field(default_factory=dict)

    def add(self, names: tuple[str, ...], values: Tensor, size: int) -> None:
        """Add the values, ``(len(names),)``, of a batch of `size` samples."""
        self.values.setdefault(names, []).append(values)
        self.sizes.setdefault(names, []).append(size)

    def row(self, prefix: str) -> Row:
        """The means by name."""
        sums: dict[str, float] = {}
        weights: dict[str, float] = {}
        for names, of_batches in self.values.items():
            # Values that were restored from a checkpoint are on the CPU.
            device = of_batches[-1].device
            weight = torch.tensor(self.sizes[names], dtype=torch.float64, device=device)
            values = torch.stack([value.to(device) for value in of_batches])
            for name, of_name in zip(names, (weight @ values.double()).tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + of_name
                weights[name] = weights.get(name, 0.0) + sum(self.sizes[names])
        return {prefix + name: of_name / weights[name] for name, of_name in sums.items()}


def _combine(parts: Sequence[tuple[Any, float]]) -> Any:
    """The mean of scalars, weighted with the shares of their micro-batches, or the joint terms."""
    if isinstance(parts[0][0], Terms):
        return Terms.join([value for value, _ in parts])
    total = torch.stack([share * value for value, share in parts]).sum(dim=0)
    return total / sum(share for _, share in parts)


def _copy_state(task: Task, previous: BestEpoch | None) -> dict[str, Tensor]:
    """Copy the state of `Task.trainable`, into the tensors of the previous best epoch if any."""
    current = task.trainable.state_dict()
    if previous is None:
        return {name: tensor.clone() for name, tensor in current.items()}
    for name, tensor in previous.state.items():
        tensor.copy_(current[name])
    return previous.state


def _headline_metrics(row: Row) -> Row:
    """The most informative values of a row, for the progress bar."""
    wanted = [name for name in row if name.startswith("valid_")]
    return {name: row[name] for name in ["train_loss", *wanted[:2]]}
