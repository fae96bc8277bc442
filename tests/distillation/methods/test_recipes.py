"""Every recipe of the parameters goes through, and stages that recipes share run once."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from mst_distill.distillation.methods import mst
from mst_distill.distillation.methods.mst import MST
from mst_distill.distillation.setup import Setup
from mst_distill.parameters import Contrasts
from toy_comparisons import BASE, make_pool, make_recipe
from toy_runs import make_run

PARAMETERS = yaml.safe_load(BASE.read_text())
CHOSEN_FROM = PARAMETERS["compare"]["recipes"]
CONFIRMED = PARAMETERS["compare"]["confirmation"]
RECIPES = CHOSEN_FROM | CONFIRMED


@pytest.fixture(scope="module")
def ground():
    run, _ = make_run()
    recipe = make_recipe()
    return run, recipe, make_pool(run, recipe)


def teach(ground, arguments):
    run, recipe, pool = ground
    return MST.teach(Setup(run, recipe, pool, "", "nothing"), **arguments)


@pytest.mark.parametrize("name", [n for n, of in RECIPES.items() if of["type"].endswith(".MST")])
def test_a_recipe_goes_through_on_equal_terms(name, ground):
    taught = teach(ground, RECIPES[name].get("arguments", {}))
    assert set(taught.students) == {"accuracy", "ce", "last"}
    assert np.isfinite(taught.history.to_numpy()).all()
    assert taught.student_epochs == 5
    assert len(taught.history) == (5 if name == "merit_anew" else 3)


@pytest.mark.parametrize("of", ["methods", "recipes", "confirmation"])
def test_who_is_held_against_whom_is_compared(of):
    contrasts = Contrasts.model_validate(PARAMETERS["decide"][of])
    paired = {name for pairs in contrasts.pairs.values() for pair in pairs for name in pair}
    there = set(PARAMETERS["compare"][of])
    assert {*contrasts.candidates, *contrasts.opponents, *paired} <= there


def test_what_is_confirmed_is_what_was_chosen():
    assert set(PARAMETERS["decide"]["confirmation"]["candidates"]) <= set(CHOSEN_FROM)
    for name in set(CONFIRMED) & set(CHOSEN_FROM):
        assert CONFIRMED[name] == CHOSEN_FROM[name]


def test_a_recipe_s_own_epochs_stay_its_own(ground):
    own = teach(ground, {"route": {"start": "anew", "epochs": 2}})
    assert own.student_epochs == len(own.history) == 2


def test_shared_stages_run_once_and_end_the_same(ground, monkeypatch):
    run, recipe, _ = ground
    alone = teach((run, recipe, make_pool(run, recipe)), RECIPES["merit"]["arguments"])
    calls = []
    for stage in ("train_members", "train_masks"):
        plain = getattr(mst, stage)

        def counted(*arguments, plain=plain, stage=stage):
            calls.append(stage)
            return plain(*arguments)

        monkeypatch.setattr(mst, stage, counted)
    shared = run, recipe, make_pool(run, recipe)
    first = teach(shared, RECIPES["merit_uniform"]["arguments"])
    second = teach(shared, RECIPES["merit"]["arguments"])
    assert calls == ["train_members", "train_masks"]
    assert first.seconds_before == 0 < second.seconds_before
    assert second.history.equals(alone.history)
    teach(shared, RECIPES["merit_labels"]["arguments"])
    assert calls == ["train_members", "train_masks", "train_masks"]
