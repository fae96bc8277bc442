"""The three stages and the baseline, on two modalities, on three, and on dense labels."""

from __future__ import annotations

import copy
import itertools
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from mst_distill.data.samples import rows_of
from mst_distill.mst.baseline import train_baseline
from mst_distill.mst.ensemble import (
    SPECIALISTS,
    SpecialistEnsemble,
    assemble_ensemble,
    logits_of_split,
    tabulate_logits,
)
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.networks import build_member, forward
from mst_distill.mst.router import ClassRouter
from mst_distill.mst.run_stages import run_stages
from mst_distill.mst.stage1_teachers import Collaboration, train_members
from mst_distill.mst.stage2_masks import STUDENT, Adaptation, train_masks
from mst_distill.mst.stage3_route import Routing, Weights, train_student
from mst_distill.mst.supervision import Supervision
from mst_distill.parameters import Member
from mst_distill.plan import Plan
from mst_distill.training.batches import Batch
from mst_distill.training.run import Run
from toy_runs import KINDS, TEACHERS, make_run, route, vary
from toys import in_precision

pytestmark = pytest.mark.usefixtures("float64")


def snapshot(nets) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value.clone()
        for name, net in nets.items()
        for key, value in net.state_dict().items()
    }


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Stages:
    """A whole run, stage by stage, with copies of the weights after each stage."""

    def __init__(self, kind: str, target: str | None = None, settings=None, **runtime) -> None:
        self.run, plan = make_run(kind, target, **runtime)
        self.plan = plan.model_copy(update={"route": settings or route()})
        self.members = plan.members
        self.nets, self.first = train_members(self.run, self.plan)
        self.after_first = snapshot(self.nets)
        self.student = self.nets[self.run.target]
        self.masks, self.second = train_masks(self.run, self.plan, self.nets)
        self.after_second = snapshot(self.nets)
        self.trained_masks = snapshot(self.masks)
        self.ensemble = assemble_ensemble(self.run, self.plan, self.nets, self.masks)
        self.table = tabulate_logits(self.run, self.ensemble, 8)
        student = copy.deepcopy(self.student)
        self.third = train_student(self.run, self.plan, student, self.ensemble, self.table)


@pytest.fixture(scope="module", params=KINDS)
def stages(request, float64) -> Stages:
    return Stages(request.param)


def test_stage_1_trains_every_member_and_lists_the_student_last(stages):
    assert next(iter(stages.nets)) == "multimodal"
    assert list(stages.nets)[-1] == stages.run.target
    assert set(stages.nets) == {"multimodal", *stages.members.modalities}
    start = {
        name: build_member(name, of, 3, 0)
        for name, of in {
            **stages.members.modalities,
            "multimodal": stages.members.multimodal,
        }.items()
    }
    for name, net in stages.nets.items():
        assert not equal(net.state_dict(), start[name].state_dict())
    assert len(stages.first.history) == TEACHERS.epochs


def test_stage_2_changes_nothing_but_the_masks(stages):
    assert equal(stages.after_first, stages.after_second)
    layers = stages.members.teachers_of(stages.run.target)
    expected = [f"{name}/{layer}" for name, of in layers.items() for layer in of.masked_layers]
    assert list(stages.masks) == expected == list(stages.ensemble.names)


def test_stage_2_takes_all_masks_from_the_epoch_with_the_smallest_joint_loss(stages):
    """The joint loss is the sum over teachers of the mean over their masks."""
    history = stages.second.history
    joint = sum(
        history[[f"valid_kd_{name}/{layer}" for layer in of.masked_layers]].mean(axis=1)
        for name, of in stages.members.teachers_of(stages.run.target).items()
    )
    assert stages.second.best["joint"].row["epoch"] == joint.idxmin()


def test_stage_3_changes_nothing_but_student_and_router(stages):
    assert equal(snapshot(stages.nets), stages.after_second)
    assert equal(snapshot(stages.masks), stages.trained_masks)
    for student in stages.third.students.values():
        assert not equal(student.state_dict(), stages.student.state_dict())


