"""The three stages and the control, on two modalities, on three, and on dense labels."""

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
from mst_distill.mst.baseline import train_control
from mst_distill.mst.ensemble import assemble_panel, logits_of_split, tabulate_logits
from mst_distill.mst.features import Observed
from mst_distill.mst.networks import build_member, forward
from mst_distill.mst.router import ClassRouter
from mst_distill.mst.stage1_teachers import Collaboration, train_members
from mst_distill.mst.stage2_masks import STUDENT, Adaptation, train_masks
from mst_distill.mst.stage3_route import SPECIALISTS, Routing, Weights, train_student
from mst_distill.parameters import Member, Members
from mst_distill.training.batches import Batch
from mst_distill.training.run import Run
from toy_runs import KINDS, MASKS, TEACHERS, make_run, route
from toys import in_precision

pytestmark = pytest.mark.usefixtures("float64")


def snapshot(nets) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value.clone()
        for name, net in nets.items()
        for key, value in net.state_dict().items()
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Stages:
    """A whole run, stage by stage, with copies of what each stage was given."""

    def __init__(self, kind: str, target: str | None = None, settings=None, **runtime) -> None:
        self.run, self.members = make_run(kind, target, **runtime)
        self.route = settings or route()
        self.nets, self.first = train_members(self.run, self.members, TEACHERS, MASKS)
        self.after_first = snapshot(self.nets)
        teachers = {name: net for name, net in self.nets.items() if name != self.run.target}
        self.student = self.nets[self.run.target]
        self.masks, self.second = train_masks(self.run, teachers, self.student, self.members, MASKS)
        self.after_second = snapshot(self.nets)
        self.trained_masks = snapshot(self.masks)
        self.panel = assemble_panel(
            self.run, teachers, self.masks, self.members, self.route.stacked_masks
        )
        self.table = tabulate_logits(self.run, self.panel, 8)
        self.third = train_student(
            self.run, copy.deepcopy(self.student), self.panel, self.table, self.route
        )


@pytest.fixture(scope="module", params=KINDS)
def stages(request, float64) -> Stages:
    return Stages(request.param)


def test_stage_1_trains_every_member_the_student_last(stages):
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
        assert not same(net.state_dict(), start[name].state_dict())
    assert len(stages.first.history) == TEACHERS.epochs


def test_stage_2_changes_masks_and_nothing_else_to_the_bit(stages):
    assert same(stages.after_first, stages.after_second)
    layers = stages.members.teachers_of(stages.run.target)
    expected = [f"{name}/{layer}" for name, of in layers.items() for layer in of.masked_layers]
    assert list(stages.masks) == expected == list(stages.panel.names)


def test_stage_2_keeps_all_masks_of_the_epoch_with_the_smallest_joint_loss(stages):
    """Sum over teachers of the mean over their masks; recomputed here from the history."""
    history = stages.second.history
    joint = sum(
        history[[f"valid_kd_{name}/{layer}" for layer in of.masked_layers]].mean(axis=1)
        for name, of in stages.members.teachers_of(stages.run.target).items()
    )
    assert stages.second.kept["joint"].row["epoch"] == joint.idxmin()


def test_stage_3_changes_student_and_router_and_nothing_else_to_the_bit(stages):
    assert same(snapshot(stages.nets), stages.after_second)
    assert same(snapshot(stages.masks), stages.trained_masks)
    for student in stages.third.students.values():
        assert not same(student.state_dict(), stages.student.state_dict())


def test_every_sample_is_given_to_exactly_k_specialists_every_epoch(stages):
    given = stages.third.given
    count = len(rows_of(stages.run.splits, "train"))
    assert (given.groupby("epoch")["samples"].sum() == count).all()
    classes = {"all"} if stages.run.samples.dense else set(stages.run.samples.classes)
    assert set(given["class"]) == classes
    if not stages.run.samples.dense:
        labels = stages.run.splits.query("split == 'train'")["label"].value_counts().sort_index()
        per_class = given.query("epoch == 0").groupby("class", sort=False)["samples"].sum()
        assert per_class.tolist() == labels.tolist()


def test_students_are_kept_by_each_rule(stages):
    history, kept = stages.third.fit.history, stages.third.fit.kept
    assert kept["last"].row["epoch"] == 2
    assert kept["ce"].row["epoch"] == history["valid_ce"].idxmin()
    best = history.sort_values(["valid_accuracy", "valid_ce"], ascending=[False, True])
    assert kept["accuracy"].row["epoch"] == best["epoch"].iloc[0]


