"""Training samples without a label: what learns from them, and what does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mst_distill.compare.context import TrialContext
from mst_distill.compare.teaching import resolve_methods, teach
from mst_distill.data.samples import LABELLED, UNLABELLED, rows_of
from mst_distill.mst.baseline import train_baseline
from mst_distill.mst.ensemble import assemble_ensemble, tabulate_logits
from mst_distill.mst.gating import is_correct
from mst_distill.mst.losses import cross_entropy, distillation, without_label
from mst_distill.mst.run_stages import run_stages
from mst_distill.mst.stage1_teachers import Collaboration, prepare_members, train_members
from mst_distill.mst.stage2_masks import train_masks
from mst_distill.mst.stage3_route import prepare_student
from mst_distill.plan import Plan
from mst_distill.training.batches import Batch
from mst_distill.training.run import Run
from toy_comparisons import make_comparison_plan, make_pool, method_teacher_pairs
from toy_runs import make_run, vary
from toys import assert_same_weights

pytestmark = pytest.mark.usefixtures("float64")

KEPT = 7
"""The number of training samples that keep their labels; at least two of each class."""


def hidden_run(kind: str = "two modalities", kept: int = KEPT) -> tuple[Run, Plan]:
    """A run that hides the labels of all but the first few training samples."""
    run, plan = make_run(kind)
    train = rows_of(run.splits, "train")
    labelled = np.ones(len(run.splits), dtype=bool)
    labelled[train[kept:]] = False
    splits = run.splits.assign(**{LABELLED: labelled})
    return dataclasses.replace(run, splits=splits), plan


def whole_split(run: Run, modalities=None) -> Batch:
    """The training split as one batch, in store order."""
    size = len(rows_of(run.splits, "train"))
    (batch,) = run.batches("train", modalities or run.modalities, size)
    return batch


@pytest.mark.parametrize("kind", ["two modalities", "dense labels"])
def test_hidden_labels_are_the_ignored_label_in_every_batch(kind):
    run, _ = hidden_run(kind)
    batch = whole_split(run)
    assert run.ignored == (UNLABELLED if kind == "two modalities" else 0)
    true = run.samples.labels[rows_of(run.splits, "train")]
    np.testing.assert_array_equal(batch.label[:KEPT].numpy(), true[:KEPT])
    assert (batch.label[KEPT:] == run.ignored).all()
    assert without_label(batch.label, run.ignored).tolist() == [False] * KEPT + [True] * (
        len(true) - KEPT
    )


def test_labels_that_the_source_does_not_know_are_hidden_too():
    run, _ = make_run()
    rows = rows_of(run.splits, "train")[KEPT:]
    labels = run.samples.labels.copy()
    labels[rows] = UNLABELLED
    index = run.samples.index.assign(label=labels)
    samples = dataclasses.replace(run.samples, index=index, labels=labels)
    unknown = dataclasses.replace(run, samples=samples, splits=run.splits.assign(label=labels))
    hidden, _ = hidden_run()
    assert whole_split(unknown).label.equal(whole_split(hidden).label)
    assert unknown.ignored == hidden.ignored


def test_without_hidden_labels_nothing_is_ignored():
    run, _ = make_run()
    assert run.unlabelled is None
    assert run.ignored is None


def test_held_out_samples_whose_label_is_hidden_are_left_out():
    run, _ = make_run()
    valid = rows_of(run.splits, "valid")
    labelled = np.ones(len(run.splits), dtype=bool)
    labelled[valid[2:]] = False
    fewer = dataclasses.replace(run, splits=run.splits.assign(**{LABELLED: labelled}))
    assert rows_of(fewer.splits, "valid").tolist() == valid[:2].tolist()
    plain = run.batches("train", ["image"], 5, shuffle="route")
    same = fewer.batches("train", ["image"], 5, shuffle="route", labelled_share=0.5)
    for one, other in zip(plain, same, strict=True):
        assert one.label.equal(other.label)


def test_stage_1_has_cross_entropy_over_the_labelled_and_kd_over_all_samples():
    run, plan = hidden_run()
    _, stage = prepare_members(run, plan)
    batch = whole_split(run)
    task: Any = stage.task
    task.trainable.eval()
    terms = task.losses(batch)
    logits = {name: of for name, (of, _) in task._logits(batch).items()}
    true = torch.from_numpy(run.samples.labels[rows_of(run.splits, "train")])
    for name, of in logits.items():
        by_hand = -of.log_softmax(dim=1)[range(KEPT), true[:KEPT]].mean()
        found = float(terms[f"ce_{name}"].detach())
        assert found == pytest.approx(float(by_hand.detach()), rel=1e-12)
    pairs = [(a, b) for a in logits for b in logits if a != b]
    kd = sum(distillation(logits[a], logits[b], plan.teachers.temperature).mean() for a, b in pairs)
    assert float(terms["kd"].detach()) == pytest.approx(float(kd.detach()), rel=1e-12)


def test_cross_entropy_has_no_gradient_where_there_is_no_label():
    logits = torch.randn(5, 3, requires_grad=True)
    label = torch.tensor([0, -1, 2, -1, 1])
    cross_entropy(logits, label, UNLABELLED).backward()
    assert (logits.grad[[1, 3]] == 0).all()
    assert (logits.grad[[0, 2, 4]] != 0).all()
    again = torch.randn(5, 3, requires_grad=True)
    loss = cross_entropy(again, torch.full((5,), -1), UNLABELLED)
    (gradient,) = torch.autograd.grad(loss, again)
    assert float(loss.detach()) == 0
    assert (gradient == 0).all()


def test_a_batch_without_any_label_is_finite_in_stage_1():
    run, plan = hidden_run()
    nets, stage = prepare_members(run, plan)
    batch = whole_split(run).micro_batch(torch.arange(KEPT, KEPT + 5))
    task: Collaboration = stage.task
    terms = task.losses(batch)
    assert all(float(terms[f"ce_{name}"].detach()) == 0 for name in nets)
    terms["loss"].backward()
    assert all(weight.grad.isfinite().all() for weight in task.trainable.parameters())


@pytest.mark.parametrize("settings", [{}, {"preset": "merit"}])
def test_stage_3_distils_all_samples_and_learns_its_router_from_the_labelled(settings):
    run, plan = hidden_run()
    plan = vary(plan, route={**type(plan.route)(**{**dict(plan.route), **settings}).model_dump()})
    nets, _ = train_members(run, plan)
    masks, _ = train_masks(run, plan, nets)
    student = nets.pop(run.target)
    ensemble = assemble_ensemble(run, plan, nets, masks)
    table = tabulate_logits(run, ensemble, 8)
    task, _ = prepare_student(run, plan, student, ensemble, table)
    (batch,) = run.batches(
        "train", [run.target], 1000, tables={"specialists": _specialists(run, ensemble, table)}
    )
    task.trainable.eval()
    (specialists,) = batch.frozen["specialists"]
    with torch.no_grad():
        terms = task.losses(batch)
        output = task._extract(batch.inputs)
        router = task.router(output)
    true = torch.from_numpy(run.samples.labels[rows_of(run.splits, "train")])
    ce = F.cross_entropy(output.logits[:KEPT], true[:KEPT])
    assert float(terms["ce"]) == pytest.approx(float(ce), rel=1e-12)
    routing = task.weigh(router.softmax(dim=1))
    weights = routing.weights.clone()
    if plan.route.gated:
        correct = specialists.argmax(dim=2) == true[:, None]
        correct[KEPT:] = True  # nobody is known to be wrong
        weights = weights * correct.gather(1, routing.specialists)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
    kd = torch.stack(
        [
            distillation(
                output.logits,
                specialists[torch.arange(len(true)), routing.specialists[:, e]],
                plan.route.temperature,
            )
            * weights[:, e]
            for e in range(weights.shape[1])
        ]
    )
    assert float(terms["kd"]) == pytest.approx(float(kd.sum(dim=0).mean()), rel=1e-12)
    if plan.route.router == "learned":
        each = F.cross_entropy(
            specialists[:KEPT].flatten(0, 1),
            true[:KEPT].repeat_interleave(specialists.shape[1]),
            reduction="none",
        ).view(KEPT, -1)
        target = (-each).softmax(dim=1)
        merit = -(target * router[:KEPT].log_softmax(dim=1)).sum(dim=1).mean()
        assert float(terms["merit"]) == pytest.approx(float(merit), rel=1e-12)
    task.end_epoch(0)
    assert float(task.load[0].sum()) == pytest.approx(float(weights[:KEPT].sum()))


def _specialists(run, ensemble, table):
    from mst_distill.mst.ensemble import logits_of_split

    return logits_of_split(run, ensemble, table, "train").double()


def test_on_pixels_of_an_unlabelled_sample_no_specialist_is_wrong():
    specialists = torch.zeros(2, 3, 4, 1, 2)
    specialists[:, 0, 1] = 1  # the first predicts class 1, the others class 0
    label = torch.tensor([[[1, 9]], [[9, 9]]])
    found = is_correct(specialists, label, 9)
    assert found[0, :, 0].tolist() == [[True, False], [False, False], [False, False]]
    assert found[1].all()


def test_the_hidden_labels_change_nothing():
    """Whatever the labels are that a run must not use, its results are equal to the bit."""
    run, plan = hidden_run()
    rng = np.random.default_rng(0)
    labels = run.samples.labels.copy()
    hidden = run.unlabelled
    labels[hidden] = rng.permutation(labels[hidden])
    index = run.samples.index.assign(label=labels)
    samples = dataclasses.replace(run.samples, index=index, labels=labels)
    other = dataclasses.replace(run, samples=samples, splits=run.splits.assign(label=labels))
    for results in zip(
        run_stages(run, plan).student.students.values(),
        run_stages(other, plan).student.students.values(),
        strict=True,
    ):
        assert_same_weights(*results)
    for results in zip(
        train_baseline(run, plan)[0].values(), train_baseline(other, plan)[0].values(), strict=True
    ):
        assert_same_weights(*results)


@pytest.mark.parametrize(
    ("name", "method", "teacher"),
    method_teacher_pairs("two modalities"),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_compared_method_sees_a_hidden_label(name, method, teacher):
    run, _ = hidden_run()
    labels = run.samples.labels.copy()
    labels[run.unlabelled] = (labels[run.unlabelled] + 1) % 3
    index = run.samples.index.assign(label=labels)
    samples = dataclasses.replace(run.samples, index=index, labels=labels)
    other = dataclasses.replace(run, samples=samples, splits=run.splits.assign(label=labels))
    plan = make_comparison_plan()
    arguments = plan.compare.methods[name].arguments
    students = [
        teach(each, plan, make_pool(each, plan), method, teacher, arguments).students["last"]
        for each in (run, other)
    ]
    assert_same_weights(*students)


def test_methods_that_need_labels_train_on_labelled_samples_alone():
    run, _ = hidden_run()
    plan = make_comparison_plan()
    pool = make_pool(run, plan)
    methods = resolve_methods(plan.compare)
    needing = {name for name, method in methods.items() if method.needs_labels}
    assert needing == {"baseline", "label_smoothing", "c2kd", "crd", "dkd", "ofa"}
    train, _ = pool.batches("multimodal", "logits", "compare", labelled_share=1)
    assert all((batch.label >= 0).all() for batch in train)
    assert len(train) == 3  # as many steps as with all 24 samples


def test_methods_that_need_no_labels_are_finite_on_a_batch_without_any():
    run, _ = hidden_run()
    plan = make_comparison_plan()
    pool = make_pool(run, plan)
    for name, method in resolve_methods(plan.compare).items():
        if method.needs_labels or name.startswith("mst"):
            continue
        context = TrialContext(run, plan, pool, "multimodal", method.teacher_inputs)
        task = method(context)
        train, _ = pool.batches("multimodal", method.teacher_inputs, "compare")
        (batch, *_) = train
        nothing = dataclasses.replace(batch, label=torch.full_like(batch.label, UNLABELLED))
        loss = task.losses(nothing)["loss"]
        loss.backward()
        gradients = [w.grad for w in task.trainable.parameters() if w.grad is not None]
        assert loss.isfinite(), name
        assert all(gradient.isfinite().all() for gradient in gradients), name