def test_every_sample_is_routed_to_exactly_k_specialists_in_every_epoch(stages):
    load = stages.third.load
    count = len(rows_of(stages.run.splits, "train"))
    assert (load.groupby("epoch")["samples"].sum() == count).all()
    classes = {"all"} if stages.run.samples.dense else set(stages.run.samples.classes)
    assert set(load["class"]) == classes
    if not stages.run.samples.dense:
        labels = stages.run.splits.query("split == 'train'")["label"].value_counts().sort_index()
        per_class = load.query("epoch == 0").groupby("class", sort=False)["samples"].sum()
        assert per_class.tolist() == labels.tolist()


def test_each_criterion_selects_a_student(stages):
    history, selected = stages.third.fit.history, stages.third.fit.best
    assert selected["last"].row["epoch"] == 2
    assert selected["ce"].row["epoch"] == history["valid_ce"].idxmin()
    best = history.sort_values(["valid_accuracy", "valid_ce"], ascending=[False, True])
    assert selected["accuracy"].row["epoch"] == best["epoch"].iloc[0]


def test_the_student_reads_the_target_alone(stages):
    target = stages.run.target
    samples = torch.from_numpy(stages.run.samples.modalities[target][:2])
    logits = stages.third.students["accuracy"](samples)
    assert logits.shape == (2, 3, *stages.run.samples.labels.shape[1:])


def test_the_table_has_the_logits_of_the_specialists(stages):
    """They are compared with whole forward passes with hooks, one sample after the other."""
    if stages.run.samples.dense:
        assert stages.table.empty
        assert list(stages.table.columns)[:3] == ["id", "split", "specialist"]
        return
    table, run = stages.table, stages.run
    assert len(table) == len(run.samples) * len(stages.ensemble.names)
    for row in (0, 7):
        inputs = {k: torch.from_numpy(v[row : row + 1]) for k, v in run.samples.modalities.items()}
        for name, mask in stages.masks.items():
            teacher, layer = name.split("/")
            net = stages.nets[teacher]
            hook = net.get_submodule(layer).register_forward_hook(
                lambda m, i, out, mask=mask: mask.eval()(out)
            )
            with torch.no_grad():
                expected = forward(net, teacher, inputs)[0]
            hook.remove()
            rows = table[(table["id"] == run.splits["id"][row]) & (table["specialist"] == name)]
            found = rows[list(run.samples.classes)].to_numpy()[0]
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-10)
    split = logits_of_split(run, stages.ensemble, table, "valid")
    assert split.shape == (8, len(stages.ensemble.names), 3)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_and_online_outputs_of_frozen_nets_give_equal_results(kind):
    once, online = (Stages(kind, frozen=mode) for mode in ("cached", "online"))
    assert online.table.empty
    for stage in ("first", "second"):
        pd.testing.assert_frame_equal(
            getattr(once, stage).history, getattr(online, stage).history, rtol=1e-9
        )
    pd.testing.assert_frame_equal(once.third.fit.history, online.third.fit.history, rtol=1e-9)
    pd.testing.assert_frame_equal(once.third.load, online.third.load, rtol=1e-9)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_exactly_the_same_run(kind, precision):
    with in_precision(precision):
        one, other = Stages(kind), Stages(kind)
    assert equal(snapshot(one.nets), snapshot(other.nets))
    assert equal(snapshot(one.masks), snapshot(other.masks))
    assert equal(snapshot(one.third.students), snapshot(other.third.students))
    pd.testing.assert_frame_equal(one.third.fit.history, other.third.fit.history, check_exact=True)


def test_every_modality_can_be_the_target():
    for target in ("image", "audio", "text"):
        done = Stages("three modalities", target)
        others = [name for name in done.members.modalities if name != target]
        assert list(done.nets) == ["multimodal", *others, target]
        assert set(done.third.students) == {"accuracy", "ce", "last"}


def batch_of(run, count: int = 6) -> Batch:
    inputs = {k: torch.from_numpy(v[:count].copy()) for k, v in run.samples.modalities.items()}
    return Batch(inputs, torch.from_numpy(run.samples.labels[:count]))


