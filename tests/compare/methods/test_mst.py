"""MST-Distill as a compared method: options take effect, and shared stages run once."""

from __future__ import annotations

import numpy as np
import pytest

from mst_distill.compare.context import TrialContext
from mst_distill.compare.methods.mst import MST
from mst_distill.compare.teaching import resolve_methods
from mst_distill.mst import run_stages
from mst_distill.parameters import Compare
from toy_comparisons import make_comparison_plan, make_pool
from toy_runs import make_run

MERIT = {"teachers": {"kd": "none", "keep": "metric"}, "route": {"preset": "merit"}}
UNIFORM = {**MERIT, "route": {"preset": "merit", "router": "uniform"}}


@pytest.fixture(scope="module")
def prepared():
    run, _ = make_run()
    plan = make_comparison_plan()
    return run, plan, make_pool(run, plan)


def teach(prepared, arguments):
    run, plan, pool = prepared
    return MST.teach(TrialContext(run, plan, pool, "", "nothing"), **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"route": {"preset": "reference"}},
        {"teachers": {"kd_weight": 0.1, "keep": "metric"}, "route": {"preset": "merit"}},
        MERIT,
        UNIFORM,
        {"route": {"router": "uniform", "kd_weight": 0, "masked": False}},
        {"masks": {"kind": "fixed"}, "route": {"gated": True}},
    ],
)
def test_options_are_trained_under_equal_conditions(arguments, prepared):
    result = teach(prepared, arguments)
    assert set(result.students) == {"accuracy", "ce", "last"}
    assert np.isfinite(result.history.to_numpy()).all()
    assert result.student_epochs == 5
    assert len(result.history) == 3


@pytest.mark.parametrize("block", ["teachers", "masks", "route"])
@pytest.mark.parametrize(
    ("key", "value"), [("epochs", 50), ("batch_size", 4), ("learning_rate", 0.5)]
)
def test_an_argument_that_changes_the_budget_is_an_error_before_the_first_trial(block, key, value):
    """Also in a setting among several."""
    kind = {"type": "mst_distill.compare.methods.mst.MST"}
    settings = [{"route": {"preset": "merit"}}, {block: {"temperature": 2.0, key: value}}]
    compare = Compare.model_validate({"methods": {"ours": {**kind, "settings": settings}}})
    message = (
        rf"^compare\.methods\.ours: {block}\.{key} is {value}, but all methods of a comparison "
        rf"have the same budget, which the run's own block sets, for example "
        rf"--params={block}\.{key}={value}$"
    )
    with pytest.raises(ValueError, match=message):
        resolve_methods(compare)


def test_shared_stages_run_once_and_give_equal_results(prepared, monkeypatch):
    run, plan, _ = prepared
    unshared = teach((run, plan, make_pool(run, plan)), MERIT)
    calls = []
    for stage in ("train_members", "train_masks"):
        plain = getattr(run_stages, stage)

        def counted(*arguments, plain=plain, stage=stage):
            calls.append(stage)
            return plain(*arguments)

        monkeypatch.setattr(run_stages, stage, counted)
    shared = run, plan, make_pool(run, plan)
    first = teach(shared, UNIFORM)
    second = teach(shared, MERIT)
    assert calls == ["train_members", "train_masks"]
    assert first.seconds_before == 0 < second.seconds_before
    assert second.history.equals(unshared.history)
    teach(shared, {**MERIT, "masks": {"kind": "fixed"}})
    assert calls == ["train_members", "train_masks", "train_masks"]
