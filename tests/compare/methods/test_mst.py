"""MST-Distill among the compared methods: options go through, and shared stages run once."""

from __future__ import annotations

import numpy as np
import pytest

from mst_distill.compare.context import Setup
from mst_distill.compare.methods import mst
from mst_distill.compare.methods.mst import MST
from toy_comparisons import make_pool, make_recipe
from toy_runs import make_run

MERIT = {"teachers": {"kd": "none", "keep": "accuracy"}, "route": {"preset": "merit"}}
UNIFORM = {**MERIT, "route": {"preset": "merit", "router": "uniform"}}


@pytest.fixture(scope="module")
def ground():
    run, _ = make_run()
    recipe = make_recipe()
    return run, recipe, make_pool(run, recipe)


def teach(ground, arguments):
    run, recipe, pool = ground
    return MST.teach(Setup(run, recipe, pool, "", "nothing"), **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"route": {"preset": "reference"}},
        {"teachers": {"kd_weight": 0.1, "keep": "accuracy"}, "route": {"preset": "merit"}},
        MERIT,
        UNIFORM,
        {"route": {"router": "uniform", "kd_weight": 0, "masked": False}},
        {"masks": {"kind": "fixed"}, "route": {"gated": True}},
    ],
)
def test_options_go_through_on_equal_terms(arguments, ground):
    taught = teach(ground, arguments)
    assert set(taught.students) == {"accuracy", "ce", "last"}
    assert np.isfinite(taught.history.to_numpy()).all()
    assert taught.student_epochs == 5
    assert len(taught.history) == 3


def test_shared_stages_run_once_and_end_the_same(ground, monkeypatch):
    run, recipe, _ = ground
    alone = teach((run, recipe, make_pool(run, recipe)), MERIT)
    calls = []
    for stage in ("train_members", "train_masks"):
        plain = getattr(mst, stage)

        def counted(*arguments, plain=plain, stage=stage):
            calls.append(stage)
            return plain(*arguments)

        monkeypatch.setattr(mst, stage, counted)
    shared = run, recipe, make_pool(run, recipe)
    first = teach(shared, UNIFORM)
    second = teach(shared, MERIT)
    assert calls == ["train_members", "train_masks"]
    assert first.seconds_before == 0 < second.seconds_before
    assert second.history.equals(alone.history)
    teach(shared, {**MERIT, "masks": {"kind": "fixed"}})
    assert calls == ["train_members", "train_masks", "train_masks"]
