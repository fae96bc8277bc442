"""Properties of every compared method, whatever its loss."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import groupby

import pytest
import torch
from torch import nn

from mst_distill.artifacts.checkpoint import Checkpoint, Checkpoints
from mst_distill.compare import context
from mst_distill.compare.context import TrialContext
from mst_distill.compare.method import HALVED_AFTER
from mst_distill.compare.methods.controls import Peer, SelfDistillation
from mst_distill.compare.methods.kd import KD
from mst_distill.compare.methods.kd_mean import MeanKD
from mst_distill.compare.methods.mst import MST, changed
from mst_distill.compare.teaching import baseline_of, resolve_methods, teach, train_teacher
from mst_distill.mst import stage1_teachers, stage3_route
from mst_distill.parameters import Route
from mst_distill.training.loop import fit
from toy_comparisons import METHODS, Mimic, make_comparison_plan, make_pool, method_teacher_pairs
from toy_runs import make_run, route

pytestmark = pytest.mark.usefixtures("float64")

EVERY = [
    (kind, *pair)
    for kind in ("two modalities", "three modalities")
    for pair in method_teacher_pairs(kind)
]
DENSE = [pair for pair in method_teacher_pairs("dense labels") if pair[1].dense]
_POOLS: dict[str, tuple] = {}


def prepared(kind):
    """Return run, plan and pool of a kind; the first call trains the teachers."""
    if kind not in _POOLS:
        run, _ = make_run(kind)
        plan = make_comparison_plan(kind)
        _POOLS[kind] = run, plan, make_pool(run, plan)
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


def train(kind, name, method, teacher):
    run, plan, pool = prepared(kind)
    arguments = plan.compare.methods[name].arguments
    return teach(run, plan, pool, method, teacher, arguments)


@pytest.mark.parametrize(
    ("kind", "name", "method", "teacher"),
    [*EVERY, *[("dense labels", *pair) for pair in DENSE]],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_student_changes_and_the_trained_teachers_do_not(kind, name, method, teacher):
    run, plan, pool = prepared(kind)
    frozen = {
        teacher_name: pool.teacher(teacher_name)
        for teacher_name in plan.members.teachers_of(run.target)
    }
    before = {teacher_name: state_of(extractor.net) for teacher_name, extractor in frozen.items()}
    start = state_of(TrialContext(run, plan, pool, teacher, "nothing").student.net)

    done = train(kind, name, method, teacher)

    assert set(done.students) == set(done.rows) == {"accuracy", "ce", "last"}
    assert done.history.notna().all(axis=None)
    assert done.history["train_loss"].nunique() > 1
    assert done.student_epochs == plan.teachers.epochs + plan.route.epochs
    for student in done.students.values():
        assert not student.training
        assert not hooks_of(student)
        assert not same(state_of(student), start)
    for teacher_name, extractor in frozen.items():
        assert same(state_of(extractor.net), before[teacher_name])
        assert not hooks_of(extractor.net)
        assert not any(weight.requires_grad for weight in extractor.net.parameters())


@pytest.mark.parametrize(
    ("kind", "name", "method", "teacher"), EVERY[::3], ids=lambda v: v if isinstance(v, str) else ""
)
def test_the_result_of_a_trial_does_not_depend_on_earlier_trials(kind, name, method, teacher):
    first = train(kind, name, method, teacher)
    torch.rand(7)
    train(kind, "kd", KD, "multimodal")
    again = train(kind, name, method, teacher)
    for criterion, student in first.students.items():
        assert same(state_of(student), state_of(again.students[criterion]))


def test_all_students_start_from_the_same_weights():
    run, plan, pool = prepared("two modalities")
    starts = [
        TrialContext(run, plan, pool, *pair, "logits") for pair in (("multimodal",), ("audio",))
    ]
    assert same(*[state_of(context.student.net) for context in starts])


def test_the_reference_budget_is_the_epochs_of_stage_3_for_a_single_phase():
    run, _, pool = prepared("two modalities")
    plan = make_comparison_plan(budget="reference")
    assert teach(run, plan, pool, KD, "audio", {}).student_epochs == plan.route.epochs
    several_phases = {
        name: pair
        for name, *pair in method_teacher_pairs("two modalities")
        if name in ("fitnets", "mst")
    }
    for name, (method, teacher) in several_phases.items():
        epochs = teach(run, plan, pool, method, teacher, {}).student_epochs
        assert epochs == plan.teachers.epochs + plan.route.epochs, name


@pytest.mark.parametrize("epochs", [100, 50])
def test_the_weight_of_the_terms_is_halved_after_30_60_and_90_percent_of_the_epochs(epochs):
    run, plan, pool = prepared("two modalities")
    method = KD(TrialContext(run, plan, pool, "audio", "logits"))
    method.epochs = epochs
    batches, _ = pool.batches("audio", "logits", "test")
    batch = next(iter(batches))
    shares = {}
    for epoch in range(epochs):
        terms = method.losses(batch)
        terms = {name: term.detach() for name, term in terms.items()}
        difference = float(terms["kd"] - terms["ce"])
        shares[epoch] = float(terms["loss"] - terms["ce"]) / difference
        method.end_epoch(epoch)
    expected = {0: 0.5, 29: 0.5, 30: 0.25, 59: 0.25, 60: 0.125, 89: 0.125, 90: 0.0625, 99: 0.0625}
    assert HALVED_AFTER == (0.3, 0.6, 0.9)
    found = {epoch: shares[epoch * epochs // 100] for epoch in expected}
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_frozen_teacher_is_evaluated_once_for_all_methods():
    run, plan, _ = prepared("two modalities")
    pool = make_pool(run, plan)
    calls = []
    pool.teacher("audio").net.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        teach(run, plan, pool, KD, "audio", {})
    passes = -(-24 // plan.route.batch_size)
    assert len(calls) <= passes + 1  # and one batch, to see whether its output fits in memory


def test_a_teacher_does_not_depend_on_the_target():
    nets = []
    for target in ("image", "text"):
        run, _ = make_run("three modalities", target)
        plan = make_comparison_plan("three modalities")
        nets.append(train_teacher(run, plan, "audio").students["accuracy"])
    assert same(*map(state_of, nets))


def test_a_user_s_own_method_is_a_class_and_a_parameter():
    run, _, pool = prepared("two modalities")
    plan = make_comparison_plan(methods={"mimic": {"type": "toy_comparisons.Mimic"}})
    done = teach(run, plan, pool, Mimic, "audio", {})
    assert done.extra_parameters == 0
    assert "train_apart" in done.history


def test_trained_weights_in_addition_to_the_student_s_are_counted():
    _, _, pool = prepared("two modalities")
    peer = sum(weight.numel() for weight in pool.teacher("audio").net.parameters())
    extra = {
        name: train("two modalities", name, method, teacher).extra_parameters
        for name, method, teacher in method_teacher_pairs("two modalities")
        if teacher in ("", "audio") and name in ("baseline", "kd", "dml", "mgdfr", "ofa", "crd")
    }
    stages, classes = (8, 12), 3  # the toy's masked layers: channels and width
    assert extra["baseline"] == extra["kd"] == 0
    assert extra["dml"] == extra["mgdfr"] == peer
    assert extra["ofa"] == sum((width + 1) * classes for width in stages)
    assert extra["crd"] == 2 * (12 + 1) * 128


def test_the_baseline_is_identified_by_its_class():
    assert baseline_of(make_comparison_plan().compare) == "baseline"
    assert baseline_of(make_comparison_plan(methods={"kd": METHODS["kd"]}).compare) is None


def test_a_preset_changes_only_the_switches():
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


def test_no_hook_remains_if_the_net_fails():
    _, _, pool = prepared("two modalities")
    extractor = copy.copy(pool.teacher("audio"))
    extractor.net = copy.deepcopy(extractor.net)
    extractor.net.last = nn.Linear(5, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        extractor({"audio": torch.zeros(2, 13, 32)})
    assert not hooks_of(extractor.net)


def batches_of_the_student(monkeypatch, train):
    """Record the ids of every training batch that a net of the target is trained with."""
    epochs = []

    def recorded(stage, *arguments):
        start = stage.train.start

        def spy(step, epoch=0):
            epochs.append((stage.name, []))
            for batch in start(step, epoch):
                epochs[-1][1].append(tuple(stage.train.ids(batch)))
                yield batch

        stage.train.start = spy
        return fit(stage, *arguments)

    for module in (context, stage1_teachers, stage3_route):
        monkeypatch.setattr(module, "fit", recorded)
    train()
    return epochs


@pytest.mark.parametrize("kind", ["two modalities", "three modalities"])
def test_all_students_see_the_same_batches_in_the_same_epochs(kind, monkeypatch):
    run, plan, _ = prepared(kind)
    pool = make_pool(run, plan)  # which shares no stage with other tests
    wanted = batches_of_the_student(monkeypatch, lambda: teach(run, plan, pool, MST, "", {}))
    wanted = [batches for _, batches in wanted]
    assert len(wanted) == plan.teachers.epochs + plan.route.epochs == 5
    assert len(set(map(str, wanted))) == 5
    for name, method, teacher in method_teacher_pairs(kind):
        if name in ("mst", "mst_reference") or method.needs_unlabelled:
            continue
        found = batches_of_the_student(
            monkeypatch, lambda n=name, m=method, t=teacher: train(kind, n, m, t)
        )
        # A phase that comes first has the first epochs; all other epochs are the last ones.
        stages = [list(of) for _, of in groupby(found, key=lambda epoch: epoch[0])]
        for place, stage in enumerate(stages):
            batches = [each for _, each in stage]
            first = place == 0 and len(stages) > 1
            assert batches == (wanted[: len(batches)] if first else wanted[-len(batches) :]), name
        if name in ("baseline", "kd", "dml", "c2kd", "label_smoothing", "peer", "kd_mean"):
            assert len(found) == 5


def test_a_training_that_is_resumed_has_the_order_of_its_epoch(tmp_path):
    """Stopped in the second epoch, the first or the second after the order has changed."""
    run, plan, pool = prepared("two modalities")
    whole = teach(run, plan, pool, KD, "audio", {}).students["last"]
    for steps in (4, 6, 7, 10):
        stopped = replace(run, checkpoints=Checkpoints(tmp_path / str(steps)))
        count = 0

        class Stopped(KD):
            seed_key = "KD"

            def losses(self, batch, stop=steps):
                nonlocal count
                count += 1
                if count > stop:
                    raise InterruptedError
                return super().losses(batch)

        monkey = pytest.MonkeyPatch()
        monkey.setattr(Checkpoint, "due", True)
        with pytest.raises(InterruptedError):
            teach(stopped, plan, pool, Stopped, "audio", {})
        monkey.undo()
        again = teach(stopped, plan, pool, KD, "audio", {}).students["last"]
        assert same(state_of(whole), state_of(again))


def test_a_peer_of_the_same_modality_differs_in_its_start_weights_alone():
    run, plan, pool = prepared("two modalities")
    context = TrialContext(run, plan, pool, "", "nothing")
    method = Peer(context)
    own, peer = state_of(method.student.net), state_of(method.peer.net)
    assert own.keys() == peer.keys()
    assert not same(own, peer)
    assert same(state_of(Peer(TrialContext(run, plan, pool, "", "nothing")).peer.net), peer)


def test_the_first_net_of_self_distillation_is_not_the_student(monkeypatch):
    run, plan, pool = prepared("two modalities")
    seen = []
    use = TrialContext.use_teacher
    monkeypatch.setattr(
        TrialContext,
        "use_teacher",
        lambda self, function: (seen.append(function), use(self, function)),
    )
    done = teach(run, plan, pool, SelfDistillation, "", {})
    assert done.student_epochs == 5
    (function,) = seen
    values = torch.from_numpy(run.samples.modalities["image"][:4])
    with torch.no_grad():
        assert not function({"image": values})[0].equal(done.students["last"](values))


def test_kd_from_the_mean_reads_all_teachers():
    run, plan, pool = prepared("three modalities")
    called = []
    hooks = [
        pool.teacher(name).net.register_forward_hook(lambda *_, name=name: called.append(name))
        for name in plan.members.teachers_of(run.target)
    ]
    teach(run, plan, pool, MeanKD, "", {})
    for hook in hooks:
        hook.remove()
    assert set(called) == {"multimodal", "audio", "text"}


def test_an_argument_that_a_method_does_not_have_names_the_nearest():
    wrong = {"kd": {**METHODS["kd"], "settings": [{"wieght": 0.5}]}}
    with pytest.raises(ValueError, match=r"argument of compare\.methods\.kd 'wieght'.*'weight'"):
        resolve_methods(make_comparison_plan(methods=wrong).compare)
    wrong = {"mst": {**METHODS["mst"], "arguments": {"rout": {}}}}
    with pytest.raises(ValueError, match="did you mean 'route'"):
        resolve_methods(make_comparison_plan(methods=wrong).compare)


def test_every_setting_of_every_method_is_one_that_it_has():
    plan = make_comparison_plan()
    resolve_methods(plan.compare)
    tuned = {name: len(method.choices) for name, method in plan.compare.methods.items()}
    untuned = {"baseline", "pseudo_labels", "self_training", "mst_reference"}
    assert {name for name, count in tuned.items() if count == 1} == untuned
    assert set(tuned.values()) == {1, 4}
