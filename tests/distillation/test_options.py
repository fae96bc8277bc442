"""What the stages can be asked to do otherwise than published."""

from __future__ import annotations

import copy
import dataclasses
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mst_distill.checkpoint import Checkpoints
from mst_distill.distillation.adaptation import STUDENT, Adaptation, train_masks
from mst_distill.distillation.collaboration import Collaboration, row_of, train_members
from mst_distill.distillation.control import train_control
from mst_distill.distillation.members import build_member, build_members, forward
from mst_distill.distillation.observation import Observed
from mst_distill.distillation.panel import assemble_panel, tabulate_logits
from mst_distill.distillation.router import ConstantRouter, FeatureRouter
from mst_distill.distillation.routing import (
    SPECIALISTS,
    TOLD,
    Routing,
    Weights,
    _own_logits,
    refuse_dense,
    start_of,
    train_student,
)
from mst_distill.pipelines.teachers import nodes as stage_1
from mst_distill.samples import rows_of
from mst_distill.training.batches import Batch
from toy_runs import MASKS, TEACHERS, make_run, route

pytestmark = pytest.mark.usefixtures("float64")


def batch_of(run, count=6):
    inputs = {n: torch.from_numpy(np.array(a[:count])) for n, a in run.samples.modalities.items()}
    return Batch(inputs, torch.from_numpy(run.samples.labels[:count]))


def kd(to, of, tau=4.0):
    p = F.softmax(of / tau, 1)
    return tau**2 * (p * (p.log() - F.log_softmax(to / tau, 1))).sum(1).mean()


class Constant(torch.nn.Module):
    """The same three logits for each of six samples, whatever it is given."""

    def __init__(self, number):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([1.0 + number, 0.5 * number, -2.0]))

    def forward(self, *_inputs, **_more):
        return self.logits.expand(6, -1)


def first_steps(flow, weight=0.5):
    """The members' gradients, from the project and from the equation written out."""
    run, members = make_run()
    batch = batch_of(run)
    found, wanted = (
        {name: build_member(name, of, 3, 0).eval() for name, of in members.all_of("image").items()}
        for _ in range(2)
    )
    terms = Collaboration(found, 4.0, None, flow, weight).losses(batch)
    terms["loss"].backward()
    logits = {name: forward(net, name, batch.inputs) for name, net in wanted.items()}
    loss = sum(F.cross_entropy(of, batch.label) for of in logits.values())
    student = logits["image"]
    for name in ("multimodal", "audio"):
        if flow == "student":
            loss = loss + weight * kd(student, logits[name].detach())
        if flow == "teachers":
            loss = loss + weight * kd(logits[name], student.detach())
    loss.backward()
    return terms, loss, found, wanted


@pytest.mark.parametrize("flow", ["student", "teachers", "none"])
def test_knowledge_flows_in_stage_1_as_the_equation_says(flow):
    terms, loss, found, wanted = first_steps(flow)
    assert terms["loss"].item() == pytest.approx(loss.item(), rel=1e-10)
    for name, net in found.items():
        for one, other in zip(net.parameters(), wanted[name].parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-14)


def test_mutual_kd_can_be_given_another_weight():
    run, members = make_run()
    nets = {n: build_member(n, of, 3, 0) for n, of in members.all_of("image").items()}
    terms = Collaboration(nets, 4.0, None, kd_weight=0.1).losses(batch_of(run))
    ce = sum(term for name, term in terms.items() if name.startswith("ce_"))
    assert terms["loss"].item() == pytest.approx((ce + 0.1 * terms["kd"]).item(), rel=1e-10)


