"""The diagnosis of a run: plain sentences, and the figures that they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.diagnose.evaluated_models import MIXTURES, PICKED
from mst_distill.diagnose.headroom import headroom
from mst_distill.diagnose.path_effects import ALL
from mst_distill.diagnose.prediction_matrix import Outcomes
from mst_distill.diagnose.routing_quality import against_fixed, entropy, information, shares
from mst_distill.diagnose.sentences import sentences
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.json_values import json_values

Figures = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What the other steps found.

    Attributes:
        target: The student's modality.
        classes: Class names in order; none where labels are dense.
        groups: ``teachers`` and ``specialists`` to their titles.
        outcomes: Of all models on the held-out split.
        weights: ``(n, E)``, what each specialist weighs for each of its samples.
        disagreement: Means of KD between the models of a group, as `judge` gives them.
        paths: From `path_table`.
        drift: From `drift_table`.
        similarity: From `similarity_table`.
        reliance: From `reliance_table`.
        routing: Who was given how many training samples, by epoch and class.
    """

    target: str
    classes: tuple[str, ...]
    groups: Mapping[str, Sequence[str]]
    outcomes: Outcomes
    weights: np.ndarray
    disagreement: pd.DataFrame
    paths: pd.DataFrame
    drift: pd.DataFrame
    similarity: pd.DataFrame
    reliance: pd.DataFrame
    routing: pd.DataFrame


def diagnose(found: Found, bootstrap: Bootstrap) -> dict[str, Any]:
    """Say what distillation did in this run.

    Returns:
        JSON values: ``says``, a list of sentences, then the figures that they rest on: ``paths``,
        ``reliance``, ``drift``, ``similarity``, ``disagreement``, ``headroom`` and ``routing``.
        None stands where there is no interval or no sample.
    """
    figures = {
        "paths": _paths(found, bootstrap),
        "reliance": _reliance(found),
        "drift": _drift(found, bootstrap),
        "similarity": _similarity(found),
        "disagreement": _disagreement(found),
        "headroom": _headroom(found, bootstrap),
        "routing": _routing(found, bootstrap),
    }
    says = sentences(figures, found.target, bootstrap.confidence)
    report: dict[str, Any] = json_values({"says": says, **figures})
    return report


def _paths(found: Found, bootstrap: Bootstrap) -> Figures:
    """Points against the control, and how many cells of class by source differ measurably."""
    table = found.paths
    whole = table[table["class"] == ALL].set_index("source")
    cells = table[(table["class"] != ALL) & (table["samples"] > 0)]
    measurable = cells[cells["low"] * cells["high"] > 0]
    # Where several are best in a class, the one that is best on the whole.
    order = whole["points"].sort_values(ascending=False).index
    best = cells.pivot_table("points", "class", "source").reindex(columns=order)
    both = found.outcomes.take(["student", "control"])
    gain = 100 * (both.correct[:, 0] - both.correct[:, 1])
    return {
        "sources": whole[["points", "low", "high"]].to_dict(orient="index"),
        "routed": bootstrap.mean(gain, both.judged),
        "cells": len(cells),
        "cells_with_interval": int(cells["low"].notna().sum()),
        "measurable_cells": len(measurable),
        "classes_with_measurable_cells": int(measurable["class"].nunique()),
        "best_sources_of_classes": best.idxmax(axis=1).nunique() if len(cells) else 0,
    }


def _reliance(found: Found) -> Figures:
    """By net and modality, what permuting it among the samples costs."""
    return {
        str(source): rows.set_index("modality").drop(columns="source").to_dict(orient="index")
        for source, rows in found.reliance.groupby("source", sort=False)
    }


def _drift(found: Found, bootstrap: Bootstrap) -> Figures:
    """Mean overlaps with the student's gaze, and what each mask changed of it."""
    means = found.drift.groupby("source", sort=False)[["overlap", "by_chance"]].mean()
    first, *masked = (str(source) for source in means.index)
    figures: Figures = {source: dict(means.loc[source]) for source in (first, *masked)}
    overlaps = found.drift.pivot_table("overlap", "id", "source")
    for source in masked:
        change = (overlaps[source] - overlaps[first]).to_numpy()
        figures[source]["change"] = bootstrap.mean(change, np.ones(len(change)))
    return {"samples": int(found.drift["id"].nunique()), "sources": figures}


def _similarity(found: Found) -> Figures:
    """CKA by source, of features and logits."""
    return {
        str(source): rows.set_index("of")[["cka", "by_chance"]].to_dict(orient="index")
        for source, rows in found.similarity.groupby("source", sort=False)
    }


def _disagreement(found: Found) -> Figures:
    """Mean tau^2 KL within a group; how often a source is right where the student is not."""
    figures: Figures = {"kl": found.disagreement.groupby("group")["kl"].mean().to_dict()}
    if not found.classes:
        return figures
    student = found.outcomes.take(["student"]).correct > 0
    for titles in found.groups.values():
        right = found.outcomes.take(titles).correct > 0
        for name, shares_of in (
            ("source_alone_right", (right & ~student).mean(axis=0)),
            ("student_alone_right", (student & ~right).mean(axis=0)),
        ):
            figures[name] = figures.get(name, {}) | _named(titles, shares_of)
    return figures


def _headroom(found: Found, bootstrap: Bootstrap) -> Figures:
    """Of either group, what a perfect router would gain."""
    models = ["student", "control"]
    return {
        group: headroom(
            found.outcomes,
            titles,
            MIXTURES[group],
            [*([PICKED] if group == "specialists" else []), *models],
            bootstrap,
        )
        for group, titles in found.groups.items()
    }


def _routing(found: Found, bootstrap: Bootstrap) -> Figures:
    """The router's choice on held-out samples, and how evenly it dealt while it learned."""
    titles = found.groups["specialists"]
    outcomes = found.outcomes.take(titles)
    routed = found.outcomes.take([PICKED]).correct[:, 0]
    fixed = against_fixed(routed, outcomes.correct, outcomes.judged, bootstrap)
    figures: Figures = {
        "shares": _named(titles, found.weights.mean(axis=0)),
        "against_fixed": {**fixed, "best_fixed": titles[fixed["best_fixed"]]},
        "even_bits": float(np.log2(len(titles))),
        "bits_by_epoch": entropy_by_epoch(found.routing),
    }
    if found.classes:
        rng = np.random.default_rng(bootstrap.seed)
        told = information(found.weights, outcomes.correct, rng)
        figures["information"] = {**told, "bits_each": _named(titles, told["bits_each"])}
        by_class = shares(found.weights, outcomes.labels, len(found.classes))
        figures["shares_by_class"] = {
            name: _named(titles, row) for name, row in zip(found.classes, by_class, strict=True)
        }
    return figures


def entropy_by_epoch(routing: pd.DataFrame) -> list[float]:
    """How evenly the training samples of every epoch were dealt, in bits.

    Args:
        routing: ``epoch``, ``class``, ``specialist`` and ``samples``.
    """
    counts = routing.pivot_table("samples", "epoch", "specialist", aggfunc="sum")
    return [entropy(row / row.sum()) for row in counts.to_numpy(dtype=float)]


def _named(titles: Sequence[str], values: Sequence[float] | np.ndarray) -> dict[str, float]:
    return {title: float(value) for title, value in zip(titles, values, strict=True)}
