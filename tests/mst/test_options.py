"""The options of the stages that differ from the published method."""

from __future__ import annotations

import copy
import dataclasses
from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.mst.baseline import train_baseline
from mst_distill.mst.ensemble import (
    SPECIALISTS,
    SpecialistEnsemble,
    assemble_ensemble,
    tabulate_logits,
)
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.networks import build_member, forward
from mst_distill.mst.router import FeatureRouter, UniformRouter
from mst_distill.mst.stage1_teachers import Collaboration, row_of, train_members
from mst_distill.mst.stage2_masks import train_masks
from mst_distill.mst.stage3_route import Routing, Weights, prepare_student, train_student
from mst_distill.mst.supervision import Supervision
from mst_distill.parameters import TrainingRecipe
from mst_distill.training.batches import Batch
from toy_runs import make_run, route, vary

pytestmark = pytest.mark.usefixtures("float64")


def batch_of(run, count=6):
    inputs = {n: torch.from_numpy(np.array(a[:count])) for n, a in run.samples.modalities.items()}
    return Batch(inputs, torch.from_numpy(run.samples.labels[:count]))


def kd(to, of, tau=4.0):
    p = F.softmax(of / tau, 1)
    return tau**2 * (p * (p.log() - F.log_softmax(to / tau, 1))).sum(1).mean()


class Constant(torch.nn.Module):
    """Outputs the same three logits for each of six samples, whatever its inputs are."""

    def __init__(self, number):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([1.0 + number, 0.5 * number, -2.0]))

    def forward(self, *_inputs, **_more):
        return self.logits.expand(6, -1)


def stage_1_gradients(mode, weight=0.5):
    """The terms and gradients of stage 1 as computed by the project and from the equation."""
    run, plan = make_run()
    batch = batch_of(run)
    found, expected = (
        {
            name: build_member(name, of, 3, 0).eval()
            for name, of in plan.members.all_of("image").items()
        }
        for _ in range(2)
    )
    terms = Collaboration(found, 4.0, Supervision(), mode, weight).losses(batch)
    terms["loss"].backward()
    logits = {name: forward(net, name, batch.inputs) for name, net in expected.items()}
    loss = sum(F.cross_entropy(of, batch.label) for of in logits.values())
    if mode == "mutual":
        loss = loss + weight * sum(kd(*pair) for pair in permutations(logits.values(), 2))
    loss.backward()
    return terms, loss, found, expected


@pytest.mark.parametrize("mode", ["mutual", "none"])
def test_the_gradients_of_stage_1_are_those_of_the_equation(mode):
    terms, loss, found, expected = stage_1_gradients(mode)
    assert terms["loss"].item() == pytest.approx(loss.item(), rel=1e-10)
    for name, net in found.items():
        for one, other in zip(net.parameters(), expected[name].parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-14)


def test_the_weight_of_mutual_kd_can_be_set():
    run, plan = make_run()
    nets = {n: build_member(n, of, 3, 0) for n, of in plan.members.all_of("image").items()}
    terms = Collaboration(nets, 4.0, Supervision(), kd_weight=0.1).losses(batch_of(run))
    ce = sum(term for name, term in terms.items() if name.startswith("ce_"))
    assert terms["loss"].item() == pytest.approx((ce + 0.1 * terms["kd"]).item(), rel=1e-10)


@pytest.mark.parametrize(("modalities", "share"), [(1, 1), (2, 1), (3, 6 / 12), (5, 6 / 30)])
@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_the_total_weight_of_kd_does_not_grow_with_the_modalities(modalities, share, weight):
    """The weight of a pair is derived from the loss of nets with constant outputs."""
    run, _ = make_run()
    names = ["multimodal", *[f"m{number}" for number in range(modalities)]]
    nets = {name: Constant(number) for number, name in enumerate(names)}
    batch = batch_of(run)
    inputs = {name: torch.zeros(6, 1) for name in names[1:]}
    terms = Collaboration(nets, 4.0, Supervision(), kd_weight=weight).losses(
        Batch(inputs, batch.label)
    )
    ce = sum(term for name, term in terms.items() if name.startswith("ce_"))
    actual = (terms["loss"] - ce) / (weight * terms["kd"])
    assert actual.item() == pytest.approx(share, rel=1e-4)
    logits = [net(None) for net in nets.values()]
    each = [kd(to, of).item() for to, of in permutations(logits, 2)]
    assert terms["kd"].item() == pytest.approx(sum(each), rel=1e-4)


