"""The metrics of a diagnosis in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mst_distill.diagnose.headroom import NEGLIGIBLE

Metrics = dict[str, Any]


def sentences(metrics: Metrics, target: str, confidence: float) -> list[str]:
    """Summarise the most important metrics.

    Args:
        metrics: Section name to its metrics, from `diagnose`.
        target: The student's modality.
        confidence: Confidence level of the intervals.
    """
    return [
        *_of_paths(metrics["paths"], target, confidence),
        *_of_reliance(metrics["reliance"], confidence),
        *_of_drift(metrics["drift"], target),
        *_of_similarity(metrics["similarity"]),
        *_of_disagreement(metrics["disagreement"]),
        *_of_headroom(metrics["headroom"], confidence),
        *_of_routing(metrics["routing"], confidence),
    ]


def _of_paths(paths: Metrics, target: str, confidence: float) -> Iterator[str]:
    points = {source: of["points"] for source, of in paths["sources"].items()}
    worst, best = min(points, key=points.__getitem__), max(points, key=points.__getitem__)
    differ = sum(of["low"] * of["high"] > 0 for of in paths["sources"].values())
    yield (
        f"Distilled from one fixed source, the {target} student ends between "
        f"{points[worst]:+.2f} points ({worst}) and {points[best]:+.2f} points ({best}) against "
        f"the baseline; with the router, it ends at {paths['routed']['value']:+.2f} points. "
        f"Of the {len(points)} sources, {differ} differ measurably from the baseline."
    )
    if paths["cells"]:
        yield (
            f"By class, {paths['best_sources_of_classes']} different sources are the best in at "
            f"least one class. Of the {paths['cells']} differences from the baseline, "
            f"{paths['measurable_cells']} are measurable, in "
            f"{paths['classes_with_measurable_cells']} classes; chance alone would give about "
            f"{(1 - confidence) * paths['cells_with_interval']:.0f}."
        )
    else:
        yield (
            "Labels are dense: there are no results by class, and samples on which only the "
            "source or only the student is correct are not counted."
        )


def _of_reliance(reliance: Metrics, confidence: float) -> Iterator[str]:
    """Describe the first net of the table, the multimodal teacher; its specialists follow it."""
    for teacher, modalities in list(reliance.items())[:1]:
        first, *others = sorted(modalities, key=lambda name: -modalities[name]["points"])
        sentence = (
            f"Permuting the {first} among the held-out samples costs the {teacher} "
            f"{modalities[first]['points']:.1f} points of accuracy "
            f"({_range(modalities[first], f'{confidence:.0%} interval ')})"
        )
        for name in others:
            of = modalities[name]
            sentence += f"; permuting the {name} costs {of['points']:.1f} points ({_range(of)})"
        yield f"{sentence}."


def _range(points: dict[str, float], before: str = "") -> str:
    """Format an interval in points, or state that there is none."""
    if math.isnan(points["low"]):
        return "no interval"
    return f"{before}{points['low']:.1f} to {points['high']:.1f}"


def _of_drift(drift: Metrics, target: str) -> Iterator[str]:
    (teacher, unmasked), *masked = drift["sources"].items()
    sentence = (
        f"On {target}, the saliency maps of the student and the {teacher} overlap by "
        f"{unmasked['overlap']:.2f} ({unmasked['by_chance']:.2f} if the two maps are of different "
        f"samples)"
    )
    if masked:
        overlaps = ", ".join(f"{of['overlap']:.2f} ({name})" for name, of in masked)
        sentence += f"; with a mask on the teacher, they overlap by {overlaps}"
    yield f"{sentence}."


def _of_similarity(similarity: Metrics) -> Iterator[str]:
    of_teachers = [
        f"{of['features']['cka']:.2f} with those of the {source} "
        f"({of['features']['by_chance']:.2f} by chance)"
        for source, of in similarity.items()
        if "features" in of
    ]
    yield f"The student's features have a linear CKA of {_joined(of_teachers)}."


def _of_disagreement(disagreement: Metrics) -> Iterator[str]:
    kl = disagreement["kl"]
    groups = [name for name in ("teachers", "specialists") if name in kl]
    of_groups = _joined([f"{kl[group]:.2f} among the {group}" for group in groups])
    yield f"The mean disagreement (tau² KL) is {of_groups}."
    alone = disagreement.get("source_alone_right", {})
    teachers = [title for title in alone if title.endswith(" teacher")]
    for title in teachers:
        yield (
            f"The {title} is correct and the student is not on {alone[title]:.1%} of the held-out "
            f"samples; the reverse holds on {disagreement['student_alone_right'][title]:.1%}."
        )


def _of_headroom(headroom: Metrics, confidence: float) -> Iterator[str]:
    for group, metrics in headroom.items():
        room = metrics["accuracy"]["headroom"]
        sentence = (
            f"A perfect choice among the {group} would gain {100 * room['value']:.2f} points "
            f"({_interval(room, confidence)}) over the better of their uniform mixture and the "
            f"best of them alone ({metrics['best_single']})"
        )
        if group == "specialists" and room["value"] < NEGLIGIBLE:
            sentence += "; with so little headroom, routing cannot matter"
        yield f"{sentence}."


def _of_routing(routing: Metrics, confidence: float) -> Iterator[str]:
    first, last = routing["bits_by_epoch"][0], routing["bits_by_epoch"][-1]
    yield (
        f"The distribution of the training samples over the specialists has an entropy of "
        f"{first:.2f} bits in the first epoch and {last:.2f} bits in the last epoch; a uniform "
        f"distribution has {routing['even_bits']:.2f} bits."
    )
    if choice := routing.get("information"):
        yield (
            f"The router's choice on the held-out samples has an entropy of "
            f"{choice['choice_bits']:.2f} bits. Its mutual information with the correctness of the "
            f"specialists is {choice['bits']:.3f} bits; for shuffled choices, the mean is "
            f"{choice['bits_by_chance']:.3f} bits (p = {choice['p_value']:.3f})."
        )
    fixed = routing["against_fixed"]
    yield (
        f"Compared with always using {fixed['best_fixed']}, the specialists as routed are better "
        f"on {fixed['better']:.1%} of the held-out samples and worse on {fixed['worse']:.1%}: the "
        f"difference is {100 * fixed['difference']['value']:+.2f} points "
        f"({_interval(fixed['difference'], confidence)})."
    )


def _interval(difference: dict[str, float], confidence: float) -> str:
    low, high = 100 * difference["low"], 100 * difference["high"]
    if math.isnan(low):
        return "no interval, because the value is the same on every sample"
    return f"{confidence:.0%} interval {low:+.2f} to {high:+.2f}"


def _joined(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