@pytest.mark.parametrize(("modalities", "share"), [(1, 1), (2, 1), (3, 6 / 12), (5, 6 / 30)])
@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_kd_among_all_weighs_no_more_with_more_modalities(modalities, share, weight):
    """What a pair weighs, from the loss, with nets that give one constant each."""
    run, _ = make_run()
    names = ["multimodal", *[f"m{number}" for number in range(modalities)]]
    nets = {name: Constant(number) for number, name in enumerate(names)}
    batch = batch_of(run)
    inputs = {name: torch.zeros(6, 1) for name in names[1:]}
    terms = Collaboration(nets, 4.0, None, kd_weight=weight).losses(Batch(inputs, batch.label))
    ce = sum(term for name, term in terms.items() if name.startswith("ce_"))
    given = (terms["loss"] - ce) / (weight * terms["kd"])
    assert given.item() == pytest.approx(share, rel=1e-4)
    logits = [net(None) for net in nets.values()]
    each = [kd(to, of).item() for to, of in permutations(logits, 2)]
    assert terms["kd"].item() == pytest.approx(sum(each), rel=1e-4)


def test_of_two_modalities_kd_has_the_published_weight_to_the_bit():
    run, members = make_run()
    nets = {n: build_member(n, of, 3, 0) for n, of in members.all_of("image").items()}
    terms = Collaboration(nets, 4.0, None, kd_weight=0.1).losses(batch_of(run))
    ce = [term for name, term in terms.items() if name.startswith("ce_")]
    assert torch.equal(terms["loss"], torch.stack([*ce, 0.1 * terms["kd"]]).sum())


@pytest.mark.parametrize("keep", ["accuracy", "ce"])
def test_each_member_goes_on_from_its_own_best_epoch(keep):
    run, members = make_run()
    longer = TEACHERS.model_copy(update={"epochs": 6, "kd": "none", "keep": keep})
    nets, done = train_members(run, members, longer, MASKS)
    history = done.history
    for name, net in nets.items():
        if keep == "ce":
            best = history[f"valid_ce_{name}"].idxmin()
        else:
            figures = history[[f"valid_accuracy_{name}", f"valid_ce_{name}"]].round(9).to_numpy()
            best = max(range(6), key=lambda e: (figures[e, 0], -figures[e, 1]))
        assert row_of(done, name)["epoch"] == best
        until = longer.model_copy(update={"epochs": int(best) + 1, "keep": "last"})
        then, _ = train_members(run, members, until, MASKS)
        for one, other in zip(net.parameters(), then[name].parameters(), strict=True):
            assert torch.equal(one, other)


def ready_for_stage_2(**changes):
    run, members = make_run()
    nets, _ = train_members(run, members, TEACHERS, MASKS)
    student = nets.pop("image")
    settings = MASKS.model_copy(update=changes)
    masks, done = train_masks(run, nets, student, members, settings)
    return run, members, nets, student, masks, done


def test_masks_may_hear_labels_too():
    run, _, nets, student, masks, done = ready_for_stage_2(label_weight=0.3)
    panel = assemble_panel(run, nets, masks, make_run()[1])
    batch = batch_of(run)
    frozen = {name: of.trunk.compute(batch.inputs) for name, of in panel.teachers.items()}
    frozen[STUDENT] = (student.eval()(batch.inputs["image"]).detach(),)
    task = Adaptation(panel.teachers, masks, 4.0, 0.3, None)
    terms = task.losses(Batch(batch.inputs, batch.label, frozen))
    logits = panel.logits(batch.inputs)
    wanted = 0.0
    for place, name in enumerate(panel.names):
        ce = F.cross_entropy(logits[:, place], batch.label)
        assert terms[f"ce_{name}"].item() == pytest.approx(ce.item(), rel=1e-10)
        wanted += kd(logits[:, place], frozen[STUDENT][0]).item() + 0.3 * ce.item()
    assert terms["loss"].item() == pytest.approx(wanted, rel=1e-10)
    history = done.history
    joint = sum(
        history[[f"valid_{what}_{n}" for n in panel.names if n.startswith(teacher)]].mean(axis=1)
        * weight
        for teacher in nets
        for what, weight in (("kd", 1.0), ("ce", 0.3))
    )
    assert done.kept["joint"].row["epoch"] == joint.idxmin()


