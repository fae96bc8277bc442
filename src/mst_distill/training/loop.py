"""The one training loop: epochs over batches, one optimiser, and the weights worth keeping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NoReturn

import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.artifacts.checkpoint import Checkpoint, State
from mst_distill.artifacts.progress import figures, progress
from mst_distill.artifacts.signals import asked
from mst_distill.parameters import Runtime, Training
from mst_distill.training.batches import Batch, Batches
from mst_distill.training.device import autocast, wide_products
from mst_distill.training.micro_batches import Parts
from mst_distill.training.task import Task

Row = dict[str, float]
"""One epoch: ``epoch`` (from 0), ``train_*`` the mean terms, ``valid_*`` the figures after it."""

Rule = Callable[[Row], tuple[float, ...]]
"""Gives every epoch a rank; the weights of the highest are kept, of equals the first."""


@dataclass(frozen=True)
class Kept:
    """The state of `Task.trainable` after the epoch that a rule preferred, and that epoch's row."""

    row: Row
    state: dict[str, Tensor]


@dataclass(frozen=True)
class Fit:
    """What a training leaves behind: one row an epoch, and the weights each rule kept."""

    history: pd.DataFrame
    kept: dict[str, Kept]


@dataclass(frozen=True)
class Stage:
    """A training that is ready to begin.

    Attributes:
        name: For the progress bar and for errors.
        task: What learns and from what.
        train: Batches to learn from.
        valid: Batches to judge by after every epoch.
        settings: Epochs and learning rate.
        rules: Which epochs' weights to keep, by name of the rule.
    """

    name: str
    task: Task
    train: Batches
    valid: Batches
    settings: Training
    rules: Mapping[str, Rule]


def fit(stage: Stage, runtime: Runtime, checkpoint: Checkpoint | None = None) -> Fit:
    """Train a stage with its task's optimiser.

    Where a batch is too much for the GPU's memory its gradient is added up over parts: to the same
    losses but for rounding where the loss is a mean over samples and the nets have no batch
    statistics. What is taken over a batch is taken over a part then: those statistics, the balance
    of a router, relations between samples, the mean over judged pixels.

    Args:
        stage: What to train.
        runtime: Precision.
        checkpoint: Where to keep the state now and then, and to go on from, to the same weights,
            rows and figures as without a stop.

    Raises:
        torch.OutOfMemoryError: A few samples are too much for the GPU's memory.
        FloatingPointError: A term, a gradient or a figure is no finite number, before any weight is
            changed by it; the message names the term, or whose gradient it is, the stage, the
            epoch, the step, the samples and the range of their values by modality.
    """
    training = _Training(stage, runtime, checkpoint)
    epochs, steps = stage.settings.epochs, len(stage.train)
    with (
        wide_products(stage.train.device, stage.task.trainable),
        progress(
            range(0), stage.name, "step", total=epochs * steps, done=training.steps_behind
        ) as bar,
    ):
        for epoch in range(len(training.rows), epochs):
            bar.set_description(f"{stage.name} epoch {epoch + 1}/{epochs}")
            for _ in training.learn():
                bar.update()
            training.end_epoch()
            bar.set_postfix_str(figures(_headline(training.rows[-1])), refresh=False)
    return training.finish()


