"""The method from Python: samples from arrays, a plan, and a student with its verdict.

`distill` computes what ``kedro run --pipeline=distill`` computes, to the bit, and keeps it in
memory. Kedro in addition stores, resumes, reports and exports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from mst_distill.benchmarks.arrays import Arrays
from mst_distill.benchmarks.splits import deal_splits, splits_of_run
from mst_distill.benchmarks.table_modalities import BY_RANK
from mst_distill.data.samples import Samples
from mst_distill.data.store import open_store, write_store
from mst_distill.evaluate.linear_model import evaluate_linear_model
from mst_distill.evaluate.predictions import evaluate_models
from mst_distill.evaluate.whole_run import models_of, report_on_run, temperatures_of
from mst_distill.mst.baseline import train_baseline
from mst_distill.mst.ensemble import assemble_ensemble
from mst_distill.mst.finished_run import FinishedRun
from mst_distill.mst.given_teachers import check_given, with_given
from mst_distill.mst.plan_run import run_of
from mst_distill.mst.run_stages import run_stages
from mst_distill.parameters import MULTIMODAL
from mst_distill.plan import Plan, read_plan
from mst_distill.training.run import Run

DEFAULTS: dict[str, Any] = {
    "run": "python",
    "protocol": "heldout",
    "fold": None,
    "limit": "all",
    "seed": 0,
    "labelled": 1,
    "labelled_validation": None,
    "labelled_per_batch": 0.5,
    "benchmark": {"type": "mst_distill.benchmarks.arrays.Arrays"},
    "training": "published",
    "teachers": {"epochs": 60, "batch_size": 64, "learning_rate": 0.001},
    "masks": {"epochs": 20, "batch_size": 64, "learning_rate": 0.001},
    "route": {"epochs": 60, "batch_size": 64, "learning_rate": 0.001},
    "evaluate": {},
    "card": {},
    "diagnose": {},
    "predict": {},
    "export": {},
    "budget": {},
    "compare": {"methods": {"baseline": {"type": "mst_distill.compare.methods.baseline.Baseline"}}},
    "label_curve": {"shares": [1], "methods": "baseline"},
    "runtime": {},
}
"""The parameters of `make_plan` that are not set; training has those of ``conf/base``."""


@dataclass(frozen=True)
class Distillation:
    """The result of `distill`.

    Attributes:
        student: The student, in eval mode.
        baseline: The same net, trained without teachers.
        verdict: Whether distillation helped, in sentences.
        metrics: The content of ``metrics.json``: metrics of every model, differences and intervals.
        predictions: A row for each test sample and model.
        networks: The other networks of the run.
    """

    student: nn.Module
    baseline: nn.Module
    verdict: str
    metrics: dict[str, Any]
    predictions: pd.DataFrame
    networks: FinishedRun


def samples_of(
    modalities: Mapping[str, np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    ids: Iterable[object] | None = None,
    groups: Iterable[object] | None = None,
    split: Iterable[object] | None = None,
    ignored_label: int | None = None,
    seed: int = 0,
) -> Samples:
    """Make samples from arrays, which are checked as those of a benchmark are.

    Args:
        modalities: Name to array ``(N, *shape)``; floating-point numbers become float32.
        labels: ``(N,)``, class indices, -1 for a training sample without a label; or
            ``(N, H, W)`` for a label of every pixel.
        classes: Class names, in the order of the labels.
        ids: ``(N,)``, unique; by default the numbers of the rows.
        groups: ``(N,)``, what splits must not share, such as the speaker; by default each sample is
            a group.
        split: ``(N,)``, ``train``, ``valid`` or ``test``; by default groups are assigned at random,
            60 / 20 / 20, in equal shares of each class.
        ignored_label: The label that is not a target (dense labels), or None.
        seed: Of the random split.

    Returns:
        The samples, in memory-mapped files that nothing else can see.

    Raises:
        ValueError: The arrays have different lengths, or as `write_store`; the message names the
            modality or the sample.
    """
    arrays = {name: np.asarray(array) for name, array in modalities.items()}
    labels = np.asarray(labels)
    for name, array in arrays.items():
        if len(array) != len(labels):
            raise ValueError(
                f"the modality {name!r} has {len(array)} samples, and there are {len(labels)} "
                f"labels"
            )
    names = [str(of) for of in (range(len(labels)) if ids is None else ids)]
    index = pd.DataFrame({"id": names, "group": names if groups is None else map(str, groups)})
    if split is None:
        known = labels if labels.ndim == 1 else np.zeros(len(labels), dtype=np.int64)
        index["split"] = deal_splits(index.assign(label=known), seed)
        index.loc[known < 0, "split"] = "train"
    else:
        index["split"] = [str(of) for of in split]
    source = Arrays(arrays, labels, classes, index, ignored_label)
    with TemporaryDirectory() as folder:
        write_store(source, Path(folder, "samples"))
        return open_store(Path(folder, "samples"))


def make_plan(
    samples: Samples,
    target: str,
    nets: Mapping[str, Any],
    multimodal: Any = None,
    **parameters: Any,
) -> Plan:
    """Make the parameters of a run.

    Args:
        samples: The samples, from `samples_of`.
        target: The student's modality.
        nets: Each modality to its net: a class, or the keys of `Member` as in the configuration,
            whose ``type`` is an import path or a class.
        multimodal: The multimodal teacher, in the same forms; by default `LateFusionNet`, which
            has a branch for each modality.
        parameters: Values of `Plan`, such as ``seed=1`` or ``teachers={"epochs": 20}``. Keys of a
            block that are not set are those of `DEFAULTS`.

    Raises:
        ValueError: As `read_plan`, or a modality has more than three axes and there is no
            multimodal teacher.
    """
    if multimodal is None:
        multimodal = _late_fusion(samples)
    values: dict[str, Any] = {**DEFAULTS, "target": target}
    values["members"] = {
        MULTIMODAL: _member(multimodal),
        "modalities": {name: _member(net) for name, net in nets.items()},
    }
    for name, value in parameters.items():
        merged = isinstance(value, Mapping) and isinstance(values.get(name), Mapping)
        values[name] = {**values[name], **value} if merged else value
    return read_plan(values)


def distill(samples: Samples, plan: Plan) -> Distillation:
    """Train teachers, masks, router and student, and the baseline, and compare both.

    Args:
        samples: The samples.
        plan: The parameters.

    Raises:
        ValueError: The splits cannot be evaluated, see `splits_of_run`; or the networks do not fit
            the samples, see `build_members`.
    """
    run = _open_run(samples, plan)
    check_given(run, plan.given, plan.masks)
    stages, (baselines, _) = run_stages(run, plan), train_baseline(run, plan)
    ensemble = assemble_ensemble(run, plan, stages.members, stages.masks)
    students = stages.student.students
    finished = FinishedRun(stages.members, ensemble, students, baselines)
    selection, size = plan.selection, plan.route.batch_size
    models = models_of(finished, plan.target, selection)
    results = evaluate_models(
        run,
        models,
        size,
        plan.evaluate.calibration_bins,
        plan.route.temperature,
        temperatures_of(run, models, size),
        [plan.target],
    )
    linear = {}
    if not samples.dense:
        bins = plan.evaluate.calibration_bins
        linear = evaluate_linear_model(
            samples, run.splits, plan.target, bins, plan.seed, run.metric
        )
    metrics, _ = report_on_run(samples, run.splits, plan, results, linear)
    return Distillation(
        students[selection],
        baselines[selection],
        metrics["verdict"],
        metrics,
        results.predictions,
        finished,
    )


def _open_run(samples: Samples, plan: Plan) -> Run:
    """The run of a plan, with its splits and its given teachers."""
    splits = splits_of_run(samples, plan.protocol, plan.seed, plan.label_shares)
    return with_given(run_of(samples, splits, plan), plan.given)


def _member(net: Any) -> Any:
    """The keys of a member, with the import path of a class in place of the class."""
    keys = dict(net) if isinstance(net, Mapping) else {"type": net}
    if isinstance(kind := keys.get("type"), type):
        keys["type"] = f"{kind.__module__}.{kind.__qualname__}"
    return keys


def _late_fusion(samples: Samples) -> dict[str, Any]:
    branches = {}
    for name, array in samples.modalities.items():
        if array.ndim - 1 not in BY_RANK:
            raise ValueError(
                f"a sample of {name!r} has the shape {array.shape[1:]}, for which there is no "
                f"default: set `multimodal` to a net that takes all modalities by keyword"
            )
        branches[name] = BY_RANK[array.ndim - 1]
    return {
        "type": "mst_distill.nets.simple.LateFusionNet",
        "arguments": {"branches": branches},
        "masked_layers": ["fusion", "hidden"],
    }