def test_with_two_modalities_kd_has_exactly_the_published_weight():
    run, plan = make_run()
    nets = {n: build_member(n, of, 3, 0) for n, of in plan.members.all_of("image").items()}
    terms = Collaboration(nets, 4.0, Supervision(), kd_weight=0.1).losses(batch_of(run))
    ce = [term for name, term in terms.items() if name.startswith("ce_")]
    assert torch.equal(terms["loss"], torch.stack([*ce, 0.1 * terms["kd"]]).sum())


@pytest.mark.parametrize("keep", ["metric", "ce"])
def test_each_member_has_the_weights_of_its_own_best_epoch(keep):
    run, plan = make_run()
    longer = vary(plan, teachers={"epochs": 6, "kd": "none", "keep": keep})
    nets, done = train_members(run, longer)
    history = done.history
    for name, net in nets.items():
        if keep == "ce":
            best = history[f"valid_ce_{name}"].idxmin()
        else:
            metrics = history[[f"valid_accuracy_{name}", f"valid_ce_{name}"]].round(9).to_numpy()
            best = max(range(6), key=lambda e: (metrics[e, 0], -metrics[e, 1]))
        assert row_of(done, name)["epoch"] == best
        until = vary(longer, teachers={"epochs": int(best) + 1, "keep": "last"})
        then, _ = train_members(run, until)
        for one, other in zip(net.parameters(), then[name].parameters(), strict=True):
            assert torch.equal(one, other)


def train_stages_1_and_2(**changes):
    run, plan = make_run()
    plan = vary(plan, masks=changes)
    nets, _ = train_members(run, plan)
    masks, done = train_masks(run, plan, nets)
    return run, plan, nets, masks, done


def test_a_mask_is_trained_as_if_it_were_alone():
    plain, plan = make_run()
    run = dataclasses.replace(plain, recipe=TrainingRecipe(preset="strong", gradient_clip=1e-3))
    plan = vary(plan, masks={"epochs": 1})
    nets, _ = train_members(plain, plan)
    together, _ = train_masks(run, plan, nets)
    unclipped, _ = train_masks(plain, plan, nets)
    for specialist, mask in together.items():
        teacher, layer = specialist.split("/")
        members = plan.members.model_dump()
        for name, member in {"multimodal": members["multimodal"], **members["modalities"]}.items():
            member["masked_layers"] = [layer] if name == teacher else []
        only = plan.model_copy(update={"members": type(plan.members).model_validate(members)})
        alone, _ = train_masks(run, only, nets)
        assert list(alone) == [specialist]
        for name, weight in alone[specialist].named_parameters():
            assert weight.equal(mask.get_parameter(name)), (specialist, name)
            assert not weight.equal(unclipped[specialist].get_parameter(name)), (specialist, name)


def test_fixed_masks_have_the_same_weights_for_all_samples():
    run, plan, nets, masks, _ = train_stages_1_and_2(kind="fixed")
    assert sum(p.numel() for mask in masks.values() for p in mask.parameters()) == 16 + 12 + 12 + 12
    mask = masks["audio/first"]
    feature = torch.randn(5, 12)
    weight = 1 / (1 + np.exp(-mask.preference.detach().numpy()))
    np.testing.assert_allclose(mask(feature).detach().numpy(), weight * feature.numpy(), rtol=1e-10)
    assert (weight != 0.5).any()
    ensemble = assemble_ensemble(run, plan, nets, masks)
    assert ensemble.logits(batch_of(run).inputs).shape == (6, 4, 3)


def test_without_masks_specialists_equal_their_teachers():
    run, plan, nets, masks, _ = train_stages_1_and_2()
    batch = batch_of(run)
    unmasked = assemble_ensemble(run, vary(plan, route={"masked": False}), nets, masks)
    unmasked = unmasked.logits(batch.inputs)
    torch.testing.assert_close(unmasked[:, 0], nets["multimodal"](**batch.inputs))
    torch.testing.assert_close(unmasked[:, 3], nets["audio"](batch.inputs["audio"]))


