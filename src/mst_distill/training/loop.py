"""The one training loop: epochs over batches, one optimiser, and the weights worth keeping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.parameters import Runtime, Training
from mst_distill.progress import figures, progress
from mst_distill.training.batches import Batch, Batches
from mst_distill.training.device import autocast, wide_products
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


def fit(stage: Stage, runtime: Runtime) -> Fit:
    """Train a stage with its task's optimiser.

    Args:
        stage: What to train.
        runtime: Precision.

    Raises:
        FloatingPointError: A term, a gradient or a figure is no finite number, before any weight is
            changed by it; the message names it, the stage, the epoch, the step and the samples.
    """
    task, train, valid, epochs = stage.task, stage.train, stage.valid, stage.settings.epochs
    optimiser = task.optimiser(stage.settings.learning_rate)
    rows: list[Row] = []
    kept: dict[str, Kept] = {}
    with (
        wide_products(train.device, task.trainable),
        progress(range(0), stage.name, "step", total=epochs * len(train)) as bar,
    ):

        def step(batch: Batch) -> dict[str, Tensor]:
            with autocast(train.device, runtime):
                terms = task.descend(batch)
            if strange := _not_finite({**terms, **_gradient_norms(task.trainable)}):
                _stop(f"{strange} in step {bar.n % len(train)} of", rows, stage, train.ids(batch))
            optimiser.step()
            optimiser.zero_grad()
            bar.update()
            return terms

        def judge(batch: Batch) -> dict[str, Tensor]:
            with torch.no_grad(), autocast(valid.device, runtime):
                return task.judge(batch)

        for epoch in range(epochs):
            bar.set_description(f"{stage.name} epoch {epoch + 1}/{epochs}")
            task.trainable.train()
            row = {"epoch": float(epoch), **_means(step, train, "train_")}
            task.trainable.eval()
            row |= _means(judge, valid, "valid_")
            if strange := _not_finite({name: torch.tensor(value) for name, value in row.items()}):
                _stop(f"{strange} in", rows, stage, [])
            rows.append(row)
            for name, rule in stage.rules.items():
                if name not in kept or rule(row) > rule(kept[name].row):
                    kept[name] = Kept(row, _copy(task, kept.get(name)))
            task.end_epoch(epoch)
            bar.set_postfix_str(figures(_headline(row)), refresh=False)
    history = pd.DataFrame(rows).astype({"epoch": int})
    return Fit(history, kept)


def _means(
    figures_of: Callable[[Batch], dict[str, Tensor]], batches: Iterable[Batch], prefix: str
) -> Row:
    """Means over the samples of all batches, taken on the device and fetched from it once."""
    names: list[str] = []
    rows: list[Tensor] = []
    sizes: list[int] = []
    for batch in batches:
        of_batch = figures_of(batch)
        names = list(of_batch)
        rows.append(torch.stack([value.detach() for value in of_batch.values()]))
        sizes.append(len(batch.label))
    weight = torch.tensor(sizes, dtype=torch.float64, device=rows[0].device)
    means = weight @ torch.stack(rows).double() / weight.sum()
    return {prefix + name: mean for name, mean in zip(names, means.tolist(), strict=True)}


def _not_finite(values: Mapping[str, Tensor]) -> str:
    """Name and value of the first that is no finite number, of sums the last; else empty."""
    finite = torch.stack([value.detach() for value in values.values()]).isfinite()
    if finite.all():
        return ""
    names = [name for name, well in zip(values, finite.tolist(), strict=True) if not well]
    name = min(names, key=lambda name: name == "loss")
    return f"{name} is {float(values[name])}"


def _gradient_norms(trainable: nn.Module) -> dict[str, Tensor]:
    """A number a weight, which is finite if the weight's gradient is, but for overflow."""
    named = [(name, weight.grad) for name, weight in trainable.named_parameters()]
    gradients = {f"the gradient of {name}": grad for name, grad in named if grad is not None}
    return dict(zip(gradients, torch._foreach_norm(list(gradients.values())), strict=True))


def _stop(what: str, rows: list[Row], stage: Stage, ids: list[str]) -> NoReturn:
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    samples = f", on the samples {', '.join(ids[:5])}{more}" if ids else ""
    raise FloatingPointError(
        f"{what} epoch {len(rows)} of stage {stage.name!r}{samples}: lower the learning rate or "
        f"look for extreme samples"
    )


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
