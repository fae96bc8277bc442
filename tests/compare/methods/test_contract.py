"""What holds of every compared method, whatever its loss."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mst_distill.compare.context import Setup
from mst_distill.compare.method import HALVED_AFTER
from mst_distill.compare.methods.kd import KD
from mst_distill.compare.methods.mst import changed
from mst_distill.compare.teaching import baseline_of, teach, train_teacher
from mst_distill.parameters import Route
from toy_comparisons import METHODS, Mimic, make_pool, make_recipe, ways
from toy_runs import make_run, route

pytestmark = pytest.mark.usefixtures("float64")

EVERY = [(kind, *way) for kind in ("two modalities", "three modalities") for way in ways(kind)]
DENSE = [way for way in ways("dense labels") if way[1].dense]
_POOLS: dict[str, tuple] = {}


def ground(kind):
    """Run, recipe and pool of a kind; teachers are trained for the first that asks."""
    if kind not in _POOLS:
        run, _ = make_run(kind)
        recipe = make_recipe(kind)
        _POOLS[kind] = run, recipe, make_pool(run, recipe)
    return _POOLS[kind]


def state_of(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def hooks_of(net):
    return [
        hook
        for module in net.modules()
        for hook in (*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks)
    ]


def taught(kind, name, method, teacher):
    run, recipe, pool = ground(kind)
    arguments = recipe.compare.methods[name].arguments
    return teach(run, recipe, pool, method, teacher, arguments)


@pytest.mark.parametrize(
    ("kind", "name", "method", "teacher"),
    [*EVERY, *[("dense labels", *way) for way in DENSE]],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_student_learns_and_the_trained_teachers_stay_as_they_are(kind, name, method, teacher):
    run, recipe, pool = ground(kind)
    frozen = {who: pool.teacher(who) for who in recipe.members.teachers_of(run.target)}
    before = {who: state_of(observer.net) for who, observer in frozen.items()}
    start = state_of(Setup(run, recipe, pool, teacher, "nothing").student.net)

    done = taught(kind, name, method, teacher)

    assert set(done.students) == set(done.rows) == {"accuracy", "ce", "last"}
    assert done.history.notna().all(axis=None)
    assert done.history["train_loss"].nunique() > 1
    assert done.student_epochs == recipe.teachers.epochs + recipe.route.epochs
    for student in done.students.values():
        assert not student.training
        assert not hooks_of(student)
        assert not same(state_of(student), start)
    for who, observer in frozen.items():
        assert same(state_of(observer.net), before[who])
        assert not hooks_of(observer.net)
        assert not any(weight.requires_grad for weight in observer.net.parameters())


@pytest.mark.parametrize(
    ("kind", "name", "method", "teacher"), EVERY[::3], ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_trial_comes_out_the_same_whatever_ran_before(kind, name, method, teacher):
    first = taught(kind, name, method, teacher)
    torch.rand(7)
    taught(kind, "kd", KD, "multimodal")
    again = taught(kind, name, method, teacher)
    for rule, student in first.students.items():
        assert same(state_of(student), state_of(again.students[rule]))


def test_all_students_start_from_the_same_weights():
    run, recipe, pool = ground("two modalities")
    starts = [Setup(run, recipe, pool, *way, "logits") for way in (("multimodal",), ("audio",))]
    assert same(*[state_of(setup.student.net) for setup in starts])


def test_with_its_own_budget_a_student_has_the_epochs_of_stage_3_alone():
    run, _, pool = ground("two modalities")
    recipe = make_recipe(budget="reference")
    assert teach(run, recipe, pool, KD, "audio", {}).student_epochs == recipe.route.epochs
    with_parts = {name: way for name, *way in ways("two modalities") if name in ("fitnets", "mst")}
    for name, (method, teacher) in with_parts.items():
        epochs = teach(run, recipe, pool, method, teacher, {}).student_epochs
        assert epochs == recipe.teachers.epochs + recipe.route.epochs, name


def test_terms_weigh_half_after_30_60_and_90_epochs():
    run, recipe, pool = ground("two modalities")
    method = KD(Setup(run, recipe, pool, "audio", "logits"))
    batches, _ = pool.batches("audio", "logits", "test")
    batch = next(iter(batches))
    shares = {}
    for epoch in range(100):
        terms = method.losses(batch)
        terms = {name: term.detach() for name, term in terms.items()}
        apart = float(terms["kd"] - terms["ce"])
        shares[epoch] = float(terms["loss"] - terms["ce"]) / apart
        method.end_epoch(epoch)
    expected = {0: 0.5, 29: 0.5, 30: 0.25, 59: 0.25, 60: 0.125, 89: 0.125, 90: 0.0625, 99: 0.0625}
    assert HALVED_AFTER == (30, 60, 90)
    assert {epoch: shares[epoch] for epoch in expected} == pytest.approx(expected, rel=1e-9)


def test_a_frozen_teacher_is_heard_once_for_all_methods():
    run, recipe, _ = ground("two modalities")
    pool = make_pool(run, recipe)
    calls = []
    pool.teacher("audio").net.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        teach(run, recipe, pool, KD, "audio", {})
    passes = -(-24 // recipe.route.batch_size)
    assert len(calls) <= passes + 1  # and one batch to see whether what it says fits


def test_a_teacher_is_the_same_net_whoever_its_students_are():
    nets = []
    for target in ("image", "text"):
        run, _ = make_run("three modalities", target)
        nets.append(train_teacher(run, make_recipe("three modalities"), "audio").students["ce"])
    assert same(*map(state_of, nets))


def test_a_method_of_one_s_own_is_a_class_and_a_line():
    run, _, pool = ground("two modalities")
    recipe = make_recipe(methods={"mimic": {"type": "toy_comparisons.Mimic"}})
    done = teach(run, recipe, pool, Mimic, "audio", {})
    assert done.extra_parameters == 0
    assert "train_apart" in done.history


def test_what_learns_beside_the_student_is_counted():
    _, _, pool = ground("two modalities")
    peer = sum(weight.numel() for weight in pool.teacher("audio").net.parameters())
    extra = {
        name: taught("two modalities", name, method, teacher).extra_parameters
        for name, method, teacher in ways("two modalities")
        if teacher in ("", "audio") and name in ("none", "kd", "dml", "mgdfr", "ofa", "crd")
    }
    stages, classes = (8, 12), 3  # the toy's masked layers: channels and width
    assert extra["none"] == extra["kd"] == 0
    assert extra["dml"] == extra["mgdfr"] == peer
    assert extra["ofa"] == sum((width + 1) * classes for width in stages)
    assert extra["crd"] == 2 * (12 + 1) * 128


def test_the_student_alone_is_known_by_its_class():
    assert baseline_of(make_recipe().compare) == "none"
    assert baseline_of(make_recipe(methods={"kd": METHODS["kd"]}).compare) is None


def test_a_preset_changes_the_switches_and_nothing_else():
    own = route(chosen=2, temperature=3.0, selection="last")
    other = changed(own, {"preset": "reference"})
    assert other == Route.model_validate(
        {
            **{"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "temperature": 3.0},
            **{"chosen": 2, "preset": "reference"},
        }
    )
    assert other.early_decay
    assert changed(other, {"preset": "default"}).early_decay is False
    assert changed(other, {"epochs": 7}) == other.model_copy(update={"epochs": 7})
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        changed(own, {"epoch": 7})


def test_a_layer_that_is_heard_leaves_no_hook_when_the_net_fails():
    _, _, pool = ground("two modalities")
    observer = copy.copy(pool.teacher("audio"))
    observer.net = copy.deepcopy(observer.net)
    observer.net.last = nn.Linear(5, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        observer({"audio": torch.zeros(2, 13, 32)})
    assert not hooks_of(observer.net)