def routing(router, **changes):
    run, plan = make_run()
    settings = route(router=router, **changes)
    student = build_member("image", plan.members.modalities["image"], 3, 0).eval()
    torch.manual_seed(0)
    net = FeatureRouter(12, 4) if router == "learned" else UniformRouter(4)
    embed = torch.nn.Linear(64, 12)

    def extract(inputs):
        image = inputs["image"]
        return ModelOutput(student(image), embed(image.flatten(1)))

    task = Routing(student, net, extract, SpecialistEnsemble({}), (3, 4), settings, Supervision())
    specialists = torch.randn(6, 4, 3) * 3
    batch = batch_of(run)
    frozen = {SPECIALISTS: (specialists,)}
    return task, Batch(batch.inputs, batch.label, frozen), specialists, embed


@pytest.mark.parametrize("router", ["learned", "uniform"])
@pytest.mark.parametrize("gated", [False, True])
def test_the_loss_of_stage_3_is_that_of_the_equation(router, gated):
    task, batch, specialists, _ = routing(
        router, gated=gated, balance_weight=0.1, merit_weight=0.7, kd_weight=0.9
    )
    terms = task.losses(batch)
    with torch.no_grad():
        student = task._extract(batch.inputs)
        c = task.router(student).softmax(dim=1).double().numpy()
    kd_expected, merit_expected = 0.0, 0.0
    for i in range(6):
        ce = [F.cross_entropy(specialists[i, e], batch.label[i]).item() for e in range(4)]
        r = np.exp(-np.array(ce)) / np.exp(-np.array(ce)).sum()
        merit_expected -= (r * np.log(c[i])).sum() / 6
        v = c[i].copy()
        if gated:
            v *= [specialists[i, e].argmax() == batch.label[i] for e in range(4)]
            v = v / v.sum() if v.sum() else v
        own = student.logits[i : i + 1]
        kd_expected += sum(v[e] * kd(own, specialists[i, e : e + 1]).item() for e in range(4)) / 6
    assert terms["kd"].item() == pytest.approx(kd_expected, rel=1e-10)
    total = terms["ce"].item() + 0.9 * kd_expected
    if router == "learned":
        assert terms["merit"].item() == pytest.approx(merit_expected, rel=1e-10)
        balance = -np.log(4) - np.log(c.mean(axis=0)).mean()
        total += 0.7 * merit_expected + 0.1 * balance
    assert terms["loss"].item() == pytest.approx(total, rel=1e-10)
    assert (len(terms) == 3) == (router == "uniform")


def test_the_gradient_of_a_learned_router_does_not_reach_the_student():
    task, batch, _, embed = routing("learned", kd_weight=0.0, task_weight=0.0)
    task.losses(batch)["loss"].backward()
    assert all(weight.grad.abs().sum() > 0 for weight in task.router.parameters())
    assert embed.weight.grad is None
    assert all(weight.grad is None or not weight.grad.any() for weight in task.student.parameters())


def test_the_gradient_of_kd_does_not_reach_the_router():
    task, batch, _, _ = routing("learned", merit_weight=0.0, balance_weight=0.0)
    task.losses(batch)["loss"].backward()
    assert not task.router.prefer.weight.grad.any()


def test_the_weight_of_kd_is_halved_after_shares_of_the_epochs():
    settings = route(epochs=20, halvings=(0.3, 0.6, 0.9))
    weights = Weights(1.0, 1.0)
    seen = []
    for epoch in range(20):
        seen.append(weights.kd)
        weights.decay(epoch, settings)
    assert seen == [1.0] * 6 + [0.5] * 6 + [0.25] * 6 + [0.125] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "merit"},
        {"router": "uniform"},
        {"router": "uniform", "gated": True},
        {"router": "hard", "gated": True, "chosen": 2},
    ],
)
def test_stage_3_runs_with_every_router(changes):
    run, plan, nets, masks, _ = train_stages_1_and_2()
    plan = plan.model_copy(update={"route": route(**changes)})
    ensemble = assemble_ensemble(run, plan, nets, masks)
    table = tabulate_logits(run, ensemble, 8)
    done = train_student(run, plan, copy.deepcopy(nets["image"]), ensemble, table)
    assert np.isfinite(done.fit.history.to_numpy()).all()
    load = done.load.groupby("epoch")["samples"].sum()
    gated = changes.get("gated") or "preset" in changes
    assert (load <= 24.0001).all()
    assert gated or np.allclose(load, 24)