def test_the_loss_of_stage_1_has_all_cross_entropies_and_all_ordered_pairs():
    run, plan = make_run("three modalities")
    known = {"multimodal": plan.members.multimodal, **plan.members.modalities}
    nets = {name: build_member(name, of, 3, 0).double().eval() for name, of in known.items()}
    batch = batch_of(run)
    batch = Batch({k: v.double() for k, v in batch.inputs.items()}, batch.label)
    terms = Collaboration(nets, 4.0, Supervision()).losses(batch)
    logits = {name: forward(net, name, batch.inputs) for name, net in nets.items()}
    ce = sum(F.cross_entropy(of, batch.label) for of in logits.values())
    kd = 0.0
    for one, other in itertools.permutations(logits.values(), 2):
        p, q = F.softmax(other / 4, 1), F.softmax(one / 4, 1)
        kd = kd + 16 * (p * (p / q).log()).sum(1).mean()
    assert len(list(itertools.permutations(logits, 2))) == 12
    assert terms["kd"].item() == pytest.approx(kd.item(), rel=1e-10)  # type: ignore[attr-defined]
    # The twelve pairs of three modalities have the same total weight as the six pairs of two.
    assert terms["loss"].item() == pytest.approx((ce + kd * 6 / 12).item(), rel=1e-10)


def test_one_adam_for_all_masks_takes_the_steps_of_one_adam_for_each():
    stages = Stages("two modalities")
    with torch.no_grad():
        batch = batch_of(stages.run)
        frozen = {
            name: of.trunk.compute(batch.inputs) for name, of in stages.ensemble.teachers.items()
        }
        frozen[STUDENT] = (stages.student(batch.inputs["image"]),)
    batch = Batch(batch.inputs, batch.label, frozen)
    task = Adaptation(stages.ensemble.teachers, stages.masks, 4.0)
    task.trainable.train()
    start = copy.deepcopy(task.trainable.state_dict())

    def step(optimisers) -> dict[str, torch.Tensor]:
        task.trainable.load_state_dict(start)
        for _ in range(3):
            terms = task.losses(batch)
            for optimiser in optimisers:
                optimiser.zero_grad()
            terms["loss"].backward()
            for optimiser in optimisers:
                optimiser.step()
        return snapshot(stages.masks)

    together = step([torch.optim.Adam(task.trainable.parameters(), lr=1e-2)])
    apart = step([torch.optim.Adam(mask.parameters(), lr=1e-2) for mask in stages.masks.values()])
    assert equal(together, apart)


def scaled(**factors: float) -> tuple[Run, Plan]:
    """A run in which some modalities are multiplied by a factor, as if they were unscaled."""
    run, plan = make_run()
    arrays = {
        name: array * np.float32(factors.get(name, 1))
        for name, array in run.samples.modalities.items()
    }
    return replace(run, samples=replace(run.samples, modalities=arrays)), plan


def test_stage_1_runs_with_raw_unscaled_data():
    """The logits differ by thousands, so that most probabilities underflow to 0."""
    run, plan = scaled(audio=3.2e4)
    nets, done = train_members(run, plan)
    assert np.isfinite(done.history.to_numpy()).all()
    with torch.no_grad():
        logits = nets["audio"](torch.from_numpy(run.samples.modalities["audio"]))
    assert logits.std() > 1000


@pytest.mark.parametrize(
    ("factor", "kd", "expected"),
    [
        (6e37, "mutual", "^kd is inf"),
        (1e25, "none", "^the gradient of member 'multimodal', member 'audio' is inf"),
    ],
)
@in_precision("float32")
def test_the_error_for_overflow_in_float32_names_term_member_and_modality(factor, kd, expected):
    run, plan = scaled(audio=factor)
    with pytest.raises(FloatingPointError, match=expected) as error:
        train_members(run, vary(plan, teachers={"kd": kd}))
    message = str(error.value)
    assert re.search(r"in step 0 of epoch 0 of stage 'teachers', on the samples s\d+, ", message)
    found = re.search(r"from (\S+) to (\S+) in 'audio', from \S+ to (\S+) in 'image'", message)
    assert float(found[1]) < -factor
    assert float(found[2]) > factor
    assert float(found[3]) < 10


def test_errors_name_the_mask_of_a_weight():
    stages = Stages("two modalities")
    task = Adaptation(stages.ensemble.teachers, stages.masks, 4.0)
    paths = [name for name, _ in task.trainable.named_parameters()]
    assert task.learner(paths[0]) == "mask 'multimodal/fusion'"
    assert task.learner(paths[-1]) == "mask 'audio/second'"


def test_stage_2_runs_with_a_map_of_one_pixel():
    run, plan = make_run(target="audio")
    pixel = {"image": Member(type="toy_nets.OnePixel", masked_layers=("conv",))}
    plan = vary(plan, members={"modalities": {**plan.members.modalities, **pixel}})
    nets, _ = train_members(run, plan)
    _, done = train_masks(run, plan, nets)
    assert np.isfinite(done.history["train_kd_image/conv"]).all()