def test_the_student_needs_the_target_alone(stages):
    target = stages.run.target
    samples = torch.from_numpy(stages.run.samples.modalities[target][:2])
    logits = stages.third.students["accuracy"](samples)
    assert logits.shape == (2, 3, *stages.run.samples.labels.shape[1:])


def test_the_table_holds_what_the_specialists_say(stages):
    """Against whole forward passes with hooks, one sample after another."""
    if stages.run.samples.dense:
        assert stages.table.empty
        assert list(stages.table.columns)[:3] == ["id", "split", "specialist"]
        return
    table, run = stages.table, stages.run
    assert len(table) == len(run.samples) * len(stages.panel.names)
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
            said = table[(table["id"] == run.splits["id"][row]) & (table["specialist"] == name)]
            found = said[list(run.samples.classes)].to_numpy()[0]
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-10)
    split = logits_of_split(run, stages.panel, table, "valid")
    assert split.shape == (8, len(stages.panel.names), 3)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_things_computed_once_and_at_every_step_give_the_same(kind):
    once, online = (Stages(kind, frozen=mode) for mode in ("cached", "online"))
    assert online.table.empty
    for stage in ("first", "second"):
        pd.testing.assert_frame_equal(
            getattr(once, stage).history, getattr(online, stage).history, rtol=1e-9
        )
    pd.testing.assert_frame_equal(once.third.fit.history, online.third.fit.history, rtol=1e-9)
    pd.testing.assert_frame_equal(once.third.given, online.third.given, rtol=1e-9)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_run_to_the_bit(kind, precision):
    with in_precision(precision):
        one, other = Stages(kind), Stages(kind)
    assert same(snapshot(one.nets), snapshot(other.nets))
    assert same(snapshot(one.masks), snapshot(other.masks))
    assert same(snapshot(one.third.students), snapshot(other.third.students))
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


def test_stage_1_s_loss_is_all_cross_entropies_and_all_ordered_pairs():
    run, members = make_run("three modalities")
    known = {"multimodal": members.multimodal, **members.modalities}
    nets = {name: build_member(name, of, 3, 0).double().eval() for name, of in known.items()}
    batch = batch_of(run)
    batch = Batch({k: v.double() for k, v in batch.inputs.items()}, batch.label)
    terms = Collaboration(nets, 4.0, None).losses(batch)
    logits = {name: forward(net, name, batch.inputs) for name, net in nets.items()}
    ce = sum(F.cross_entropy(of, batch.label) for of in logits.values())
    kd = 0.0
    for one, other in itertools.permutations(logits.values(), 2):
        p, q = F.softmax(other / 4, 1), F.softmax(one / 4, 1)
        kd = kd + 16 * (p * (p / q).log()).sum(1).mean()
    assert len(list(itertools.permutations(logits, 2))) == 12
    assert terms["kd"].item() == pytest.approx(kd.item(), rel=1e-10)
    # The twelve pairs of three modalities weigh together what the six of two do.
    assert terms["loss"].item() == pytest.approx((ce + kd * 6 / 12).item(), rel=1e-10)


def test_one_adam_over_all_masks_steps_each_as_an_adam_of_its_own():
    stages = Stages("two modalities")
    with torch.no_grad():
        batch = batch_of(stages.run)
        frozen = {
            name: of.trunk.compute(batch.inputs) for name, of in stages.panel.teachers.items()
        }
        frozen[STUDENT] = (stages.student(batch.inputs["image"]),)
    batch = Batch(batch.inputs, batch.label, frozen)
    task = Adaptation(stages.panel.teachers, stages.masks, 4.0)
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
    assert same(together, apart)


def scaled(**factors: float) -> tuple[Run, Members]:
    """A run some of whose modalities are that many times as large, as raw files may be."""
    run, members = make_run()
    arrays = {
        name: array * np.float32(factors.get(name, 1))
        for name, array in run.samples.modalities.items()
    }
    return replace(run, samples=replace(run.samples, modalities=arrays)), members


def test_raw_unscaled_data_go_through_stage_1():
    """Their logits are thousands apart, so that most probabilities underflow to 0."""
    run, members = scaled(audio=3.2e4)
    nets, done = train_members(run, members, TEACHERS, MASKS)
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
def test_data_that_no_float32_holds_are_told_by_term_member_and_modality(factor, kd, expected):
    run, members = scaled(audio=factor)
    with pytest.raises(FloatingPointError, match=expected) as error:
        train_members(run, members, TEACHERS.model_copy(update={"kd": kd}), MASKS)
    message = str(error.value)
    assert re.search(r"in step 0 of epoch 0 of stage 'teachers', on the samples s\d+, ", message)
    found = re.search(r"from (\S+) to (\S+) in 'audio', from \S+ to (\S+) in 'image'", message)
    assert float(found[1]) < -factor
    assert float(found[2]) > factor
    assert float(found[3]) < 10


