"""The diagnosis of a run: sentences, and the metrics that they are based on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.diagnose.evaluated_models import MIXTURES, ROUTED
from mst_distill.diagnose.headroom import headroom
from mst_distill.diagnose.path_effects import ALL
from mst_distill.diagnose.prediction_matrix import PredictionMatrix
from mst_distill.diagnose.routing_quality import against_fixed, entropy, information, shares
from mst_distill.diagnose.sentences import sentences
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.json_values import json_values

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """Results of the other steps of the diagnosis.

    Attributes:
        target: The student's modality.
        classes: Class names in order; none if labels are dense.
        groups: ``teachers`` and ``specialists`` to the titles of their sources.
        matrix: Outcomes of all models on the held-out split.
        weights: ``(n, E)``, routing weights of the specialists for each held-out sample.
        disagreement: Mean KD between the models of a group, from `evaluate_models`.
        paths: From `path_table`.
        drift: From `drift_table`.
        similarity: From `similarity_table`.
        reliance: From `reliance_table`.
        routing: Number of training samples that each specialist was selected for, by epoch and
            class.
    """

    target: str
    classes: tuple[str, ...]
    groups: Mapping[str, Sequence[str]]
    matrix: PredictionMatrix
    weights: np.ndarray
    disagreement: pd.DataFrame
    paths: pd.DataFrame
    drift: pd.DataFrame
    similarity: pd.DataFrame
    reliance: pd.DataFrame
    routing: pd.DataFrame


def diagnose(findings: Findings, bootstrap: Bootstrap) -> dict[str, Any]:
    """Report what distillation did in this run.

    Returns:
        JSON values: ``sentences``, a list of sentences, then the metrics that they are based on:
        ``paths``, ``reliance``, ``drift``, ``similarity``, ``disagreement``, ``headroom`` and
        ``routing``. A value is None if there is no interval or no sample.
    """
    sections = {
        "paths": _paths(findings, bootstrap),
        "reliance": _reliance(findings),
        "drift": _drift(findings, bootstrap),
        "similarity": _similarity(findings),
        "disagreement": _disagreement(findings),
        "headroom": _headroom(findings, bootstrap),
        "routing": _routing(findings, bootstrap),
    }
    texts = sentences(sections, findings.target, bootstrap.confidence)
    report: dict[str, Any] = json_values({"sentences": texts, **sections})
    return report


def _paths(findings: Findings, bootstrap: Bootstrap) -> Metrics:
    """Return points against the baseline, and the number of measurable differences by class."""
    table = findings.paths
    whole = table[table["class"] == ALL].set_index("source")
    cells = table[(table["class"] != ALL) & (table["samples"] > 0)]
    measurable = cells[cells["low"] * cells["high"] > 0]
    # If several sources are best in a class, idxmax takes the first: the best over all classes.
    order = whole["points"].sort_values(ascending=False).index
    best = cells.pivot_table("points", "class", "source").reindex(columns=order)
    pair = findings.matrix.take(["student", "baseline"])
    gain = 100 * (pair.correct[:, 0] - pair.correct[:, 1])
    return {
        "sources": whole[["points", "low", "high"]].to_dict(orient="index"),
        "routed": bootstrap.mean(gain, pair.labelled, pair.groups),
        "cells": len(cells),
        "cells_with_interval": int(cells["low"].notna().sum()),
        "measurable_cells": len(measurable),
        "classes_with_measurable_cells": int(measurable["class"].nunique()),
        "best_sources_of_classes": best.idxmax(axis=1).nunique() if len(cells) else 0,
    }


def _reliance(findings: Findings) -> Metrics:
    """Return by net and modality what permuting the modality among the samples costs."""
    return {
        str(source): rows.set_index("modality").drop(columns="source").to_dict(orient="index")
        for source, rows in findings.reliance.groupby("source", sort=False)
    }


def _drift(findings: Findings, bootstrap: Bootstrap) -> Metrics:
    """Return the mean overlaps with the student's saliency, and how each mask changes them."""
    means = findings.drift.groupby("source", sort=False)[["overlap", "by_chance"]].mean()
    first, *masked = (str(source) for source in means.index)
    by_source: Metrics = {source: dict(means.loc[source]) for source in (first, *masked)}
    overlaps = findings.drift.pivot_table("overlap", "id", "source")
    group_of = dict(zip(findings.matrix.ids, findings.matrix.groups, strict=True))
    groups = np.array([group_of.get(sample, sample) for sample in overlaps.index])
    for source in masked:
        change = (overlaps[source] - overlaps[first]).to_numpy()
        ones = np.ones(len(change))
        by_source[source]["change"] = bootstrap.mean(change, ones, groups)
    return {"samples": int(findings.drift["id"].nunique()), "sources": by_source}