def test_fixed_masks_weigh_all_samples_alike():
    run, members, nets, _, masks, _ = ready_for_stage_2(kind="fixed")
    assert sum(p.numel() for mask in masks.values() for p in mask.parameters()) == 16 + 12 + 12 + 12
    mask = masks["audio/first"]
    feature = torch.randn(5, 12)
    weight = 1 / (1 + np.exp(-mask.preference.detach().numpy()))
    np.testing.assert_allclose(mask(feature).detach().numpy(), weight * feature.numpy(), rtol=1e-10)
    assert (weight != 0.5).any()
    panel = assemble_panel(run, nets, masks, members)
    assert panel.logits(batch_of(run).inputs).shape == (6, 4, 3)


def test_without_masks_specialists_are_their_teachers():
    run, members, nets, _, masks, _ = ready_for_stage_2()
    batch = batch_of(run)
    bare = assemble_panel(run, nets, masks, members, masked=False).logits(batch.inputs)
    torch.testing.assert_close(bare[:, 0], nets["multimodal"](**batch.inputs))
    torch.testing.assert_close(bare[:, 3], nets["audio"](batch.inputs["audio"]))


def routing(router, told=None, **changes):
    run, members = make_run()
    settings = route(router=router, **changes)
    student = build_member("image", members.modalities["image"], 3, 0).eval()
    torch.manual_seed(0)
    net = FeatureRouter(12, 4) if router == "learned" else ConstantRouter(4, router == "constant")
    embed = torch.nn.Linear(64, 12)

    def observe(inputs):
        image = inputs["image"]
        return Observed(student(image), embed(image.flatten(1)))

    task = Routing(student, net, "image", 4, 3, settings, None, observe)
    specialists = torch.randn(6, 4, 3) * 3
    batch = batch_of(run)
    frozen = {SPECIALISTS: (specialists,)} | ({TOLD: (told,)} if told is not None else {})
    return task, Batch(batch.inputs, batch.label, frozen), specialists, embed


