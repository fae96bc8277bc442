"""The report of toy runs: metrics against the tables, and sentences against the metrics."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy as scipy_entropy

from mst_distill.diagnose.drift import choose_rows, drift_table, saliency_maps, similarity_table
from mst_distill.diagnose.evaluated_models import MIXTURES, ROUTED
from mst_distill.diagnose.path_effects import path_table, path_title
from mst_distill.diagnose.prediction_matrix import PredictionMatrix
from mst_distill.diagnose.reliance import reliance_table
from mst_distill.diagnose.report import Findings, diagnose, entropy_by_epoch
from mst_distill.diagnose.routing_probabilities import held_out_weights, routing_probability_table
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.predictions import evaluate_models
from toy_diagnoses import Toy, finished, matrix_of
from toy_runs import KINDS


def findings_of(toy: Toy) -> Findings:
    students = {path_title(source.title): toy.initial_student for source in toy.sources}
    results = evaluate_models(toy.run, toy.models(**students), 8, 5, 4.0)
    matrix = PredictionMatrix.of(results.predictions)
    classes = () if toy.run.samples.dense else toy.run.samples.classes
    rows = choose_rows(toy.run, 6)
    names = toy.ensemble.names
    probabilities = routing_probability_table(toy.run, toy.extractor, toy.result.router, names, 8)
    return Findings(
        target=toy.run.target,
        classes=classes,
        groups={
            "teachers": [source.title for source in toy.sources if not source.masked],
            "specialists": list(names),
        },
        matrix=matrix,
        weights=held_out_weights(probabilities, 1),
        disagreement=results.disagreement,
        paths=path_table(matrix, "baseline", classes, Bootstrap(50, 0.95, 0)),
        drift=drift_table(toy.run, saliency_maps(toy.run, toy.attributed_models, rows, 8)),
        similarity=similarity_table(toy.run, toy.attributed_models, rows, 8),
        reliance=reliance_table(toy.run, toy.sources, 8, Bootstrap(50, 0.95, 0)),
        routing=toy.result.load,
    )


def bootstrap() -> Bootstrap:
    return Bootstrap(100, 0.95, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_has_a_report_in_strict_json(kind):
    findings = findings_of(finished(kind))
    report = diagnose(findings, bootstrap())
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert list(report) == [
        *("sentences", "paths", "reliance", "drift", "similarity", "disagreement", "headroom"),
        "routing",
    ]
    dense = not findings.classes
    text = " ".join(report["sentences"])
    assert ("Labels are dense" in text) == dense
    assert ("mutual information" in text) != dense
    assert ("information" in report["routing"]) != dense
    assert f"the {findings.target} student ends between" in text
    masked = [name for name in findings.groups["specialists"] if name.startswith("multimodal/")]
    assert list(report["reliance"]) == ["multimodal teacher", *masked]
    assert "among the held-out samples costs the multimodal teacher" in text
    assert all(sentence.endswith(".") for sentence in report["sentences"])


def test_metrics_are_those_of_the_tables():
    findings = findings_of(finished("two modalities"))
    report = diagnose(findings, bootstrap())
    right = pd.DataFrame(findings.matrix.correct, columns=list(findings.matrix.models)) > 0
    source_alone = report["disagreement"]["source_alone_right"]
    student_alone = report["disagreement"]["student_alone_right"]
    for source in (title for titles in findings.groups.values() for title in titles):
        assert source_alone[source] == pytest.approx((right[source] & ~right["student"]).mean())
        assert student_alone[source] == pytest.approx((~right[source] & right["student"]).mean())
    drift = findings.drift.pivot_table("overlap", "id", "source")
    for source, metrics in report["drift"]["sources"].items():
        assert metrics["overlap"] == pytest.approx(drift[source].mean())
        if source != "multimodal teacher":
            change = (drift[source] - drift["multimodal teacher"]).mean()
            assert metrics["change"]["value"] == pytest.approx(change)
    oracle = report["headroom"]["specialists"]["accuracy"]["oracle"]["value"]
    assert oracle == pytest.approx(right[findings.groups["specialists"]].any(axis=1).mean())
    names = findings.groups["specialists"]
    routed = report["headroom"]["specialists"]["accuracy"][ROUTED]["value"]
    choice = findings.weights.argmax(axis=1)
    assert routed == pytest.approx(right[names].to_numpy()[range(len(choice)), choice].mean())
    gain = report["routing"]["against_fixed"]["difference"]["value"]
    assert gain == pytest.approx(routed - right[names].mean().max())
    shares = report["routing"]["shares"]
    assert [shares[name] for name in names] == pytest.approx(
        np.bincount(choice, minlength=len(names)) / len(choice)
    )
    by_class = report["routing"]["shares_by_class"]
    assert all(sum(of.values()) == pytest.approx(1) for of in by_class.values())


def reliance_rows(**points: tuple[float, float, float]) -> pd.DataFrame:
    rows = [
        {"source": source, "modality": name, "points": value, "low": low, "high": high, "nats": 1.0}
        for source in ("multimodal teacher", "multimodal/fusion")
        for name, (value, low, high) in points.items()
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            reliance_rows(image=(19.04, 16.2, 22), text=(56.11, 53, 59.36)),
            "Permuting the text among the held-out samples costs the multimodal teacher 56.1 "
            "points of accuracy (95% interval 53.0 to 59.4); permuting the image costs 19.0 points "
            "(16.2 to 22.0).",
        ),
        (
            reliance_rows(a=(1, 0.5, 2), b=(0, np.nan, np.nan), c=(-0.4, -1, 0.2)),
            "Permuting the a among the held-out samples costs the multimodal teacher 1.0 points of "
            "accuracy (95% interval 0.5 to 2.0); permuting the b costs 0.0 points (no interval); "
            "permuting the c costs -0.4 points (-1.0 to 0.2).",
        ),
        (reliance_rows(), None),
    ],
)
def test_the_reliance_of_the_multimodal_teacher_is_reported(table, sentence):
    findings = findings_of(finished("two modalities"))
    if sentence is None:
        table = findings.reliance.iloc[:0]  # as for a single held-out sample
    report = diagnose(Findings(**{**vars(findings), "reliance": table}), bootstrap())
    found = [text for text in report["sentences"] if "ermuting" in text]
    assert found == ([sentence] if sentence else [])
    assert report["reliance"].get("multimodal/fusion", {}).keys() == set(table["modality"])
    assert not any("evidence" in text for text in report["sentences"])


def test_the_entropy_of_every_epoch():
    table = pd.DataFrame(
        {
            "epoch": [0, 0, 0, 0, 1, 1, 1, 1],
            "class": ["a", "a", "b", "b"] * 2,
            "specialist": ["x", "y"] * 4,
            "samples": [3, 1, 1, 3, 4, 0, 2, 2],
        }
    )
    expected = [scipy_entropy(counts, base=2) for counts in ([4, 4], [6, 2])]
    assert entropy_by_epoch(table) == pytest.approx(expected)


@pytest.mark.parametrize(("better", "matters"), [(0, False), (3, False), (30, True)])
def test_below_a_point_of_headroom_routing_cannot_matter(better, matters):
    """400 samples; one specialist is correct on `better` samples where the other is wrong."""
    findings = findings_of(finished("two modalities"))
    names = findings.groups["specialists"]
    first = (np.arange(400) < 300).astype(int)
    other = np.roll(first, better)
    right = dict.fromkeys(findings.matrix.models, first) | {names[1]: other}
    right |= {ROUTED: first, MIXTURES["specialists"]: first}
    weights = np.eye(len(names))[np.zeros(400, dtype=int)]
    matrix = matrix_of(right, np.arange(400) % 3)
    changed = Findings(**{**vars(findings), "matrix": matrix, "weights": weights})
    report = diagnose(changed, bootstrap())
    room = report["headroom"]["specialists"]["accuracy"]["headroom"]["value"]
    assert room == pytest.approx(better / 400)
    (sentence,) = [text for text in report["sentences"] if "choice among the specialists" in text]
    assert ("routing cannot matter" in sentence) != matters


def test_ties_within_a_class_go_to_the_source_that_is_best_over_all_classes():
    findings = findings_of(finished("two modalities"))
    cells = [("one", "(all)", 2), ("other", "(all)", 1), ("one", "a", 0), ("other", "a", 0)]
    cells += [("one", "b", 5), ("other", "b", 1), ("one", "c", 0), ("other", "c", 1)]
    paths = pd.DataFrame(cells, columns=["source", "class", "points"])
    paths = paths.assign(low=paths["points"] - 2, high=paths["points"] + 2, samples=9)
    empty = [{"source": source, "class": "d", "samples": 0} for source in ("one", "other")]
    single = [{"source": source, "class": "e", "points": 9, "samples": 1} for source in ("one",)]
    more = pd.concat([paths, pd.DataFrame(empty), pd.DataFrame(single)], ignore_index=True)
    for table, expected in ((paths, 2), (more, 2), (paths[paths["class"] != "c"], 1)):
        report = diagnose(Findings(**{**vars(findings), "paths": table}), bootstrap())
        assert report["paths"]["best_sources_of_classes"] == expected
        assert report["paths"]["measurable_cells"] == 1
        assert report["paths"]["classes_with_measurable_cells"] == 1
        one_more = int(table is more)
        classes = table["class"].nunique() - 1 - 2 * one_more
        assert report["paths"]["cells"] == 2 * classes + one_more
        assert report["paths"]["cells_with_interval"] == 2 * classes
        (sentence,) = [text for text in report["sentences"] if text.startswith("By class")]
        assert sentence.endswith(f"chance alone would give about {0.05 * 2 * classes:.0f}.")


def test_classes_without_held_out_samples_have_no_shares():
    findings = findings_of(finished("two modalities"))
    report = diagnose(
        Findings(**{**vars(findings), "classes": (*findings.classes, "never")}), bootstrap()
    )
    by_class = report["routing"]["shares_by_class"]
    assert list(by_class) == [*findings.classes, "never"]
    assert by_class["never"] == dict.fromkeys(findings.groups["specialists"])
    assert all(sum(by_class[name].values()) == pytest.approx(1) for name in findings.classes)


def test_differences_that_are_equal_on_every_sample_have_no_interval():
    """All models are correct on the first two of three samples, so there are no differences."""
    findings = findings_of(finished("two modalities"))
    right = dict.fromkeys(findings.matrix.models, np.array([1, 1, 0]))
    matrix = matrix_of(right, [0, 1, 2])
    names = findings.groups["specialists"]
    weights = np.eye(len(names))[[0, 0, 0]]
    report = diagnose(
        Findings(**{**vars(findings), "matrix": matrix, "weights": weights}), bootstrap()
    )
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    none = {"value": 0, "low": None, "high": None}
    assert report["paths"]["routed"] == none
    assert report["headroom"]["specialists"]["accuracy"]["headroom"] == none
    assert report["routing"]["against_fixed"]["difference"] == none
    found = [text for text in report["sentences"] if "no interval, because the value is" in text]
    assert len(found) == 3  # headroom of both groups, and routed against the best specialist
    assert not any("+0.00 to +0.00" in text for text in report["sentences"])