def _similarity(findings: Findings) -> Metrics:
    """Return by source the CKA of features and logits."""
    return {
        str(source): rows.set_index("of")[["cka", "by_chance"]].to_dict(orient="index")
        for source, rows in findings.similarity.groupby("source", sort=False)
    }


def _disagreement(findings: Findings) -> Metrics:
    """Return the mean tau^2 KL of each group, and how often only source or student is correct."""
    metrics: Metrics = {"kl": findings.disagreement.groupby("group")["kl"].mean().to_dict()}
    if not findings.classes:
        return metrics
    student = findings.matrix.take(["student"]).correct > 0
    for titles in findings.groups.values():
        source = findings.matrix.take(titles).correct > 0
        for name, shares_of in (
            ("source_alone_right", (source & ~student).mean(axis=0)),
            ("student_alone_right", (student & ~source).mean(axis=0)),
        ):
            metrics[name] = metrics.get(name, {}) | _named(titles, shares_of)
    return metrics


def _headroom(findings: Findings, bootstrap: Bootstrap) -> Metrics:
    """Return for each group what a perfect router would gain."""
    models = ["student", "baseline"]
    return {
        group: headroom(
            findings.matrix,
            titles,
            MIXTURES[group],
            [*([ROUTED] if group == "specialists" else []), *models],
            bootstrap,
        )
        for group, titles in findings.groups.items()
    }


def _routing(findings: Findings, bootstrap: Bootstrap) -> Metrics:
    """Return the quality of routing on held-out samples, and its entropy during training."""
    titles = findings.groups["specialists"]
    matrix = findings.matrix.take(titles)
    routed = findings.matrix.take([ROUTED]).correct[:, 0]
    fixed = against_fixed(routed, matrix.correct, matrix.labelled, bootstrap, matrix.groups)
    metrics: Metrics = {
        "shares": _named(titles, findings.weights.mean(axis=0)),
        "against_fixed": {**fixed, "best_fixed": titles[fixed["best_fixed"]]},
        "even_bits": float(np.log2(len(titles))),
        "bits_by_epoch": entropy_by_epoch(findings.routing),
    }
    if findings.classes:
        rng = np.random.default_rng(bootstrap.seed)
        choice = information(findings.weights, matrix.correct, rng)
        metrics["information"] = {**choice, "bits_each": _named(titles, choice["bits_each"])}
        by_class = shares(findings.weights, matrix.labels, len(findings.classes))
        metrics["shares_by_class"] = {
            name: _named(titles, row) for name, row in zip(findings.classes, by_class, strict=True)
        }
    return metrics


def entropy_by_epoch(routing: pd.DataFrame) -> list[float]:
    """Return for each epoch the entropy in bits of the specialists' shares of training samples.

    Args:
        routing: Columns ``epoch``, ``class``, ``specialist`` and ``samples``.
    """
    counts = routing.pivot_table("samples", "epoch", "specialist", aggfunc="sum")
    return [entropy(row / row.sum()) for row in counts.to_numpy(dtype=float)]


def _named(titles: Sequence[str], values: Sequence[float] | np.ndarray) -> dict[str, float]:
    return {title: float(value) for title, value in zip(titles, values, strict=True)}