@pytest.mark.parametrize("router", ["learned", "constant", "uniform", "oracle"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("honest", [False, True])
def test_the_loss_of_stage_3_is_the_equation_s(router, gated, honest):
    told = torch.randn(6, 4, 3) if honest else None
    task, batch, specialists, _ = routing(
        router, told, gated=gated, balance_weight=0.1, merit_weight=0.7, kd_weight=0.9
    )
    terms = task.losses(batch)
    with torch.no_grad():
        student = task._observe(batch.inputs)
        c = task.router(student).softmax(dim=1).double().numpy()
    judges = specialists if told is None else told
    kd_wanted, merit_wanted = 0.0, 0.0
    for i in range(6):
        ce = [F.cross_entropy(judges[i, e], batch.label[i]).item() for e in range(4)]
        r = np.exp(-np.array(ce)) / np.exp(-np.array(ce)).sum()
        merit_wanted -= (r * np.log(c[i])).sum() / 6
        v = r.copy() if router == "oracle" else c[i].copy()
        if gated:
            v *= [judges[i, e].argmax() == batch.label[i] for e in range(4)]
            v = v / v.sum() if v.sum() else v
        own = student.logits[i : i + 1]
        kd_wanted += sum(v[e] * kd(own, specialists[i, e : e + 1]).item() for e in range(4)) / 6
    assert terms["kd"].item() == pytest.approx(kd_wanted, rel=1e-10)
    total = terms["ce"].item() + 0.9 * kd_wanted
    if router in ("learned", "constant"):
        assert terms["merit"].item() == pytest.approx(merit_wanted, rel=1e-10)
        balance = -np.log(4) - np.log(c.mean(axis=0)).mean()
        total += 0.7 * merit_wanted + 0.1 * balance
    assert terms["loss"].item() == pytest.approx(total, rel=1e-10)
    assert (len(terms) == 3) == (router in ("uniform", "oracle"))


def test_what_a_learned_router_learns_does_not_bend_the_student():
    task, batch, _, embed = routing("learned", kd_weight=0.0, task_weight=0.0)
    task.losses(batch)["loss"].backward()
    assert all(weight.grad.abs().sum() > 0 for weight in task.router.parameters())
    assert embed.weight.grad is None
    assert all(weight.grad is None or not weight.grad.any() for weight in task.student.parameters())


@pytest.mark.parametrize("learn", [False, True])
def test_kd_reaches_the_router_when_it_is_let(learn):
    task, batch, _, _ = routing(
        "learned", merit_weight=0.0, balance_weight=0.0, weights_learn=learn
    )
    task.losses(batch)["loss"].backward()
    assert bool(task.router.prefer.weight.grad.any()) == learn


def test_kd_weighs_half_after_shares_of_the_epochs():
    settings = route(epochs=20, halvings=(0.3, 0.6, 0.9))
    weights = Weights(1.0, 1.0)
    seen = []
    for epoch in range(20):
        seen.append(weights.kd)
        weights.decay(epoch, settings)
    assert seen == [1.0] * 6 + [0.5] * 6 + [0.25] * 6 + [0.125] * 2


def test_a_student_may_start_anew():
    run, members = make_run()
    nets, _ = train_members(run, members, TEACHERS, MASKS)
    fresh = build_members(run, members, MASKS)["image"]
    anew = start_of(run, members, MASKS, route(start="anew"), nets)
    assert all(
        torch.equal(*pair) for pair in zip(anew.parameters(), fresh.parameters(), strict=True)
    )
    assert start_of(run, members, MASKS, route(), nets) is nets["image"]


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "merit"},
        {"router": "constant", "gated": True},
        {"router": "uniform"},
        {"router": "oracle"},
        {"router": "hard", "gated": True, "chosen": 2},
        {"router": "learned", "weights_learn": True, "rescaled": True},
    ],
)
def test_a_run_goes_through_with_every_router(changes):
    run, members, nets, student, masks, _ = ready_for_stage_2()
    panel = assemble_panel(run, nets, masks, members)
    table = tabulate_logits(run, panel, 8)
    done = train_student(run, copy.deepcopy(student), panel, table, route(**changes))
    assert np.isfinite(done.fit.history.to_numpy()).all()
    heard = done.given.groupby("epoch")["samples"].sum()
    gated = changes.get("gated") or "preset" in changes
    assert (heard <= 24.0001).all()
    assert gated or np.allclose(heard, 24)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rescaled": True}, "rescaled=true .* set it to false"),
        ({"router": "learned", "folds": 3}, "folds=3 .* set it to 1"),
    ],
)
def test_dense_labels_refuse_what_needs_one_a_sample_before_stage_1(changes, told, tmp_path):
    run, members = make_run("dense labels")
    terms = run.target, run.seed, members, TEACHERS, MASKS, route(**changes), run.runtime
    with pytest.raises(ValueError, match=told):
        stage_1.train_members(run.samples, run.splits, Checkpoints(tmp_path), *terms)
    assert not list(tmp_path.iterdir())
    refuse_dense(make_run()[0].samples, route(**changes))


@pytest.mark.parametrize("picked", [None, 2])
def test_of_dense_labels_kd_is_heard_pixel_by_pixel(picked):
    rng = np.random.default_rng(0)
    student = torch.from_numpy(rng.normal(size=(2, 3, 2, 2)))
    specialists = torch.from_numpy(3 * rng.normal(size=(2, 4, 3, 2, 2)))
    label = torch.from_numpy(rng.integers(0, 3, (2, 2, 2)))
    label[0, 0, 0] = ignored = specialists[0, 2, :, 0, 0].argmax().item()
    net = ConstantRouter(4, True)
    with torch.no_grad():
        net.preference.copy_(torch.tensor([0.3, -0.2, 0.9, 0.1]))
    hard = {"router": "hard", "chosen": picked} if picked else {"router": "constant"}
    settings = route(gated=True, **hard)
    task = Routing(
        torch.nn.Identity(),
        net,
        "depth",
        4,
        1,
        settings,
        ignored,
        lambda _: Observed(student, None),
    )
    terms = task.losses(Batch({"depth": student}, label, {SPECIALISTS: (specialists,)}))
    c = net(Observed(student, None))[0].softmax(dim=0).double().detach().numpy()
    best = np.argsort(-c)[: picked or 4]
    start = np.array([(1 / picked if picked else c[e]) if e in best else 0 for e in range(4)])
    wanted, given = 0.0, np.zeros(4)
    for i, y, x in np.ndindex(2, 2, 2):
        of_pixel = specialists[i, :, :, y, x].argmax(dim=1).numpy()
        v = start * (of_pixel == label[i, y, x].item()) * (label[i, y, x].item() != ignored)
        v = v / v.sum() if v.sum() else v
        own = student[i, :, y, x][None]
        wanted += sum(v[e] * kd(own, specialists[i, e, :, y, x][None]).item() for e in best) / 8
        given += v / 4
    assert 0 < given.sum() < 2
    assert terms["kd"].item() == pytest.approx(wanted, rel=1e-10)
    task.end_epoch(0)
    np.testing.assert_allclose(task.given[0][0].numpy(), given, rtol=1e-10)