def test_a_mask_that_cannot_learn_is_told_by_its_name():
    stages = Stages("two modalities")
    task = Adaptation(stages.panel.teachers, stages.masks, 4.0)
    paths = [name for name, _ in task.trainable.named_parameters()]
    assert task.learner(paths[0]) == "mask 'multimodal/fusion'"
    assert task.learner(paths[-1]) == "mask 'audio/second'"


def test_a_teacher_with_a_map_of_one_pixel_goes_through_stage_2():
    run, members = make_run(target="audio")
    pixel = {"image": Member(type="toy_nets.OnePixel", masked_layers=("conv",))}
    members = members.model_copy(update={"modalities": {**members.modalities, **pixel}})
    nets, _ = train_members(run, members, TEACHERS, MASKS)
    student = nets.pop("audio")
    _, done = train_masks(run, nets, student, members, MASKS)
    assert np.isfinite(done.history["train_kd_image/conv"]).all()


def routing(chosen: int = 1, **changes) -> tuple[Routing, Batch, torch.Tensor]:
    run, members = make_run()
    settings = route(chosen=chosen, **changes)
    student = build_member("image", members.modalities["image"], 3, 0)
    torch.manual_seed(0)
    router = ClassRouter(3, 4)
    task = Routing(student, router, "image", 4, 3, settings, None)
    specialists = torch.randn(6, 4, 3)
    batch = batch_of(run)
    return task, Batch(batch.inputs, batch.label, {SPECIALISTS: (specialists,)}), specialists


@pytest.mark.parametrize("chosen", [1, 2, 4])
def test_stage_3_s_kd_is_the_mean_over_the_k_preferred_specialists(chosen):
    task, batch, specialists = routing(chosen)
    task.student.eval()
    terms = task.losses(batch)
    with torch.no_grad():
        logits = task.student(batch.inputs["image"])
        preference = task.router(Observed(logits))
    expected = 0.0
    for sample in range(6):
        for pick in preference[sample].argsort(descending=True)[:chosen]:
            p = F.softmax(specialists[sample, pick] / 4, 0)
            q = F.softmax(logits[sample] / 4, 0)
            expected += 16 * float((p * (p / q).log()).sum()) / chosen / 6
    assert terms["kd"].item() == pytest.approx(expected, rel=1e-10)
    total = terms["ce"] + terms["kd"] + terms["balance"]
    assert terms["loss"].item() == pytest.approx(total.item(), rel=1e-10)


def test_distillation_gives_the_router_no_gradient_and_balance_gives_it_some():
    task, batch, _ = routing(balance_weight=0.0)
    task.losses(batch)["loss"].backward()
    assert all(weight.grad.abs().sum() == 0 for weight in task.router.parameters())
    task, batch, _ = routing(balance_weight=1.0)
    task.losses(batch)["loss"].backward()
    assert all(weight.grad.abs().sum() > 0 for weight in task.router.parameters())


def test_weights_fall_as_the_reference_s_when_early_and_as_the_paper_s_when_not():
    early, late = Weights(1, 1), Weights(1, 1)
    settings = route(epochs=100, early_decay=False)
    seen = []
    for epoch in range(100):
        seen.append((early.kd, early.balance, late.kd, late.balance))
        early.decay(epoch, route(epochs=100, early_decay=True))
        late.decay(epoch, settings)
    kd_early, balance_early, kd_late, balance_late = zip(*seen, strict=True)
    # w_kd is 1 only in epoch 0, then 0.5, 0.25, 0.125, 0.0625 in the reference.
    assert [kd_early[at] for at in (0, 1, 30, 31, 61, 91)] == [1, 0.5, 0.5, 0.25, 0.125, 0.0625]
    assert [kd_late[at] for at in (0, 29, 30, 59, 60, 90)] == [1, 1, 0.5, 0.5, 0.25, 0.125]
    assert balance_early[1] == pytest.approx(0.9)
    assert balance_early[11] == pytest.approx(0.81)
    assert balance_late[9] == 1
    assert balance_late[10] == pytest.approx(0.9)


@pytest.mark.parametrize("preset", ["default", "paper", "reference"])
@pytest.mark.parametrize("balance", ["kl", "cv"])
def test_presets_and_balances_run(preset, balance):
    done = Stages("two modalities", settings=route(preset=preset, balance=balance))
    assert len(done.third.fit.history) == 3