class _Training:
    """A stage on its way: its optimiser, its rows, the weights kept, the place in the epoch."""

    def __init__(self, stage: Stage, runtime: Runtime, checkpoint: Checkpoint | None) -> None:
        self._stage = stage
        self._task = stage.task
        self._runtime = runtime
        self._checkpoint = checkpoint
        self._optimiser = stage.task.optimiser(stage.settings.learning_rate)
        self.rows: list[Row] = []
        self._kept: dict[str, Kept] = {}
        self._step = 0
        self._means = _Means()
        self._parts = Parts(f"stage {stage.name!r}")
        self._over = False
        if checkpoint and (state := checkpoint.load()):
            self._go_on(state)

    @property
    def steps_behind(self) -> int:
        """Steps that were done before."""
        return len(self.rows) * len(self._stage.train) + self._step

    def learn(self) -> Iterator[None]:
        """Take the steps of an epoch, or those that are left of it, one at a time."""
        train = self._stage.train
        order = train.order
        self._task.trainable.train()
        for batch in train.start(self._step):
            with autocast(train.device, self._runtime):
                terms = self._in_parts(batch, self._task.descend, self._undo())
            if strange := self._not_finite(terms):
                self._stop(f"{strange} in step {self._step} of", batch)
            self._optimiser.step()
            self._optimiser.zero_grad()
            self._means.add(terms, len(batch.label))
            self._step += 1
            if self._checkpoint and (self._checkpoint.due or asked()):
                self._checkpoint.save(self._state(order))
            yield

    def end_epoch(self) -> None:
        """Judge the epoch, and keep its weights if a rule prefers them."""
        epoch, valid = len(self.rows), self._stage.valid
        row = {"epoch": float(epoch), **self._means.row("train_")}
        self._task.trainable.eval()
        means = _Means()
        for batch in valid:
            with torch.no_grad(), autocast(valid.device, self._runtime):
                judged = self._in_parts(batch, lambda part, _share: self._task.judge(part))
                means.add(judged, len(batch.label))
        row |= means.row("valid_")
        if strange := _not_finite({name: torch.tensor(value) for name, value in row.items()}):
            self._stop(f"{strange} in")
        self.rows.append(row)
        for name, rule in self._stage.rules.items():
            if name not in self._kept or rule(row) > rule(self._kept[name].row):
                self._kept[name] = Kept(row, _copy(self._task, self._kept.get(name)))
        self._task.end_epoch(epoch)
        self._step, self._means = 0, _Means()

    def _undo(self) -> Callable[[], None]:
        """What takes back a step that memory ran out in, but for running batch statistics."""
        before = self._task.state()

        def undo() -> None:
            self._optimiser.zero_grad()
            self._task.load_state(before)

        return undo

    def _in_parts(
        self,
        batch: Batch,
        compute: Callable[[Batch, float], dict[str, Tensor]],
        undo: Callable[[], None] | None = None,
    ) -> dict[str, Tensor]:
        """Figures of a batch: the mean of its parts', each with its share of the samples."""
        count = len(batch.label)

        def of_part(places: Tensor) -> dict[str, Tensor]:
            share = len(places) / count
            figures = compute(batch.part(places), share)
            return {name: share * figure for name, figure in figures.items()}

        parts = self._parts.each(count, of_part, undo)
        return {name: torch.stack([part[name] for part in parts]).sum(dim=0) for name in parts[0]}

    def finish(self) -> Fit:
        """Tell what came of it, and note that it is over."""
        self._task.trainable.eval()
        if self._checkpoint and not self._over:
            self._over = True
            self._checkpoint.save(self._state(self._stage.train.order))
        return Fit(pd.DataFrame(self.rows).astype({"epoch": int}), self._kept)

    def _state(self, order: Tensor) -> State:
        """All that the rest depends on.

        Args:
            order: The training batches' before the epoch.
        """
        device = self._stage.train.device
        return {
            "trainable": self._task.trainable.state_dict(),
            "optimiser": {} if self._over else self._optimiser.state_dict(),
            "task": self._task.state(),
            "rows": self.rows,
            "kept": {name: (kept.row, kept.state) for name, kept in self._kept.items()},
            "over": self._over,
            "step": self._step,
            "part": self._parts.size,
            "means": asdict(self._means),
            "order": order,
            "noise": torch.get_rng_state(),
            "noise_on_device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def _go_on(self, state: State) -> None:
        self._task.trainable.load_state_dict(state["trainable"])
        self._over = state["over"]
        if not self._over:
            self._optimiser.load_state_dict(state["optimiser"])
        self._task.load_state(state["task"])
        self.rows = state["rows"]
        self._kept = {name: Kept(*kept) for name, kept in state["kept"].items()}
        self._step = state["step"]
        self._parts.size = state["part"]
        self._means = _Means(**state["means"])
        self._stage.train.order = state["order"]
        torch.set_rng_state(state["noise"])
        if state["noise_on_device"] is not None:
            torch.cuda.set_rng_state(state["noise_on_device"], self._stage.train.device)

    def _not_finite(self, terms: Mapping[str, Tensor]) -> str:
        """Name and value of the first term that is not finite, else of the gradients; else empty.

        All are fetched from the device at once.
        """
        norms = _gradient_norms(self._task.trainable)
        if torch.stack([*terms.values(), *norms.values()]).isfinite().all():
            return ""
        return _not_finite(terms) or self._not_finite_gradients(norms)

    def _not_finite_gradients(self, norms: Mapping[str, Tensor]) -> str:
        found = {name: float(norm) for name, norm in norms.items()}
        names = [name for name, norm in found.items() if not math.isfinite(norm)]
        learners = list(dict.fromkeys(map(self._task.learner, names)))
        return f"the gradient of {_listed(learners, 3)} is {found[names[0]]}"

    def _stop(self, what: str, batch: Batch | None = None) -> NoReturn:
        samples = ranges = ""
        if batch is not None:
            samples = f", on the samples {_listed(self._stage.train.ids(batch), 5)}"
            ranges = _ranges(batch)
        raise FloatingPointError(
            f"{what} epoch {len(self.rows)} of stage {self._stage.name!r}{samples}: lower the "
            f"learning rate or look for extreme samples{ranges}"
        )


@dataclass
class _Means:
    """Means over the samples of all batches, taken on the device and fetched from it once."""

    names: list[str] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, figures: Mapping[str, Tensor], size: int) -> None:
        """Note a batch's figures."""
        self.names = list(figures)
        self.values.append(torch.stack([value.detach() for value in figures.values()]))
        self.sizes.append(size)

    def row(self, prefix: str) -> Row:
        """The means, by name."""
        device = self.values[-1].device
        weight = torch.tensor(self.sizes, dtype=torch.float64, device=device)
        values = torch.stack([value.to(device) for value in self.values])
        means = weight @ values.double() / weight.sum()
        return {prefix + n: mean for n, mean in zip(self.names, means.tolist(), strict=True)}


