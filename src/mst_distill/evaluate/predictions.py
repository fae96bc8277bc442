"""Passes over the validation split, which fit temperatures, and over the held-out split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.artifacts.progress import progress
from mst_distill.evaluate.accumulate import TERMS, MetricAccumulator
from mst_distill.evaluate.bootstrap import sampling_units
from mst_distill.evaluate.calibration import draw_positions, fit_temperature
from mst_distill.mst.ensemble import SpecialistEnsemble
from mst_distill.mst.losses import distillation
from mst_distill.mst.networks import forward, modalities_of
from mst_distill.training.batches import Batch, Inputs
from mst_distill.training.device import autocast
from mst_distill.training.run import Run


@dataclass(frozen=True)
class EvaluatedModels:
    """Every model of a run.

    Attributes:
        teachers: Teacher name to its net, after stage 1 or as it is given.
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
        return {**self.teacher_logits(inputs), **self.student_logits(inputs)}

    def teacher_logits(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the logits of the teachers and specialists."""
        teachers = {
            teacher_title(name): self.ensemble.teachers[name].logits(inputs)
            for name in self.teachers
        }
        specialists = self.ensemble.logits(inputs).unbind(dim=1)
        return {**teachers, **dict(zip(self.ensemble.names, specialists, strict=True))}

    def student_logits(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the logits of the models that see only the target."""
        return {name: net(inputs[self.target]) for name, net in self.students.items()}


@dataclass(frozen=True)
class HeldOutResults:
    """Results on the held-out split.

    Attributes:
        predictions: One row for each sample and model: ``id``, ``label``, ``group`` (see
            `sampling_units`), ``model``, ``prediction``, ``confidence``, ``nll``, ``correct``,
            ``labelled`` and, with temperatures, ``confidence_scaled`` and ``nll_scaled``; see
            `MetricAccumulator.update`. If another metric than the accuracy decides, the rows of the
            students also have `TERMS`.
        metric_counts: Model name to `MetricAccumulator.summary`.
        disagreement: One row for each ordered pair of models of one group: ``group``, ``model``,
            ``from`` and ``kl``, the mean of KD(model <- from).
    """

    predictions: pd.DataFrame
    metric_counts: dict[str, dict[str, Any]]
    disagreement: pd.DataFrame


@torch.no_grad()
def fit_temperatures(
    run: Run,
    logits_of: Callable[[Inputs], Mapping[str, Tensor]],
    modalities: Sequence[str],
    batch_size: int,
    hidden: bool = False,
) -> dict[str, float]:
    """Fit a temperature for each of several models on the validation split.

    All models are fitted on the same labelled samples or pixels: all of them, or `LARGEST_DRAW`
    drawn at random. Logits of others are not kept.

    Args:
        run: The run.
        logits_of: Maps the inputs of a batch to the logits of each model by its name.
        modalities: The modalities of these inputs.
        batch_size: Samples at a time.
        hidden: Show no progress bar.

    Returns:
        Model name to temperature, see `fit_temperature`.

    Raises:
        FloatingPointError: The logits of a model are not finite, as in `evaluate_models`.
    """
    ignored = run.samples.ignored_label
    drawn = draw_positions(_count_labelled(run, run.rows("valid", modalities)), run.seed)
    labels: list[Tensor] = []
    kept_logits: dict[str, list[Tensor]] = {}
    start = 0
    batches = run.batches("valid", modalities, batch_size)
    for batch in progress(batches, "validation split", "batch", hidden=hidden):
        with autocast(run.device, run.runtime):
            logits = logits_of(batch.inputs)
        labelled = torch.ones_like(batch.label, dtype=torch.bool)
        if ignored is not None:
            labelled = batch.label != ignored
        end = start + int(labelled.sum())
        positions = drawn[slice(*np.searchsorted(drawn, [start, end]))] - start
        kept = torch.from_numpy(positions).to(run.device)
        start = end
        labels.append(batch.label[labelled][kept].cpu())
        for model, model_logits in logits.items():
            _check_finite(model, model_logits, batches.ids(batch), "validation")
            values = model_logits.movedim(1, -1)[labelled][kept].cpu()
            kept_logits.setdefault(model, []).append(values)
    target = torch.cat(labels)
    return {
        model: fit_temperature(torch.cat(parts), target) for model, parts in kept_logits.items()
    }


def _count_labelled(run: Run, rows: np.ndarray) -> int:
    """Return the number of labelled samples or pixels in some rows of the store."""
    labels, ignored = run.samples.labels, run.samples.ignored_label
    if ignored is None:
        return len(rows) * int(np.prod(labels.shape[1:]))
    # Row by row, because labels of pixels need not fit into the memory.
    return sum(int(np.count_nonzero(labels[row] != ignored)) for row in rows)


@torch.no_grad()
def predict_validation(
    run: Run, name: str, net: nn.Module, temperature: float, batch_size: int
) -> pd.DataFrame:
    """Predict the validation split with a net that sees only the target.

    Args:
        run: The run.
        name: Name of the model.
        net: The net; it is set to eval mode.
        temperature: Its temperature.
        batch_size: Samples at a time.

    Returns:
        One row for each sample, as in `HeldOutResults.predictions`.
    """
    samples, rows = run.samples, run.rows("valid", [run.target])
    accumulator = MetricAccumulator(
        len(samples.classes), 1, samples.ignored_label, run.device, temperature
    )
    run.place(net).eval()
    outcomes = []
    batches = run.batches("valid", [run.target], batch_size)
    for batch in progress(batches, f"{name}, validation split", "batch"):
        with autocast(run.device, run.runtime):
            logits = net(batch.inputs[run.target])
        outcome = accumulator.update(logits, batch.label)
        outcomes.append(pd.DataFrame({key: value.cpu() for key, value in outcome.items()}))
    index = _samples_of(run).iloc[rows].reset_index(drop=True).assign(model=name)
    return index.join(pd.concat(outcomes, ignore_index=True))


def _samples_of(run: Run) -> pd.DataFrame:
    """The columns of predictions that describe the sample, one row for each in store order."""
    return run.splits[["id", "label"]].assign(group=sampling_units(run.splits))


@torch.no_grad()
def evaluate_models(
    run: Run,
    models: EvaluatedModels,
    batch_size: int,
    bins: int,
    temperature: float,
    fitted: Mapping[str, float] | None = None,
    needed: Sequence[str] | None = None,
) -> HeldOutResults:
    """Evaluate every model on the test split.

    Teachers and specialists are evaluated on the samples with all modalities.

    Args:
        run: The run.
        models: The models; teachers are compared with teachers, specialists with specialists.
        batch_size: Samples at a time.
        bins: Number of calibration bins.
        temperature: tau of the disagreement, tau^2 KL.
        fitted: Model name to its temperature, from `fit_temperatures`; or None, to evaluate the
            probabilities as they are only.
        needed: The modalities without which a sample is left out; by default, all.

    Raises:
        FloatingPointError: A model's logits are not finite; the message names the model and the
            sample.
    """
    models.place(run)
    needed = run.modalities if needed is None else needed
    samples, rows = run.samples, run.rows("test", needed)
    groups = {
        "teachers": [teacher_title(name) for name in models.teachers],
        "specialists": models.ensemble.names,
    }
    pairs = [(group, *pair) for group, names in groups.items() for pair in permutations(names, 2)]
    divergence = torch.zeros(len(pairs), dtype=torch.float64, device=run.device)
    accumulators: dict[str, MetricAccumulator] = {}
    tables: list[pd.DataFrame] = []
    compared = 0
    batches = run.batches("test", run.inputs, batch_size, needed=needed)
    every = _samples_of(run)
    for batch, logits in _outputs(run, models, progress(batches, "held-out split", "batch")):
        index = every.iloc[rows[batch.place.cpu().numpy()]]
        for model, model_logits in logits.items():
            if model not in accumulators:
                accumulators[model] = MetricAccumulator(
                    len(samples.classes),
                    bins,
                    samples.ignored_label,
                    run.device,
                    None if fitted is None else fitted[model],
                    run.metric,
                )
            _check_finite(model, model_logits, index["id"].tolist(), "held-out")
            outcome = accumulators[model].update(model_logits, batch.label)
            # Only students are compared with one another, sample by sample.
            terms = outcome.pop(TERMS, None) if model in models.students else None
            columns: dict[str, Any] = {
                name: tensor.cpu().numpy() for name, tensor in outcome.items() if name != TERMS
            }
            if terms is not None:
                columns[TERMS] = list(terms.cpu().numpy())
            tables.append(index.assign(model=model, **columns))
        if set(logits) >= {name for _, *pair in pairs for name in pair}:
            divergence += _divergences(logits, pairs, temperature)
            compared += len(batch.label)
    disagreement = pd.DataFrame(pairs, columns=["group", "model", "from"])
    return HeldOutResults(
        pd.concat(tables, ignore_index=True),
        # Teachers first, even if no sample of the first batch had all modalities.
        {
            model: accumulators[model].summary()
            for model in sorted(accumulators, key=lambda model: model in models.students)
        },
        disagreement.assign(kl=np.array(divergence.tolist()) / compared),
    )


def _outputs(
    run: Run, models: EvaluatedModels, batches: Iterable[Batch]
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """Yield samples and the logits of the models that can see them, for every batch.

    If not all samples have all modalities, those that have come first, with teachers and
    specialists, and then all samples, with the students.
    """
    for batch in batches:
        complete, indices = batch.having(run.modalities)
        if indices is None:
            with autocast(run.device, run.runtime):
                logits = models.logits(batch.inputs)
            yield batch, logits
            continue
        with autocast(run.device, run.runtime):
            students = models.student_logits(batch.inputs)
            teachers = models.teacher_logits(complete.inputs) if len(complete.label) else {}
        yield complete, teachers
        yield batch, students


@torch.no_grad()
def evaluate_nets(
    run: Run, nets: Mapping[str, nn.Module], member: str, batch_size: int, bins: int
) -> dict[str, dict[str, Any]]:
    """Evaluate nets on the test samples that have their inputs, as is and scaled.

    Each has a temperature that is fitted on the validation split.

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
    samples, modalities = run.samples, modalities_of(member, run.modalities)
    titles = {f"{member} net selected by {name}": name for name in nets}

    def logits_of(inputs: Inputs) -> dict[str, Tensor]:
        return {
            title: forward(run.place(nets[name]).eval(), member, inputs)
            for title, name in titles.items()
        }

    fitted = fit_temperatures(run, logits_of, modalities, batch_size, hidden=True)
    accumulators = {
        title: MetricAccumulator(
            len(samples.classes), bins, samples.ignored_label, run.device, temperature, run.metric
        )
        for title, temperature in fitted.items()
    }
    batches = run.batches("test", modalities, batch_size)
    for batch in batches:
        with autocast(run.device, run.runtime):
            logits = logits_of(batch.inputs)
        for title, of_net in logits.items():
            _check_finite(title, of_net, batches.ids(batch), "held-out")
            accumulators[title].update(of_net, batch.label)
    return {name: accumulators[title].summary() for title, name in titles.items()}


def _check_finite(model: str, logits: Tensor, ids: Sequence[str], split: str) -> None:
    """Raise FloatingPointError for the first sample with logits that are not finite."""
    finite = logits.flatten(1).isfinite().all(dim=1)
    if not finite.all():
        sample = ids[int(finite.int().argmin())]
        raise FloatingPointError(
            f"the logits of {model!r} for the {split} sample {sample!r} are not finite: check "
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