@pytest.mark.parametrize(
    "changes", [{"preset": "merit"}, {"router": "constant"}, {"router": "uniform"}]
)
def test_dense_labels_can_be_weighed(changes):
    run, members = make_run("dense labels")
    nets, _ = train_members(run, members, TEACHERS, MASKS)
    student = nets.pop(run.target)
    masks, _ = train_masks(run, nets, student, members, MASKS)
    panel = assemble_panel(run, nets, masks, members)
    done = train_student(run, student, panel, tabulate_logits(run, panel, 8), route(**changes))
    assert np.isfinite(done.fit.history.to_numpy()).all()


def test_the_control_of_a_student_that_starts_anew_does_so_too():
    run, members = make_run()
    _, done = train_control(run, members, TEACHERS, MASKS, route(start="anew"))
    assert set(done.history["phase"]) == {"route"}
    assert len(done.history) == 3


def test_the_control_goes_on_from_the_epoch_that_members_go_on_from():
    run, members = make_run()
    settings = TEACHERS.model_copy(update={"epochs": 4, "keep": "ce", "learning_rate": 0.3})
    kept = train_control(run, members, settings, MASKS, route())[1].history
    best = int(kept.query("phase == 'teachers'")["valid_ce"].idxmin())
    assert best < 3
    until = settings.model_copy(update={"epochs": best + 1, "keep": "last"})
    short = train_control(run, members, until, MASKS, route())[1].history
    wanted = short.query("phase == 'route'").reset_index(drop=True)
    assert kept.query("phase == 'route'").reset_index(drop=True).equals(wanted)


def test_logits_are_rescaled_to_the_student_s_own_unrounded():
    run, members = make_run()
    student = build_member("image", members.modalities["image"], 3, 0)
    found = _own_logits(run, student, 8)
    images = run.samples.modalities["image"][rows_of(run.splits, "train")]
    with torch.no_grad():
        torch.testing.assert_close(found, student(torch.from_numpy(images)), rtol=1e-12, atol=0)


def test_rescaled_logits_need_their_table():
    run, members, nets, student, masks, _ = ready_for_stage_2()
    online = dataclasses.replace(run, runtime=run.runtime.model_copy(update={"frozen": "online"}))
    panel = assemble_panel(online, nets, masks, members)
    table = tabulate_logits(online, panel, 8)
    with pytest.raises(ValueError, match="rescaled needs the table"):
        train_student(online, student, panel, table, route(rescaled=True))


def test_masks_that_were_trained_before_are_at_rest(tmp_path):
    run, members = make_run()
    nets, _ = train_members(run, members, TEACHERS, MASKS)
    student = nets.pop("image")
    kept = dataclasses.replace(run, checkpoints=Checkpoints(tmp_path, "these terms"))
    for _ in range(2):
        masks, _ = train_masks(kept, nets, student, members, MASKS)
        assert not any(mask.training for mask in masks.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 5}, "folds=5 tells nobody anything"),
        ({"folds": 5, "router": "uniform"}, "folds=5 tells nobody anything"),
        ({"rescaled": True, "start": "anew"}, "choose one of the two"),
        ({"halvings": (0.5, 1.5)}, "less than 1"),
    ],
)
def test_options_that_would_do_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        route(**changes)