@pytest.mark.parametrize("top_k", [None, 2])
def test_with_dense_labels_kd_is_gated_pixel_by_pixel(top_k):
    rng = np.random.default_rng(0)
    student = torch.from_numpy(rng.normal(size=(2, 3, 2, 2)))
    specialists = torch.from_numpy(3 * rng.normal(size=(2, 4, 3, 2, 2)))
    label = torch.from_numpy(rng.integers(0, 3, (2, 2, 2)))
    label[0, 0, 0] = ignored = specialists[0, 2, :, 0, 0].argmax().item()
    net = UniformRouter(4)
    with torch.no_grad():
        net.preference.copy_(torch.tensor([0.3, -0.2, 0.9, 0.1]))
    hard = {"router": "hard", "chosen": top_k} if top_k else {"router": "uniform"}
    settings = route(gated=True, **hard)
    task = Routing(
        torch.nn.Identity(),
        net,
        lambda _: ModelOutput(student, None),
        SpecialistEnsemble({}),
        (1, 4),
        settings,
        Supervision(ignored),
    )
    terms = task.losses(Batch({"depth": student}, label, {SPECIALISTS: (specialists,)}))
    c = net(ModelOutput(student, None))[0].softmax(dim=0).double().detach().numpy()
    best = np.argsort(-c)[: top_k or 4]
    start = np.array([(1 / top_k if top_k else c[e]) if e in best else 0 for e in range(4)])
    expected, load = 0.0, np.zeros(4)
    for i, y, x in np.ndindex(2, 2, 2):
        of_pixel = specialists[i, :, :, y, x].argmax(dim=1).numpy()
        v = start * (of_pixel == label[i, y, x].item()) * (label[i, y, x].item() != ignored)
        v = v / v.sum() if v.sum() else v
        own = student[i, :, y, x][None]
        expected += sum(v[e] * kd(own, specialists[i, e, :, y, x][None]).item() for e in best) / 8
        load += v / 4
    assert 0 < load.sum() < 2
    assert terms["kd"].item() == pytest.approx(expected, rel=1e-10)
    task.end_epoch(0)
    np.testing.assert_allclose(task.load[0][0].numpy(), load, rtol=1e-10)


@pytest.mark.parametrize("changes", [{"preset": "merit"}, {"router": "uniform"}])
def test_stage_3_runs_with_dense_labels_and_every_weighting(changes):
    run, plan = make_run("dense labels")
    plan = plan.model_copy(update={"route": route(**changes)})
    nets, _ = train_members(run, plan)
    masks, _ = train_masks(run, plan, nets)
    ensemble = assemble_ensemble(run, plan, nets, masks)
    table = tabulate_logits(run, ensemble, 8)
    done = train_student(run, plan, nets[run.target], ensemble, table)
    assert np.isfinite(done.fit.history.to_numpy()).all()


def test_the_baseline_continues_from_the_epoch_that_members_continue_from():
    run, plan = make_run()
    plan = vary(plan, teachers={"epochs": 4, "keep": "ce", "learning_rate": 0.3})
    whole = train_baseline(run, plan)[1].history
    best = int(whole.query("phase == 'teachers'")["valid_ce"].idxmin())
    assert best < 3
    until = vary(plan, teachers={"epochs": best + 1, "keep": "last"})
    short = train_baseline(run, until)[1].history
    expected = short.query("phase == 'route'").reset_index(drop=True)
    assert whole.query("phase == 'route'").reset_index(drop=True).equals(expected)


def test_masks_from_a_checkpoint_are_in_eval_mode(tmp_path):
    run, plan = make_run()
    nets, _ = train_members(run, plan)
    resumable = dataclasses.replace(run, checkpoints=Checkpoints(tmp_path, "parameters"))
    for _ in range(2):
        masks, _ = train_masks(resumable, plan, nets)
        assert not any(mask.training for mask in masks.values())


def test_a_share_of_the_epochs_above_1_is_an_error():
    with pytest.raises(ValueError, match="less than 1"):
        route(halvings=(0.5, 1.5))


def test_the_load_is_counted_once_if_a_step_is_undone_several_times():
    run, plan, nets, masks, _ = train_stages_1_and_2()
    ensemble = assemble_ensemble(run, plan, nets, masks)
    table = tabulate_logits(run, ensemble, 8)
    task, stage = prepare_student(run, plan, copy.deepcopy(nets["image"]), ensemble, table)
    first, second, *_ = stage.train
    task.losses(first)
    before = task.state()
    for _ in range(3):
        task.losses(second)
        task.load_state(before)
    task.losses(second)
    assert task.state()["now"].sum() == len(first.label) + len(second.label)