def routing(chosen: int = 1, **changes) -> tuple[Routing, Batch, torch.Tensor]:
    run, plan = make_run()
    settings = route(chosen=chosen, **changes)
    student = build_member("image", plan.members.modalities["image"], 3, 0)
    torch.manual_seed(0)
    router = ClassRouter(3, 4)
    task = Routing(
        student,
        router,
        lambda inputs: ModelOutput(student(inputs["image"])),
        SpecialistEnsemble({}),
        (3, 4),
        settings,
        Supervision(),
    )
    specialists = torch.randn(6, 4, 3)
    batch = batch_of(run)
    return task, Batch(batch.inputs, batch.label, {SPECIALISTS: (specialists,)}), specialists


@pytest.mark.parametrize("chosen", [1, 2, 4])
def test_the_kd_of_stage_3_is_the_mean_over_the_top_k_specialists(chosen):
    task, batch, specialists = routing(chosen)
    task.student.eval()
    terms = task.losses(batch)
    with torch.no_grad():
        logits = task.student(batch.inputs["image"])
        router_logits = task.router(ModelOutput(logits))
    expected = 0.0
    for sample in range(6):
        for index in router_logits[sample].argsort(descending=True)[:chosen]:
            p = F.softmax(specialists[sample, index] / 4, 0)
            q = F.softmax(logits[sample] / 4, 0)
            expected += 16 * float((p * (p / q).log()).sum()) / chosen / 6
    assert terms["kd"].item() == pytest.approx(expected, rel=1e-10)
    total = terms["ce"] + terms["kd"] + terms["balance"]
    assert terms["loss"].item() == pytest.approx(total.item(), rel=1e-10)


def test_the_router_receives_a_gradient_from_balance_but_not_from_distillation():
    task, batch, _ = routing(balance_weight=0.0)
    task.losses(batch)["loss"].backward()
    assert all(weight.grad.abs().sum() == 0 for weight in task.router.parameters())
    task, batch, _ = routing(balance_weight=1.0)
    task.losses(batch)["loss"].backward()
    assert all(weight.grad.abs().sum() > 0 for weight in task.router.parameters())


def test_early_decay_is_that_of_the_reference_and_late_decay_that_of_the_paper():
    early, late = Weights(1, 1), Weights(1, 1)
    settings = route(epochs=100, early_decay=False)
    weights = []
    for epoch in range(100):
        weights.append((early.kd, early.balance, late.kd, late.balance))
        early.decay(epoch, route(epochs=100, early_decay=True))
        late.decay(epoch, settings)
    kd_early, balance_early, kd_late, balance_late = zip(*weights, strict=True)
    # w_kd is 1 only in epoch 0, then 0.5, 0.25, 0.125, 0.0625 in the reference.
    assert [kd_early[at] for at in (0, 1, 30, 31, 61, 91)] == [1, 0.5, 0.5, 0.25, 0.125, 0.0625]
    assert [kd_late[at] for at in (0, 29, 30, 59, 60, 90)] == [1, 1, 0.5, 0.5, 0.25, 0.125]
    assert balance_early[1] == pytest.approx(0.9)
    assert balance_early[11] == pytest.approx(0.81)
    assert balance_late[9] == 1
    assert balance_late[10] == pytest.approx(0.9)


@pytest.mark.parametrize("preset", ["default", "paper", "reference"])
@pytest.mark.parametrize("balance", ["kl", "cv"])
def test_stage_3_runs_with_every_preset_and_balance(preset, balance):
    done = Stages("two modalities", settings=route(preset=preset, balance=balance))
    assert len(done.third.fit.history) == 3


def test_a_table_of_other_specialists_is_an_error():
    stages = Stages("two modalities")
    table = stages.table.replace({"specialist": {"audio/first": "audio/second"}})
    with pytest.raises(
        ValueError, match=r"Run again with --from-nodes=route\.compute_specialist_logits"
    ):
        logits_of_split(stages.run, stages.ensemble, table, "train")


