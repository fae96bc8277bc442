"""A path equals stage 3 with a router that always selects the same source."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.diagnose.paths import SOURCE, FixedPath, train_paths
from mst_distill.mst import stage3_route as routing
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.supervision import Supervision
from mst_distill.training.batches import Batch
from toy_diagnoses import finished
from toy_runs import KINDS, route

pytestmark = pytest.mark.usefixtures("float64")


def trained(toy, settings, sources=None, table=None, run=None):
    return train_paths(
        run or toy.run,
        toy.initial_student,
        toy.sources if sources is None else sources,
        toy.ensemble,
        toy.table if table is None else table,
        settings,
        labelled_per_batch=0.5,
    )


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Always(nn.Module):
    """A router that selects the same specialist for every sample."""

    def __init__(self, specialists: int, index: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(10.0 * F.one_hot(torch.tensor(index), specialists))

    def forward(self, student: ModelOutput) -> torch.Tensor:
        return self.bias.expand(len(student.logits), -1)


@pytest.mark.parametrize(("selection", "gated"), [("metric", False), ("last", True)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_path_equals_stage_3_with_a_constant_router(kind, selection, gated, monkeypatch):
    toy = finished(kind)
    settings = route(selection=selection, gated=gated, balance_weight=0, early_decay=True, epochs=4)
    index = 1
    monkeypatch.setattr(routing, "build_router", lambda *args: Always(args[-1], index))
    student = copy.deepcopy(toy.initial_student)
    plan = toy.plan.model_copy(update={"route": settings})
    expected = routing.train_student(toy.run, plan, student, toy.ensemble, toy.table)
    source = next(source for source in toy.sources if source.title == toy.ensemble.names[index])
    path = trained(toy, settings, [source])[source.title]
    assert path.row["epoch"] == expected.fit.best[plan.selection].row["epoch"]
    for name, value in path.student.state_dict().items():
        torch.testing.assert_close(value, expected.students[plan.selection].state_dict()[name])


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_has_a_path_and_the_given_student_is_not_changed(kind):
    toy = finished(kind)
    before = copy.deepcopy(toy.initial_student)
    paths = trained(toy, route(epochs=1))
    assert list(paths) == [source.title for source in toy.sources]
    assert same(toy.initial_student, before)
    students = [path.student for path in paths.values()]
    assert not any(same(students[0], other) for other in students[1:])
    assert not any(student.training for student in students)


def test_without_distillation_all_paths_are_equal():
    toy = finished("two modalities")
    first, *others = trained(toy, route(kd_weight=0)).values()
    assert all(same(first.student, other.student) for other in others)


def test_tabulated_and_computed_logits_give_the_same_paths():
    toy = finished("two modalities")
    sources = toy.sources[-2:]
    tabulated = trained(toy, route(), sources)
    computed = trained(toy, route(), sources, toy.table.iloc[:0])
    for title, path in tabulated.items():
        for name, value in path.student.state_dict().items():
            torch.testing.assert_close(value, computed[title].student.state_dict()[name])


def test_the_loss_by_hand():
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    task = FixedPath(
        net, "text", ["text"], route(task_weight=0.7, kd_weight=0.4, temperature=2.0), Supervision()
    )
    x, source_logits, label = torch.randn(5, 4), torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    terms = task.losses(Batch({"text": x}, label, {SOURCE: (source_logits,)}))
    p, q = (source_logits / 2).softmax(1), (net(x) / 2).softmax(1)
    kd = 4 * (p * (p / q).log()).sum(1).mean()
    ce = -net(x).log_softmax(1)[range(5), label].mean()
    torch.testing.assert_close(terms["kd"], kd)
    torch.testing.assert_close(terms["ce"], ce)
    torch.testing.assert_close(terms["loss"], 0.7 * ce + 0.4 * kd)


def test_the_weight_of_distillation_decays_and_is_part_of_the_state():
    task = FixedPath(nn.Linear(1, 1), "text", ["text"], route(), Supervision())
    for epoch in range(30):
        assert task.weights.kd == 1
        task.end_epoch(epoch)
    other = FixedPath(nn.Linear(1, 1), "text", ["text"], route(), Supervision())
    other.load_state(task.state())
    assert other.weights.kd == 0.5


def test_a_completed_path_is_not_trained_again(tmp_path, monkeypatch):
    toy = finished("two modalities")
    run = copy.copy(toy.run)
    object.__setattr__(run, "checkpoints", Checkpoints(tmp_path, "origin"))
    source = toy.sources[:1]
    first = trained(toy, route(), source, run=run)
    monkeypatch.setattr(FixedPath, "losses", None)
    again = trained(toy, route(), source, run=run)
    assert same(*(paths[source[0].title].student for paths in (first, again)))
