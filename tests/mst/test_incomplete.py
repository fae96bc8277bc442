"""Samples without a modality: what learns from them, and what does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.compare.teaching import teach
from mst_distill.data.samples import ABSENT, LABELLED, rows_of
from mst_distill.mst.baseline import Supervised, train_baseline
from mst_distill.mst.ensemble import assemble_ensemble, logits_of_split, tabulate_logits
from mst_distill.mst.losses import distillation
from mst_distill.mst.networks import forward, freeze, modalities_of
from mst_distill.mst.run_stages import run_stages
from mst_distill.mst.stage1_teachers import prepare_members, train_members
from mst_distill.mst.stage2_masks import STUDENT, prepare_masks, train_masks
from mst_distill.mst.stage3_route import prepare_student
from mst_distill.mst.supervision import supervision_of
from mst_distill.plan import Plan
from mst_distill.training.batches import Batch
from mst_distill.training.run import Run
from toy_comparisons import make_comparison_plan, make_pool, method_teacher_pairs
from toy_runs import make_run, route, vary
from toys import assert_same_weights

pytestmark = pytest.mark.usefixtures("float64")

LACKING = ["audio", "", "image", "", "", "audio", "", "image"]
"""The absent modality of each training sample, repeated."""


def incomplete_run(
    kind: str = "two modalities", content: float | None = None, unlabelled: bool = False
) -> tuple[Run, Plan]:
    """A run in which some training samples lack the first or the second modality.

    Args:
        kind: As in `make_run`.
        content: What the arrays have in place of absent values; by default NaN, as in a store.
        unlabelled: Whether the labels of the last training samples are hidden as well.
    """
    run, plan = make_run(kind)
    names = {"image": run.modalities[0], "audio": run.modalities[1], "": ""}
    train = rows_of(run.splits, "train")
    absent = np.full(len(run.samples), "", dtype=object)
    absent[train] = [names[LACKING[position % 8]] for position in range(len(train))]
    arrays = {name: array.copy() for name, array in run.samples.modalities.items()}
    for name, array in arrays.items():
        array[absent == name] = np.nan if content is None else content
    index = run.samples.index.assign(**{ABSENT: absent})
    samples = dataclasses.replace(run.samples, index=index, modalities=arrays)
    splits = run.splits
    if unlabelled:
        labelled = np.ones(len(splits), dtype=bool)
        labelled[train[-10:]] = False
        splits = splits.assign(**{LABELLED: labelled})
    return dataclasses.replace(run, samples=samples, splits=splits), plan


def whole_split(run: Run, **settings: Any) -> Batch:
    """The training samples as one batch, in store order."""
    (batch,) = run.batches("train", run.modalities, 1000, needed=(), **settings)
    return batch


def seen_by(run: Run, member: str) -> np.ndarray:
    """Positions in the training split of the samples that a member can see."""
    have = run.samples.have(modalities_of(member, run.modalities))
    return np.flatnonzero(have[rows_of(run.splits, "train")])


def logits_by_hand(run: Run, net: torch.nn.Module, name: str, positions: np.ndarray) -> Tensor:
    """The logits of a net for single samples, one at a time."""
    rows = rows_of(run.splits, "train")[positions]
    inputs = {
        modality: torch.from_numpy(run.samples.modalities[modality][rows])
        for modality in modalities_of(name, run.modalities)
    }
    singles = [
        forward(net, name, {key: of[i : i + 1] for key, of in inputs.items()})
        for i in range(len(rows))
    ]
    return torch.cat(singles)


def test_a_batch_says_which_modalities_its_samples_have():
    run, _ = incomplete_run()
    batch = whole_split(run)
    lacking = np.array([LACKING[position % 8] for position in range(len(batch.label))])
    assert batch.seen(["audio"]).tolist() == (lacking != "audio").tolist()
    assert batch.seen(["image", "audio"]).tolist() == (lacking == "").tolist()
    some, indices = batch.having(["image"])
    assert indices.tolist() == np.flatnonzero(lacking != "image").tolist()
    assert some.place.tolist() == indices.tolist()
    assert not some.inputs["image"].isnan().any()
    complete, _ = make_run()
    assert whole_split(complete).having(["image", "audio"])[1] is None


def test_batches_leave_out_the_samples_that_lack_what_is_read():
    run, _ = incomplete_run()
    for modalities in (["image"], ["audio"], ["image", "audio"]):
        for batch in run.batches("train", modalities, 4):
            assert all(batch.inputs[name].isfinite().all() for name in modalities)
            assert batch.seen(modalities) is None


@pytest.mark.parametrize("unlabelled", [False, True])
def test_each_member_learns_in_stage_1_from_the_samples_that_it_can_see(unlabelled):
    run, plan = incomplete_run(unlabelled=unlabelled)
    nets, stage = prepare_members(run, plan)
    stage.task.trainable.eval()
    terms = stage.task.losses(whole_split(run))
    true = torch.from_numpy(run.samples.labels[rows_of(run.splits, "train")])
    known = np.arange(len(true) - 10 if unlabelled else len(true))
    for name, net in nets.items():
        positions = np.intersect1d(seen_by(run, name), known)
        logits = logits_by_hand(run, net, name, positions)
        ce = -logits.log_softmax(dim=1)[range(len(positions)), true[positions]].mean()
        assert float(terms[f"ce_{name}"].detach()) == pytest.approx(float(ce.detach()), rel=1e-11)
    kd = 0.0
    for one, other in [(a, b) for a in nets for b in nets if a != b]:
        positions = np.intersect1d(seen_by(run, one), seen_by(run, other))
        first, second = (logits_by_hand(run, nets[n], n, positions) for n in (one, other))
        kd += float(distillation(first, second, plan.teachers.temperature).mean().detach())
    assert float(terms["kd"].detach()) == pytest.approx(kd, rel=1e-11)


def test_members_that_cannot_see_a_batch_get_no_gradient_from_it():
    run, plan = incomplete_run()
    nets, stage = prepare_members(run, plan)
    only_image = np.setdiff1d(seen_by(run, "image"), seen_by(run, "audio"))
    terms = stage.task.descend(whole_split(run).micro_batch(torch.from_numpy(only_image)))
    assert set(terms) == {"ce_image", "kd", "loss"}
    assert float(terms["kd"]) == 0
    for name in ("audio", "multimodal"):
        assert all(weight.grad is None for weight in nets[name].parameters())
    assert all(weight.grad.isfinite().all() for weight in nets["image"].parameters())


def test_a_batch_from_which_no_member_can_learn_changes_nothing():
    run, plan = incomplete_run()
    nets, stage = prepare_members(run, plan)
    one_of_each = torch.tensor([LACKING.index("audio"), LACKING.index("image")])
    terms = stage.task.descend(whole_split(run).micro_batch(one_of_each))
    assert float(terms["loss"]) == 0
    assert all(weight.grad is None for net in nets.values() for weight in net.parameters())


def test_a_mask_learns_from_the_samples_that_its_teacher_and_the_student_can_see():
    run, plan = incomplete_run()
    nets, _ = train_members(run, plan)
    _, stage = prepare_masks(run, plan, nets)
    batches = list(stage.train)
    task: Any = stage.task
    target = seen_by(run, run.target)
    assert sum(len(batch.label) for batch in batches) == len(target)
    for batch in batches:
        terms = task.losses(batch)
        for teacher, specialised in task._teachers.items():
            have = run.samples.have(modalities_of(teacher, run.modalities))
            ids = stage.train.ids(batch)
            seen = [bool(have[run.samples.index["id"] == name][0]) for name in ids]
            for layer, tail in specialised.tails.items():
                if not any(seen):
                    assert f"kd_{teacher}/{layer}" not in terms
                    continue
                values = [value[torch.tensor(seen)] for value in batch.frozen[teacher]]
                student = batch.frozen[STUDENT][0][torch.tensor(seen)]
                kd = distillation(tail(*values), student, plan.masks.temperature).mean()
                found = float(terms[f"kd_{teacher}/{layer}"].detach())
                assert found == pytest.approx(float(kd.detach()), rel=1e-11)
        assert terms["loss"].isfinite()


@pytest.mark.parametrize("settings", [{}, {"chosen": 2}, {"preset": "merit"}])
@pytest.mark.parametrize("frozen", ["cached", "online"])
def test_stage_3_selects_among_the_specialists_that_can_see_a_sample(settings, frozen):
    run, plan = incomplete_run()
    run = dataclasses.replace(run, runtime=run.runtime.model_copy(update={"frozen": frozen}))
    plan = vary(plan, route=route(**settings).model_dump())
    nets, _ = train_members(run, plan)
    masks, _ = train_masks(run, plan, nets)
    student = nets.pop(run.target)
    ensemble = assemble_ensemble(run, plan, nets, masks)
    table = tabulate_logits(run, ensemble, 8)
    assert len(table) == 0 if frozen == "online" else table.notna().all(axis=None)
    task, stage = prepare_student(run, plan, student, ensemble, table)
    task.trainable.eval()
    batches = [batch for batch in stage.train if len(batch.label) > 1]
    lone = False
    for batch in batches:
        with torch.no_grad():
            terms = task.losses(batch)
            output = task._extract(batch.inputs)
            router = task.router(output)
        specialists, seen = ensemble.logits_in(batch), ensemble.seen_in(batch)
        kd, merit, labelled = [], [], batch.label
        for row in range(len(labelled)):
            if seen is None or seen[row].all():
                can = list(range(len(ensemble.names)))
            else:
                can = seen[row].nonzero().ravel().tolist()
                assert specialists[row, ~seen[row]].isnan().all()
            if not can:
                lone = True
                continue
            quality = -F.cross_entropy(
                specialists[row, can], labelled[row].expand(len(can)), reduction="none"
            )
            target = quality.softmax(dim=0)
            merit.append(-(target * router[row].log_softmax(dim=0)[can]).sum())
            kd.append(
                _kd_by_hand(
                    task,
                    plan,
                    output.logits[row],
                    router[row],
                    specialists[row],
                    can,
                    labelled[row],
                )
            )
        expected = float(torch.stack(kd).mean()) if kd else 0.0
        assert float(terms["kd"]) == pytest.approx(expected, rel=1e-11)
        if plan.route.router == "learned":
            assert float(terms["merit"]) == pytest.approx(
                float(torch.stack(merit).mean()), rel=1e-11
            )
        assert float(terms["ce"]) == pytest.approx(
            float(F.cross_entropy(output.logits, labelled)), rel=1e-11
        )
    assert lone  # a sample with the target alone takes part in cross-entropy


def _kd_by_hand(task, plan, logits, router, specialists, can, label):
    probabilities = router.softmax(dim=0)[can]
    if plan.route.top_k is None:
        weights = probabilities / probabilities.sum()
    else:
        weights = torch.zeros(len(can))
        best = probabilities.argsort(descending=True)[: plan.route.top_k]
        weights[best] = 1 / len(best)
    if plan.route.gated:
        weights = weights * (specialists[can].argmax(dim=1) == label)
        weights = weights / weights.sum().clamp(min=1e-12)
    each = distillation(logits.expand(len(can), -1), specialists[can], plan.route.temperature)
    return (weights * each).sum()


def test_tabulated_logits_are_those_that_are_computed_online():
    run, plan = incomplete_run()
    nets, _ = train_members(run, plan)
    masks, _ = train_masks(run, plan, nets)
    nets.pop(run.target)
    ensemble = assemble_ensemble(run, plan, nets, masks)
    table = tabulate_logits(run, ensemble, 8)
    cached = logits_of_split(run, ensemble, table, "train")
    online = dataclasses.replace(run, runtime=run.runtime.model_copy(update={"frozen": "online"}))
    frozen = ensemble.frozen(apart=True)
    batches = online.batches("train", (), 5, frozen=frozen, needed=[run.target])
    computed = torch.cat([ensemble.logits_in(batch) for batch in batches])
    assert cached.isnan().equal(computed.isnan())
    torch.testing.assert_close(cached, computed, rtol=1e-11, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("kind", ["two modalities", "three modalities", "dense labels"])
def test_no_stage_reads_what_is_in_place_of_an_absent_modality(kind):
    results = []
    for content in (None, 1.0):
        run, plan = incomplete_run(kind, content)
        students = run_stages(run, plan).student.students
        results.append([*students.values(), *train_baseline(run, plan)[0].values()])
    for one, other in zip(*results, strict=True):
        assert_same_weights(one, other)
        assert all(weight.isfinite().all() for weight in one.parameters())


@pytest.mark.parametrize(
    ("name", "method", "teacher"),
    method_teacher_pairs("two modalities"),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_compared_method_reads_what_is_in_place_of_an_absent_modality(name, method, teacher):
    plan = make_comparison_plan()
    arguments = plan.compare.methods[name].arguments
    students = []
    for content in (None, 1.0):
        run, _ = incomplete_run(content=content, unlabelled=True)
        done = teach(run, plan, make_pool(run, plan), method, teacher, arguments)
        students.append(done.students["last"])
    assert_same_weights(*students)
    assert all(weight.isfinite().all() for weight in students[0].parameters())


def test_kd_is_over_the_samples_that_the_teacher_can_see_and_cross_entropy_over_all():
    from mst_distill.compare.context import TrialContext
    from mst_distill.compare.methods.kd import KD

    run, _ = incomplete_run()
    plan = make_comparison_plan()
    pool = make_pool(run, plan)
    context = TrialContext(run, plan, pool, "audio", "logits")
    task = KD(context)
    task.trainable.eval()
    train, _ = pool.batches("audio", "logits", "compare")
    used = 0
    for batch in train:
        terms = task.losses(batch)
        logits = context.student(batch.inputs).logits
        ce = F.cross_entropy(logits, batch.label)
        assert float(terms["ce"].detach()) == pytest.approx(float(ce.detach()), rel=1e-11)
        seen = batch.seen(["audio"])
        seen = torch.ones(len(batch.label), dtype=torch.bool) if seen is None else seen
        teacher = batch.frozen["teacher"][0]
        assert teacher[~seen].isnan().all()
        kd = distillation(logits[seen], teacher[seen], context.temperature).mean()
        assert float(terms["kd"].detach()) == pytest.approx(float(kd.detach()), rel=1e-11)
        used += len(batch.label)
    assert used == len(seen_by(run, "image"))


def test_a_teacher_of_the_comparison_is_the_same_for_every_target():
    run, _ = incomplete_run()
    plan = make_comparison_plan()
    from mst_distill.compare.teaching import train_teacher

    other = dataclasses.replace(run, target="audio")
    one, two = (
        train_teacher(each, plan, "multimodal").students["accuracy"] for each in (run, other)
    )
    assert_same_weights(one, two)


def test_a_pass_can_be_continued_after_any_batch():
    run, _ = incomplete_run(unlabelled=True)

    def batches():
        settings = {"shuffle": "teachers", "labelled_share": 0.5, "needed": ()}
        return run.batches("train", run.modalities, 5, **settings)

    whole = list(batches())
    for step in range(len(whole)):
        for one, other in zip(whole[step:], batches().start(step), strict=True):
            assert one.place.equal(other.place)
            assert one.present["audio"].equal(other.present["audio"])


def test_a_member_that_never_sees_two_samples_of_a_batch_is_an_error():
    run, plan = incomplete_run(content=1.0)
    absent = run.samples.index[ABSENT].to_numpy(dtype=object).copy()
    train = rows_of(run.splits, "train")
    absent[train] = [("audio", "image")[position % 2] for position in range(len(train))]
    samples = dataclasses.replace(run.samples, index=run.samples.index.assign(**{ABSENT: absent}))
    run = dataclasses.replace(run, samples=samples)
    with pytest.raises(ValueError, match=r"the member 'multimodal' can see.*teachers.batch_size"):
        train_members(run, plan)


def test_frozen_nets_are_not_called_with_absent_inputs():
    run, plan = incomplete_run()
    nets, _ = train_members(run, plan)
    freeze(nets.values())
    shown: list[Tensor] = []

    class Watching(torch.nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            shown.append(inputs)
            return nets["audio"](inputs)

    from mst_distill.training.batches import Frozen

    net = Watching()
    frozen = {"audio": Frozen(("audio",), lambda inputs: (net(inputs["audio"]),))}
    for mode in ("cached", "online"):
        of_mode = dataclasses.replace(run, runtime=run.runtime.model_copy(update={"frozen": mode}))
        found = torch.cat(
            [
                b.frozen["audio"][0]
                for b in of_mode.batches("train", ["image"], 3, frozen=frozen, needed=["image"])
            ]
        )
        have = run.samples.have(["audio"])[run.rows("train", ["image"])]
        assert (~found.isnan().any(dim=1)).tolist() == have.tolist()
    assert all(len(inputs) and inputs.isfinite().all() for inputs in shown)


def test_the_baseline_has_the_steps_of_the_student_in_both_phases():
    run, plan = incomplete_run()
    plan = vary(plan, teachers={"batch_size": 4})
    _, stage = prepare_members(run, plan)
    _, done = train_baseline(run, plan)
    steps = {"teachers": len(stage.train), "route": len(run.batches("train", ["image"], 8))}
    assert steps["teachers"] > len(run.batches("train", ["image"], 4))
    with counted_steps() as counts:
        train_baseline(run, plan)
    assert counts == {"teachers": 2 * steps["teachers"], "route": 3 * steps["route"]}
    assert done.history["train_loss"].gt(0).all()


@contextmanager
def counted_steps() -> Iterator[dict[str, int]]:
    """Count the batches from which the baseline learns, by phase."""
    counts: dict[str, int] = {}
    original = Supervised.losses

    def losses(task: Supervised, batch: Batch) -> dict[str, Tensor]:
        phase = "teachers" if batch.seen(["image"]) is not None else "route"
        counts[phase] = counts.get(phase, 0) + 1
        return original(task, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervised, "losses", losses)
        yield counts


def test_in_the_first_phase_the_baseline_learns_from_the_samples_that_have_the_target():
    run, _ = incomplete_run()
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    task = Supervised(net, "image", supervision_of(run))
    batch = whole_split(run)
    positions = seen_by(run, "image")
    logits = logits_by_hand(run, net, "image", positions)
    expected = F.cross_entropy(logits, batch.label[torch.from_numpy(positions)])
    found = task.losses(batch)["loss"]
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-11)
    lone = torch.tensor([LACKING.index("image"), LACKING.index("audio")])
    assert not task.losses(batch.micro_batch(lone))["loss"].requires_grad
