"""The report of toy runs: every figure from its table, and sentences that fit them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy as scipy_entropy

from mst_distill.diagnose.drift import choose_rows, drift_table, look, similarity_table
from mst_distill.diagnose.evaluated_models import MIXTURES, PICKED
from mst_distill.diagnose.path_effects import path_table, path_title
from mst_distill.diagnose.prediction_matrix import Outcomes
from mst_distill.diagnose.reliance import reliance_table
from mst_distill.diagnose.report import Found, diagnose, entropy_by_epoch
from mst_distill.diagnose.routing_probabilities import held_out_weights, preference_table
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.predictions import judge
from toy_diagnoses import Toy, finished, outcomes_of
from toy_runs import KINDS


def look_into(toy: Toy) -> Found:
    students = {path_title(source.title): toy.first for source in toy.sources}
    judged = judge(toy.run, toy.company(**students), 8, 5, 4.0)
    outcomes = Outcomes.of(judged.predictions)
    classes = () if toy.run.samples.dense else toy.run.samples.classes
    rows = choose_rows(toy.run, 6)
    names = toy.panel.names
    preferences = preference_table(toy.run, toy.observer, toy.done.router, names, 8)
    return Found(
        target=toy.run.target,
        classes=classes,
        groups={
            "teachers": [source.title for source in toy.sources if not source.masked],
            "specialists": list(names),
        },
        outcomes=outcomes,
        weights=held_out_weights(preferences, 1),
        disagreement=judged.disagreement,
        paths=path_table(outcomes, "control", classes, Bootstrap(50, 0.95, 0)),
        drift=drift_table(toy.run, look(toy.run, toy.viewers, rows, 8)),
        similarity=similarity_table(toy.run, toy.viewers, rows, 8),
        reliance=reliance_table(toy.run, toy.sources, 8, Bootstrap(50, 0.95, 0)),
        routing=toy.done.given,
    )


def bootstrap() -> Bootstrap:
    return Bootstrap(100, 0.95, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_has_a_report_that_is_plain_json(kind):
    found = look_into(finished(kind))
    report = diagnose(found, bootstrap())
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert list(report) == [
        *("says", "paths", "reliance", "drift", "similarity", "disagreement", "headroom"),
        "routing",
    ]
    dense = not found.classes
    text = " ".join(report["says"])
    assert ("Every pixel has a label here" in text) == dense
    assert ("bits of its choice" in text) != dense
    assert ("information" in report["routing"]) != dense
    assert f"the {found.target} student ends between" in text
    seeing = [name for name in found.groups["specialists"] if name.startswith("multimodal/")]
    assert list(report["reliance"]) == ["multimodal teacher", *seeing]
    assert "among the samples costs the multimodal teacher" in text
    assert all(sentence.endswith(".") for sentence in report["says"])


def test_figures_are_those_of_the_tables():
    found = look_into(finished("two modalities"))
    report = diagnose(found, bootstrap())
    right = pd.DataFrame(found.outcomes.correct, columns=list(found.outcomes.models)) > 0
    alone = report["disagreement"]["source_alone_right"]
    lost = report["disagreement"]["student_alone_right"]
    for source in (title for titles in found.groups.values() for title in titles):
        assert alone[source] == pytest.approx((right[source] & ~right["student"]).mean())
        assert lost[source] == pytest.approx((~right[source] & right["student"]).mean())
    drift = found.drift.pivot_table("overlap", "id", "source")
    for source, figures in report["drift"]["sources"].items():
        assert figures["overlap"] == pytest.approx(drift[source].mean())
        if source != "multimodal teacher":
            change = (drift[source] - drift["multimodal teacher"]).mean()
            assert figures["change"]["value"] == pytest.approx(change)
    oracle = report["headroom"]["specialists"]["accuracy"]["oracle"]["value"]
    assert oracle == pytest.approx(right[found.groups["specialists"]].any(axis=1).mean())
    names = found.groups["specialists"]
    routed = report["headroom"]["specialists"]["accuracy"][PICKED]["value"]
    choice = found.weights.argmax(axis=1)
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
            "Permuting the text among the samples costs the multimodal teacher 56.1 points of "
            "accuracy (95% interval 53.0 to 59.4), permuting the image 19.0 (16.2 to 22.0).",
        ),
        (
            reliance_rows(a=(1, 0.5, 2), b=(0, np.nan, np.nan), c=(-0.4, -1, 0.2)),
            "Permuting the a among the samples costs the multimodal teacher 1.0 points of accuracy "
            "(95% interval 0.5 to 2.0), permuting the b 0.0 (no interval), permuting the c -0.4 "
            "(-1.0 to 0.2).",
        ),
        (reliance_rows(), None),
    ],
)
def test_what_the_multimodal_teacher_relies_on_is_told_by_permutation(table, sentence):
    found = look_into(finished("two modalities"))
    if sentence is None:
        table = found.reliance.iloc[
            :0
        ]  # a single held-out sample, which none can take the place of
    report = diagnose(Found(**{**vars(found), "reliance": table}), bootstrap())
    told = [says for says in report["says"] if "ermuting" in says]
    assert told == ([sentence] if sentence else [])
    assert report["reliance"].get("multimodal/fusion", {}).keys() == set(table["modality"])
    assert not any("evidence" in says for says in report["says"])


def test_the_evenness_of_every_epoch():
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
    """400 samples; one specialist is right about `better` of those that the other is not."""
    found = look_into(finished("two modalities"))
    names = found.groups["specialists"]
    first = (np.arange(400) < 300).astype(int)
    other = np.roll(first, better)
    right = dict.fromkeys(found.outcomes.models, first) | {names[1]: other}
    right |= {PICKED: first, MIXTURES["specialists"]: first}
    weights = np.eye(len(names))[np.zeros(400, dtype=int)]
    outcomes = outcomes_of(right, np.arange(400) % 3)
    changed = Found(**{**vars(found), "outcomes": outcomes, "weights": weights})
    report = diagnose(changed, bootstrap())
    room = report["headroom"]["specialists"]["accuracy"]["headroom"]["value"]
    assert room == pytest.approx(better / 400)
    (sentence,) = [says for says in report["says"] if "choice among the specialists" in says]
    assert ("routing cannot matter here" in sentence) != matters


def test_of_classes_that_several_sources_do_alike_the_best_of_all_is_best():
    found = look_into(finished("two modalities"))
    cells = [("one", "(all)", 2), ("other", "(all)", 1), ("one", "a", 0), ("other", "a", 0)]
    cells += [("one", "b", 5), ("other", "b", 1), ("one", "c", 0), ("other", "c", 1)]
    paths = pd.DataFrame(cells, columns=["source", "class", "points"])
    paths = paths.assign(low=paths["points"] - 2, high=paths["points"] + 2, samples=9)
    empty = [{"source": source, "class": "d", "samples": 0} for source in ("one", "other")]
    single = [{"source": source, "class": "e", "points": 9, "samples": 1} for source in ("one",)]
    more = pd.concat([paths, pd.DataFrame(empty), pd.DataFrame(single)], ignore_index=True)
    for table, expected in ((paths, 2), (more, 2), (paths[paths["class"] != "c"], 1)):
        report = diagnose(Found(**{**vars(found), "paths": table}), bootstrap())
        assert report["paths"]["best_sources_of_classes"] == expected
        assert report["paths"]["measurable_cells"] == 1
        assert report["paths"]["classes_with_measurable_cells"] == 1
        one_more = int(table is more)
        classes = table["class"].nunique() - 1 - 2 * one_more
        assert report["paths"]["cells"] == 2 * classes + one_more
        assert report["paths"]["cells_with_interval"] == 2 * classes
        (sentence,) = [says for says in report["says"] if says.startswith("By class")]
        assert sentence.endswith(f"chance alone gives about {0.05 * 2 * classes:.0f}.")


def test_classes_that_no_held_out_sample_has_are_told_without_figures():
    found = look_into(finished("two modalities"))
    report = diagnose(Found(**{**vars(found), "classes": (*found.classes, "never")}), bootstrap())
    by_class = report["routing"]["shares_by_class"]
    assert list(by_class) == [*found.classes, "never"]
    assert by_class["never"] == dict.fromkeys(found.groups["specialists"])
    assert all(sum(by_class[name].values()) == pytest.approx(1) for name in found.classes)


def test_what_is_the_same_on_every_sample_has_no_interval_in_figures_and_sentences():
    """All models are right about the first two of three samples, so nothing differs anywhere."""
    found = look_into(finished("two modalities"))
    right = dict.fromkeys(found.outcomes.models, np.array([1, 1, 0]))
    outcomes = outcomes_of(right, [0, 1, 2])
    names = found.groups["specialists"]
    weights = np.eye(len(names))[[0, 0, 0]]
    report = diagnose(
        Found(**{**vars(found), "outcomes": outcomes, "weights": weights}), bootstrap()
    )
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    none = {"value": 0, "low": None, "high": None}
    assert report["paths"]["routed"] == none
    assert report["headroom"]["specialists"]["accuracy"]["headroom"] == none
    assert report["routing"]["against_fixed"]["difference"] == none
    told = [says for says in report["says"] if "no interval, for it is the same" in says]
    assert len(told) == 3  # headroom of either group, and the routed against the best
    assert not any("+0.00 to +0.00" in says for says in report["says"])
