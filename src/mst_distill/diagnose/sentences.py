"""The figures of a diagnosis in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mst_distill.diagnose.headroom import LITTLE

Figures = dict[str, Any]


def sentences(figures: Figures, target: str, confidence: float) -> list[str]:
    """What a reader should know first.

    Args:
        figures: By section, from `diagnose`.
        target: The student's modality.
        confidence: Of the intervals.
    """
    return [
        *_of_paths(figures["paths"], target, confidence),
        *_of_reliance(figures["reliance"], confidence),
        *_of_drift(figures["drift"], target),
        *_of_similarity(figures["similarity"]),
        *_of_disagreement(figures["disagreement"]),
        *_of_headroom(figures["headroom"], confidence),
        *_of_routing(figures["routing"], confidence),
    ]


def _of_paths(paths: Figures, target: str, confidence: float) -> Iterator[str]:
    points = {source: figure["points"] for source, figure in paths["sources"].items()}
    worst, best = min(points, key=points.__getitem__), max(points, key=points.__getitem__)
    differ = sum(of["low"] * of["high"] > 0 for of in paths["sources"].values())
    yield (
        f"Distilled from one fixed source, the {target} student ends between "
        f"{points[worst]:+.2f} ({worst}) and {points[best]:+.2f} points ({best}) against the "
        f"control; with the router at {paths['routed']['value']:+.2f}. Of {len(points)} sources "
        f"{differ} differ measurably from the control."
    )
    if paths["cells"]:
        yield (
            f"By class, {paths['best_sources_of_classes']} different sources are best somewhere; "
            f"{paths['measurable_cells']} of {paths['cells']} differences to the control are "
            f"measurable, in {paths['classes_with_measurable_cells']} classes; chance alone gives "
            f"about {(1 - confidence) * paths['cells_with_interval']:.0f}."
        )
    else:
        yield "Every pixel has a label here: nothing is told by class or of who alone is right."


def _of_reliance(reliance: Figures, confidence: float) -> Iterator[str]:
    """Of the multimodal teacher, whose specialists stand behind it in the table."""
    for teacher, modalities in list(reliance.items())[:1]:
        first, *others = sorted(modalities, key=lambda name: -modalities[name]["points"])
        sentence = (
            f"Permuting the {first} among the samples costs the {teacher} "
            f"{modalities[first]['points']:.1f} points of accuracy "
            f"({_range(modalities[first], f'{confidence:.0%} interval ')})"
        )
        for name in others:
            of = modalities[name]
            sentence += f", permuting the {name} {of['points']:.1f} ({_range(of)})"
        yield f"{sentence}."


def _range(figure: dict[str, float], before: str = "") -> str:
    """An interval in points, or that there is none."""
    if math.isnan(figure["low"]):
        return "no interval"
    return f"{before}{figure['low']:.1f} to {figure['high']:.1f}"


def _of_drift(drift: Figures, target: str) -> Iterator[str]:
    (teacher, before), *masked = drift["sources"].items()
    sentence = (
        f"On {target}, the places where the student and the {teacher} look overlap by "
        f"{before['overlap']:.2f} (those of two different samples by {before['by_chance']:.2f})"
    )
    if masked:
        after = ", ".join(f"{of['overlap']:.2f} ({name})" for name, of in masked)
        sentence += f"; behind its masks by {after}"
    yield f"{sentence}."


def _of_similarity(similarity: Figures) -> Iterator[str]:
    told = [
        f"{of['features']['cka']:.2f} to the {source} (by chance {of['features']['by_chance']:.2f})"
        for source, of in similarity.items()
        if "features" in of
    ]
    yield f"The student's features are similar (linear CKA) by {_joined(told)}."


def _of_disagreement(disagreement: Figures) -> Iterator[str]:
    kl = disagreement["kl"]
    groups = [name for name in ("teachers", "specialists") if name in kl]
    apart = _joined([f"{kl[group]:.2f} among the {group}" for group in groups])
    yield f"How far they disagree, as tau² KL: {apart}."
    alone = disagreement.get("source_alone_right", {})
    teachers = [title for title in alone if title.endswith(" teacher")]
    for title in teachers:
        yield (
            f"The {title} is right and the student is not on {alone[title]:.1%} of the held-out "
            f"samples, the reverse holds on {disagreement['student_alone_right'][title]:.1%}."
        )


def _of_headroom(headroom: Figures, confidence: float) -> Iterator[str]:
    for group, figures in headroom.items():
        room = figures["accuracy"]["headroom"]
        sentence = (
            f"A perfect choice among the {group} would gain {100 * room['value']:.2f} points "
            f"({_interval(room, confidence)}) over the better of two: their uniform mixture and "
            f"the best of them ({figures['best_single']})"
        )
        if group == "specialists" and room["value"] < LITTLE:
            sentence += ": routing cannot matter here"
        yield f"{sentence}."


def _of_routing(routing: Figures, confidence: float) -> Iterator[str]:
    first, last = routing["bits_by_epoch"][0], routing["bits_by_epoch"][-1]
    yield (
        f"The router deals training samples out with {first:.2f} bits in the first epoch and "
        f"{last:.2f} in the last; {routing['even_bits']:.2f} would be even."
    )
    if told := routing.get("information"):
        yield (
            f"Of the {told['choice_bits']:.2f} bits of its choice on held-out samples "
            f"{told['bits']:.3f} tell who is right; choices dealt at random tell "
            f"{told['bits_by_chance']:.3f} (p = {told['p_value']:.3f})."
        )
    fixed = routing["against_fixed"]
    yield (
        f"The specialists as routed do better than always {fixed['best_fixed']} on "
        f"{fixed['better']:.1%} of the samples and worse on {fixed['worse']:.1%}: "
        f"{100 * fixed['difference']['value']:+.2f} points "
        f"({_interval(fixed['difference'], confidence)})."
    )


def _interval(figure: dict[str, float], confidence: float) -> str:
    low, high = 100 * figure["low"], 100 * figure["high"]
    if math.isnan(low):
        return "no interval, for it is the same on every sample"
    return f"{confidence:.0%} interval {low:+.2f} to {high:+.2f}"


def _joined(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
