"""One pass over the held-out split, in which every model says what it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.artifacts.progress import progress
from mst_distill.data.samples import rows_of
from mst_distill.evaluate.accumulate import Tally
from mst_distill.mst.ensemble import Panel
from mst_distill.mst.losses import distillation
from mst_distill.mst.networks import forward, modalities_of
from mst_distill.training.batches import Inputs
from mst_distill.training.device import autocast
from mst_distill.training.run import Run


@dataclass(frozen=True)
class Cast:
    """Every model of a run.

    Attributes:
        teachers: Teacher name to its net after stage 1.
        panel: The specialists.
        target: The modality that the students see.
        students: Name to a net that sees the target alone; the control is one of them.
    """

    teachers: Mapping[str, nn.Module]
    panel: Panel
    target: str
    students: Mapping[str, nn.Module]

    def place(self, run: Run) -> None:
        """Bring every net to the run's device, in eval mode."""
        for net in (*self.teachers.values(), *self.students.values()):
            run.place(net).eval()

    def logits(self, inputs: Inputs) -> dict[str, Tensor]:
        """Inputs to the logits of every model, by its name."""
        return {
            **{
                teacher_title(name): forward(net, name, inputs)
                for name, net in self.teachers.items()
            },
            **dict(zip(self.panel.names, self.panel.logits(inputs).unbind(dim=1), strict=True)),
            **{name: net(inputs[self.target]) for name, net in self.students.items()},
        }


@dataclass(frozen=True)
class Judgement:
    """What the held-out split shows.

    Attributes:
        predictions: A row a sample and model: ``id``, ``label``, ``model``, ``prediction``,
            ``confidence``, ``nll``, ``correct``, ``judged``; see `Tally.update`.
        tallies: Model to `Tally.summary`.
        disagreement: A row an ordered pair of models of one group: ``group``, ``model``, ``from``
            and ``kl``, the mean of KD(model <- from).
    """

    predictions: pd.DataFrame
    tallies: dict[str, dict[str, Any]]
    disagreement: pd.DataFrame


@torch.no_grad()
def judge(run: Run, cast: Cast, batch_size: int, bins: int, temperature: float) -> Judgement:
    """Ask every model about every sample of the test split.

    Args:
        run: The run.
        cast: The models; teachers and specialists are held against one another.
        batch_size: Samples at a time.
        bins: Of the calibration.
        temperature: tau of the disagreement, tau^2 KL.

    Raises:
        FloatingPointError: A model's logits are not finite; the message names model and sample.
    """
    cast.place(run)
    samples, rows = run.samples, rows_of(run.splits, "test")
    groups = {
        "teachers": [teacher_title(name) for name in cast.teachers],
        "specialists": cast.panel.names,
    }
    pairs = [(group, *pair) for group, names in groups.items() for pair in permutations(names, 2)]
    divergence = torch.zeros(len(pairs), dtype=torch.float64, device=run.device)
    tallies: dict[str, Tally] = {}
    parts: list[pd.DataFrame] = []
    start = 0
    batches = run.batches("test", run.modalities, batch_size)
    for batch in progress(batches, "held-out split", "batch"):
        with autocast(run.device, run.runtime):
            logits = cast.logits(batch.inputs)
        index = run.splits.iloc[rows[start : start + len(batch.label)]][["id", "label"]]
        for model, of in logits.items():
            if model not in tallies:
                tallies[model] = Tally(
                    len(samples.classes), bins, samples.ignored_label, run.device
                )
            _check_finite(model, of, index["id"].tolist())
            fared = tallies[model].update(of, batch.label)
            columns: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in fared.items()}
            parts.append(index.assign(model=model, **columns))
        divergence += _divergences(logits, pairs, temperature)
        start += len(batch.label)
    table = pd.DataFrame(pairs, columns=["group", "model", "from"])
    return Judgement(
        pd.concat(parts, ignore_index=True),
        {model: tally.summary() for model, tally in tallies.items()},
        table.assign(kl=np.array(divergence.tolist()) / len(rows)),
    )


@torch.no_grad()
def tally_nets(
    run: Run, nets: Mapping[str, nn.Module], member: str, batch_size: int, bins: int
) -> dict[str, dict[str, Any]]:
    """Ask some nets that see the same about every sample of the test split.

    Args:
        run: The run.
        nets: Name to a net, put in eval mode.
        member: Whose nets they are: ``multimodal`` or a modality.
        batch_size: Samples at a time.
        bins: Of the calibration.

    Returns:
        Name to `Tally.summary`.

    Raises:
        FloatingPointError: As `judge`.
    """
    samples = run.samples
    tallies = {
        name: Tally(len(samples.classes), bins, samples.ignored_label, run.device) for name in nets
    }
    batches = run.batches("test", modalities_of(member, run.modalities), batch_size)
    for batch in batches:
        for name, net in nets.items():
            with autocast(run.device, run.runtime):
                logits = forward(run.place(net).eval(), member, batch.inputs)
            _check_finite(f"{member} kept by {name}", logits, batches.ids(batch))
            tallies[name].update(logits, batch.label)
    return {name: tally.summary() for name, tally in tallies.items()}


def _check_finite(model: str, logits: Tensor, ids: Sequence[str]) -> None:
    """Raise where a figure of merit would be of no number."""
    finite = logits.flatten(1).isfinite().all(dim=1)
    if not finite.all():
        sample = ids[int(finite.int().argmin())]
        raise FloatingPointError(
            f"the logits of {model!r} for the held-out sample {sample!r} are not finite: look for "
            f"extreme values in this sample"
        )


def _divergences(
    logits: dict[str, Tensor], pairs: Sequence[tuple[str, str, str]], temperature: float
) -> Tensor:
    """Sums over the batch of KD(first <- second), one a pair."""
    return torch.stack(
        [
            distillation(logits[first], logits[second], temperature).sum().double()
            for _, first, second in pairs
        ]
    )


def teacher_title(name: str) -> str:
    """How the report calls a teacher, to tell ``audio`` the net from ``audio`` the modality."""
    return f"{name} teacher"