def test_the_error_for_a_missing_mask_names_layer_and_member():
    stages = Stages("two modalities")
    masks = {name: mask for name, mask in stages.masks.items() if name != "audio/second"}
    with pytest.raises(ValueError, match="no mask for layer 'second' of member 'audio'"):
        assemble_ensemble(stages.run, stages.plan, stages.nets, masks)


def test_a_teacher_may_have_no_masks():
    run, plan = make_run("three modalities")
    modalities = plan.members.modalities
    plain = {"text": modalities["text"].model_copy(update={"masked_layers": ()})}
    plan = vary(plan, members={"modalities": {**modalities, **plain}})
    nets, _ = train_members(run, plan)
    masks, done = train_masks(run, plan, nets)
    assert not any(name.startswith("text/") for name in masks)
    assert done.best["joint"].state


def test_weights_that_a_net_freezes_stay_frozen_in_every_stage():
    """Otherwise the student would have more trained weights than the baseline."""
    run, plan = make_run()
    modalities = plan.members.modalities
    frozen = modalities["image"].model_copy(update={"type": "toy_nets.HalfFrozen"})
    plan = vary(plan, members={"modalities": {**modalities, "image": frozen}})
    done = run_stages(run, plan).student
    start = build_member("image", frozen, 3, run.seed)
    assert torch.equal(done.students["last"].conv.weight, start.conv.weight)
    assert not torch.equal(done.students["last"].last.weight, start.last.weight)


def test_the_baseline_has_start_weights_order_and_epochs_of_the_student():
    """A plain loop with the same weights and batches, and a new Adam in each phase, is equal."""
    run, plan = make_run()
    baselines, done = train_baseline(run, plan)
    net = run.place(build_member("image", plan.members.modalities["image"], 3, run.seed))
    rows = rows_of(run.splits, "train")
    for stage, settings in (("teachers", TEACHERS), ("route", route())):
        order = run.batches("train", ["image"], settings.batch_size, shuffle=stage)
        optimiser = torch.optim.Adam(net.parameters(), lr=settings.learning_rate, fused=True)
        for _ in range(settings.epochs):
            net.train()
            for batch in order:
                optimiser.zero_grad()
                F.cross_entropy(net(batch.inputs["image"]), batch.label).backward()
                optimiser.step()
    assert equal(baselines["last"].state_dict(), net.state_dict())
    assert done.best["last"].row["epoch"] == 4
    assert done.history["phase"].value_counts().to_dict() == {"teachers": 2, "route": 3}
    assert len(rows) == 24


def test_the_best_epoch_of_the_baseline_is_selected_from_both_phases():
    """The learning rate of the second phase is so large that all its epochs are worse."""
    run, plan = make_run()
    first = {"epochs": 4, "learning_rate": 0.03}
    plan = vary(plan, teachers=first, route={"learning_rate": 3.0})
    baselines, done = train_baseline(run, plan)
    ce = done.history["valid_ce"]
    best = int(ce.idxmin())
    assert best < 4
    assert done.best["ce"].row["epoch"] == best
    batch = next(iter(run.batches("valid", ["image"], 8)))
    with torch.no_grad():
        found = F.cross_entropy(baselines["ce"](batch.inputs["image"]), batch.label)
    assert found.item() == pytest.approx(ce[best], rel=1e-10)
    first = done.history["valid_accuracy"].round(9).max()
    assert round(done.best["accuracy"].row["valid_accuracy"], 9) == first


def test_without_distillation_the_student_equals_the_baseline_exactly():
    """Stage 1 has a single member, and in stage 3 the weights of KD and balance are 0."""
    run, plan = make_run()
    baselines, baseline_fit = train_baseline(run, plan)
    stages = Stages("two modalities", settings=route(kd_weight=0.0, balance_weight=0.0))
    net = build_member("image", plan.members.modalities["image"], 3, run.seed)
    from mst_distill.training.loop import Stage, fit
    from mst_distill.training.selection import SELECTION

    task = Collaboration({"image": net}, 4.0, Supervision())
    train, valid = run.train_and_valid("teachers", TEACHERS, ["image"])
    fit(Stage("alone", task, train, valid, TEACHERS, {"last": SELECTION["last"]}), run.runtime)
    done = train_student(run, stages.plan, net, stages.ensemble, stages.table)
    for criterion, student in done.students.items():
        assert baseline_fit.best[criterion].row["epoch"] >= TEACHERS.epochs
        assert equal(student.state_dict(), baselines[criterion].state_dict())