def _not_finite(values: Mapping[str, Tensor]) -> str:
    """Name and value of the first that is no finite number, of sums the last; else empty."""
    finite = torch.stack([value.detach() for value in values.values()]).isfinite()
    if finite.all():
        return ""
    names = [name for name, well in zip(values, finite.tolist(), strict=True) if not well]
    name = min(names, key=lambda name: name == "loss")
    return f"{name} is {float(values[name])}"


def _listed(names: Sequence[str], most: int) -> str:
    """The first `most` of the names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _ranges(batch: Batch) -> str:
    """The range of a batch's values by modality, and what to do if it is wide."""
    ends = {name: of.aminmax() for name, of in sorted(batch.inputs.items())}
    told = [f"{float(low):.3g} to {float(high):.3g} in {n!r}" for n, (low, high) in ends.items()]
    if not told:
        return ""
    return (
        f". Their values range from {', from '.join(told)}: bring a modality that is far from unit "
        f"scale nearer to it where the source reads it"
    )


def _gradient_norms(trainable: nn.Module) -> dict[str, Tensor]:
    """A number a weight, which is finite if the weight's gradient is, but for overflow."""
    named = [(name, weight.grad) for name, weight in trainable.named_parameters()]
    gradients = {name: grad for name, grad in named if grad is not None}
    return dict(zip(gradients, torch._foreach_norm(list(gradients.values())), strict=True))


def _copy(task: Task, last: Kept | None) -> dict[str, Tensor]:
    """The weights as they are, in the place of those that were kept before, if any."""
    now = task.trainable.state_dict()
    if last is None:
        return {name: tensor.clone() for name, tensor in now.items()}
    for name, tensor in last.state.items():
        tensor.copy_(now[name])
    return last.state


def _headline(row: Row) -> Row:
    """The figures that say most, for the progress bar."""
    wanted = [name for name in row if name.startswith("valid_")]
    return {name: row[name] for name in ["train_loss", *wanted[:2]]}