def test_a_table_of_other_specialists_is_refused():
    stages = Stages("two modalities")
    table = stages.table.replace({"specialist": {"audio/first": "audio/second"}})
    with pytest.raises(ValueError, match="run again from the node compute_specialist_logits"):
        logits_of_split(stages.run, stages.panel, table, "train")


def test_a_mask_that_was_never_trained_is_missed_by_name():
    stages = Stages("two modalities")
    masks = {name: mask for name, mask in stages.masks.items() if name != "audio/second"}
    with pytest.raises(ValueError, match="no mask for layer 'second' of member 'audio'"):
        assemble_panel(stages.run, stages.nets, masks, stages.members)


def test_a_teacher_may_go_without_masks():
    run, members = make_run("three modalities")
    plain = {"text": members.modalities["text"].model_copy(update={"masked_layers": ()})}
    members = members.model_copy(update={"modalities": {**members.modalities, **plain}})
    nets, _ = train_members(run, members, TEACHERS, MASKS)
    teachers = {name: net for name, net in nets.items() if name != "image"}
    masks, done = train_masks(run, teachers, nets["image"], members, MASKS)
    assert not any(name.startswith("text/") for name in masks)
    assert done.kept["joint"].state


def test_what_a_net_froze_itself_stays_frozen_in_every_stage():
    """Else the student would learn more than the control, and the verdict would be of that."""
    run, members = make_run()
    frozen = members.modalities["image"].model_copy(update={"type": "toy_nets.HalfFrozen"})
    members = members.model_copy(update={"modalities": {**members.modalities, "image": frozen}})
    nets, _ = train_members(run, members, TEACHERS, MASKS)
    teachers = {name: net for name, net in nets.items() if name != "image"}
    masks, _ = train_masks(run, teachers, nets["image"], members, MASKS)
    panel = assemble_panel(run, teachers, masks, members)
    table = tabulate_logits(run, panel, 8)
    done = train_student(run, nets["image"], panel, table, route())
    start = build_member("image", frozen, 3, run.seed)
    assert torch.equal(done.students["last"].conv.weight, start.conv.weight)
    assert not torch.equal(done.students["last"].last.weight, start.last.weight)


def test_the_control_is_the_student_s_net_with_its_start_order_and_epochs():
    """A plain loop written anew: same weights, same batches, cross-entropy, two fresh Adams."""
    run, members = make_run()
    controls, done = train_control(run, members, TEACHERS, MASKS, route())
    net = run.place(build_member("image", members.modalities["image"], 3, run.seed))
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
    assert same(controls["last"].state_dict(), net.state_dict())
    assert done.kept["last"].row["epoch"] == 4
    assert done.history["phase"].value_counts().to_dict() == {"teachers": 2, "route": 3}
    assert len(rows) == 24


def test_the_control_is_kept_at_the_best_of_all_its_epochs():
    """Stage 3 with a learning rate that spoils it."""
    run, members = make_run()
    settings = TEACHERS.model_copy(update={"epochs": 4, "learning_rate": 0.03})
    controls, done = train_control(run, members, settings, MASKS, route(learning_rate=3.0))
    ce = done.history["valid_ce"]
    best = int(ce.idxmin())
    assert best < 4
    assert done.kept["ce"].row["epoch"] == best
    batch = next(iter(run.batches("valid", ["image"], 8)))
    with torch.no_grad():
        found = F.cross_entropy(controls["ce"](batch.inputs["image"]), batch.label)
    assert found.item() == pytest.approx(ce[best], rel=1e-10)
    first = done.history["valid_accuracy"].round(9).max()
    assert round(done.kept["accuracy"].row["valid_accuracy"], 9) == first


def test_without_distillation_the_student_is_the_control_to_the_bit():
    """Stage 1 of a lone member, then stage 3 with no weight on KD and balance."""
    run, members = make_run()
    controls, alone = train_control(run, members, TEACHERS, MASKS, route())
    stages = Stages("two modalities", settings=route(kd_weight=0.0, balance_weight=0.0))
    net = build_member("image", members.modalities["image"], 3, run.seed)
    from mst_distill.training.loop import Stage, fit
    from mst_distill.training.selection import SELECTION

    task = Collaboration({"image": net}, 4.0, None)
    train, valid = run.train_and_valid("teachers", TEACHERS, ["image"])
    fit(Stage("alone", task, train, valid, TEACHERS, {"last": SELECTION["last"]}), run.runtime)
    done = train_student(run, net, stages.panel, stages.table, stages.route)
    for rule, student in done.students.items():
        assert alone.kept[rule].row["epoch"] >= TEACHERS.epochs
        assert same(student.state_dict(), controls[rule].state_dict())
