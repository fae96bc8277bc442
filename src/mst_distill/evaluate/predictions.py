"""One pass over the held-out split, which evaluates every model on every sample."""

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
from mst_distill.evaluate.accumulate import MetricAccumulator
from mst_distill.mst.ensemble import SpecialistEnsemble
from mst_distill.mst.losses import distillation
from mst_distill.mst.networks import forward, modalities_of
from mst_distill.training.batches import Inputs
from mst_distill.training.device import autocast
from mst_distill.training.run import Run


@dataclass(frozen=True)
class EvaluatedModels:
    """Every model of a run.

    Attributes:
        teachers: Teacher name to its net after stage 1.
        ensemble: The specialists.
        target: The modality that the students see.
        students: Model name to a net that sees only the target, among them the baseline.
    """

    teachers: Mapping[str, nn.Module]
    ensemble: SpecialistEnsemble
    target: str
    students: Mapping[str, nn.Module]

    def place(self, run: Run) -> None:
        """Move every net to the run's device and set it to eval mode."""
        for net in (*self.teachers.values(), *self.students.values()):
            run.place(net).eval()

    def logits(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the logits of every model by its name."""
        return {
            **{
                teacher_title(name): forward(net, name, inputs)
                for name, net in self.teachers.items()
            },
            **dict(
                zip(self.ensemble.names, self.ensemble.logits(inputs).unbind(dim=1), strict=True)
            ),
            **{name: net(inputs[self.target]) for name, net in self.students.items()},
        }


@dataclass(frozen=True)
class HeldOutResults:
    """Results on the held-out split.

    Attributes:
        predictions: One row for each sample and model: ``id``, ``label``, ``model``,
            ``prediction``, ``confidence``, ``nll``, ``correct``, ``labelled``; see
            `MetricAccumulator.update`.
        metric_counts: Model name to `MetricAccumulator.summary`.
        disagreement: One row for each ordered pair of models of one group: ``group``, ``model``,
            ``from`` and ``kl``, the mean of KD(model <- from).
    """

    predictions: pd.DataFrame
    metric_counts: dict[str, dict[str, Any]]
    disagreement: pd.DataFrame


@torch.no_grad()
def evaluate_models(
    run: Run, models: EvaluatedModels, batch_size: int, bins: int, temperature: float
) -> HeldOutResults:
    """Evaluate every model on every sample of the test split.

    Args:
        run: The run.
        models: The models; teachers are compared with teachers, specialists with specialists.
        batch_size: Samples at a time.
        bins: Number of calibration bins.
        temperature: tau of the disagreement, tau^2 KL.

    Raises:
        FloatingPointError: A model's logits are not finite; the message names the model and the
            sample.
    """
    models.place(run)
    samples, rows = run.samples, rows_of(run.splits, "test")
    groups = {
        "teachers": [teacher_title(name) for name in models.teachers],
        "specialists": models.ensemble.names,
    }
    pairs = [(group, *pair) for group, names in groups.items() for pair in permutations(names, 2)]
    divergence = torch.zeros(len(pairs), dtype=torch.float64, device=run.device)
    accumulators: dict[str, MetricAccumulator] = {}
    tables: list[pd.DataFrame] = []
    start = 0
    batches = run.batches("test", run.modalities, batch_size)
    for batch in progress(batches, "held-out split", "batch"):
        with autocast(run.device, run.runtime):
            logits = models.logits(batch.inputs)
        index = run.splits.iloc[rows[start : start + len(batch.label)]][["id", "label"]]
        for model, model_logits in logits.items():
            if model not in accumulators:
                accumulators[model] = MetricAccumulator(
                    len(samples.classes), bins, samples.ignored_label, run.device
                )
            _check_finite(model, model_logits, index["id"].tolist())
            outcome = accumulators[model].update(model_logits, batch.label)
            columns: dict[str, Any] = {
                name: tensor.cpu().numpy() for name, tensor in outcome.items()
            }
            tables.append(index.assign(model=model, **columns))
        divergence += _divergences(logits, pairs, temperature)
        start += len(batch.label)
    disagreement = pd.DataFrame(pairs, columns=["group", "model", "from"])
    return HeldOutResults(
        pd.concat(tables, ignore_index=True),
        {model: accumulator.summary() for model, accumulator in accumulators.items()},
        disagreement.assign(kl=np.array(divergence.tolist()) / len(rows)),
    )


@torch.no_grad()
def evaluate_nets(
    run: Run, nets: Mapping[str, nn.Module], member: str, batch_size: int, bins: int
) -> dict[str, dict[str, Any]]:
    """Evaluate nets with the same inputs on every sample of the test split.

    Args:
        run: The run.
        nets: Name of the selection criterion to the net; the nets are set to eval mode.
        member: The member whose inputs the nets take: ``multimodal`` or a modality.
        batch_size: Samples at a time.
        bins: Number of calibration bins.

    Returns:
        The names in `nets` to `MetricAccumulator.summary`.

    Raises:
        FloatingPointError: The logits of a net are not finite, as in `evaluate_models`.
    """
    samples = run.samples
    accumulators = {
        name: MetricAccumulator(len(samples.classes), bins, samples.ignored_label, run.device)
        for name in nets
    }
    batches = run.batches("test", modalities_of(member, run.modalities), batch_size)
    for batch in batches:
        for name, net in nets.items():
            with autocast(run.device, run.runtime):
                logits = forward(run.place(net).eval(), member, batch.inputs)
            _check_finite(f"{member} net selected by {name}", logits, batches.ids(batch))
            accumulators[name].update(logits, batch.label)
    return {name: accumulator.summary() for name, accumulator in accumulators.items()}


def _check_finite(model: str, logits: Tensor, ids: Sequence[str]) -> None:
    """Raise FloatingPointError for the first sample with logits that are not finite."""
    finite = logits.flatten(1).isfinite().all(dim=1)
    if not finite.all():
        sample = ids[int(finite.int().argmin())]
        raise FloatingPointError(
            f"the logits of {model!r} for the held-out sample {sample!r} are not finite: check "
            f"this sample for extreme values"
        )


def _divergences(
    logits: dict[str, Tensor], pairs: Sequence[tuple[str, str, str]], temperature: float
) -> Tensor:
    """Return the sum of KD(first <- second) over the batch for each pair."""
    return torch.stack(
        [
            distillation(logits[first], logits[second], temperature).sum().double()
            for _, first, second in pairs
        ]
    )


def teacher_title(name: str) -> str:
    """Return a teacher's name in reports, which differs from the name of its modality."""
    return f"{name} teacher"
