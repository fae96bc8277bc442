"""A stopped stage continues to exactly the same weights, rows and metrics."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch

from mst_distill.artifacts.checkpoint import Checkpoint, Checkpoints
from mst_distill.compare.teaching import teach
from mst_distill.mst.baseline import train_baseline
from mst_distill.mst.ensemble import assemble_ensemble, tabulate_logits
from mst_distill.mst.stage1_teachers import train_members
from mst_distill.mst.stage2_masks import train_masks
from mst_distill.mst.stage3_route import train_student
from mst_distill.parameters import TrainingRecipe
from toy_comparisons import make_comparison_plan, make_pool, method_teacher_pairs
from toy_runs import TEACHERS, make_plan, make_run, vary


class StopError(Exception):
    """Stands for a signal that kills the process."""


class Stopping(Checkpoint):
    """Saves at every `every`-th step, and stops the training at the step `stop_at`."""

    every = 1
    stop_at = -1
    saves = 0
    steps = 0

    @property
    def due(self):
        """Whether to save at this step."""
        Stopping.steps += 1
        if Stopping.steps == Stopping.stop_at:
            raise StopError
        return Stopping.steps % Stopping.every == 0

    def save(self, state):
        """Save and count."""
        Stopping.saves += 1
        super().save(state)


@pytest.fixture
def stopping(monkeypatch):
    """Replace checkpoints by `Stopping`, and return a function that sets when they stop."""
    monkeypatch.setattr("mst_distill.artifacts.checkpoint.Checkpoint", Stopping)

    def configure(every=1, stop_at=-1):
        Stopping.every, Stopping.stop_at, Stopping.saves, Stopping.steps = every, stop_at, 0, 0

    return configure


def same(one, other):
    if isinstance(one, torch.nn.Module):
        one, other = one.state_dict(), other.state_dict()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, torch.Tensor):
        return one.equal(other)
    if isinstance(one, pd.DataFrame):
        return one.equals(other)
    return one == other


def stage_one(run):
    nets, done = train_members(run, make_plan())
    return nets, done.history


def stage_two(run):
    plain, plan = make_run()
    nets, _ = train_members(plain, plan)
    masks, done = train_masks(run, plan, nets)
    return masks, done.history


def stage_three(run):
    plain, plan = make_run()
    nets, _ = train_members(plain, plan)
    masks, _ = train_masks(plain, plan, nets)
    ensemble = assemble_ensemble(run, plan, nets, masks)
    plan = vary(plan, route={"chosen": 2, "balance": "cv", "early_decay": True})
    table = tabulate_logits(run, ensemble, 8)
    done = train_student(run, plan, nets[run.target], ensemble, table)
    return done.students, done.load, done.fit.history, {"router": done.router}


def baseline(run):
    plan = vary(make_plan(), route={"learning_rate": 3.0})
    baselines, done = train_baseline(run, plan)
    rows = {criterion: epoch.row for criterion, epoch in done.best.items()}
    if run.recipe == TrainingRecipe():
        assert rows["ce"]["epoch"] < TEACHERS.epochs
    return baselines, rows, done.history


RECIPES = {
    "published": TrainingRecipe(),
    "all options": TrainingRecipe(
        preset="strong",
        gradient_clip=0.5,
        label_smoothing=0.1,
        class_weights="balanced",
        views=2,
        transforms={"image": ["toy_transforms.Noise"], "audio": ["toy_transforms.Noise"]},
    ),
}
STAGES = {"teachers": stage_one, "masks": stage_two, "route": stage_three, "baseline": baseline}


STOPS = [(1, 1), (1, 2), (2, 4), (1, 3), (3, 5), (2, 6)]
STOPS_OF_ALL_OPTIONS = [(1, 2), (2, 4), (1, 5)]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("recipe", "every", "stop_at"),
    [
        *(("published", *stop) for stop in STOPS),
        *(("all options", *stop) for stop in [(1, 2), (2, 4), (1, 5)]),
    ],
)
def test_a_stopped_stage_continues_to_identical_results(
    stage, every, stop_at, recipe, stopping, tmp_path
):
    plain = dataclasses.replace(make_run()[0], recipe=RECIPES[recipe])
    expected = STAGES[stage](plain)
    run = dataclasses.replace(plain, checkpoints=Checkpoints(tmp_path, "this origin"))
    stopping(every, stop_at)
    with pytest.raises(StopError):
        STAGES[stage](run)
    stopping()
    torch.manual_seed(12345)  # a new process has another random state
    found = STAGES[stage](run)
    assert all(same(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("name", "method", "teacher"),
    method_teacher_pairs("two modalities"),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_stopped_method_continues_to_identical_results(
    name, method, teacher, stopping, tmp_path
):
    plain, _ = make_run()
    plan = make_comparison_plan()
    arguments = plan.compare.methods[name].arguments

    def train(run):  # a new process has an empty pool
        return teach(run, plan, make_pool(plain, plan), method, teacher, arguments)

    expected = train(plain)
    run = dataclasses.replace(plain, checkpoints=Checkpoints(tmp_path, "this origin"))
    for stop_at in (2, 5, 7):
        stopping(every=2, stop_at=stop_at)
        with pytest.raises(StopError):
            train(run)
    stopping()
    found = train(run)
    assert same(expected.students, found.students)
    assert same(expected.history, found.history)
    assert expected.student_epochs == found.student_epochs


def test_a_finished_stage_is_not_trained_again(stopping, tmp_path):
    plain, _ = make_run()
    run = dataclasses.replace(plain, checkpoints=Checkpoints(tmp_path, "this origin"))
    stopping(every=100)
    first = stage_one(run)
    assert Stopping.saves == 1
    stopping(every=100)
    assert all(same(one, other) for one, other in zip(first, stage_one(run), strict=True))
    assert (Stopping.steps, Stopping.saves) == (0, 0)


def test_a_stage_of_another_origin_starts_again(stopping, tmp_path):
    plain, _ = make_run()
    run = dataclasses.replace(plain, checkpoints=Checkpoints(tmp_path, "this origin"))
    stopping(every=100)
    stage_one(run)
    steps = Stopping.steps
    stopping(every=100)
    stage_one(dataclasses.replace(plain, checkpoints=Checkpoints(tmp_path, "another origin")))
    assert Stopping.steps == steps


def test_a_damaged_checkpoint_is_named(tmp_path):
    checkpoint = Checkpoints(tmp_path, "this origin").of("stage 1")
    checkpoint.save({"a": torch.ones(3)})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match=f"{file} is an incomplete or damaged checkpoint"):
        checkpoint.load()


def test_any_flipped_bit_of_a_checkpoint_is_detected(tmp_path):
    checkpoint = Checkpoints(tmp_path, "this origin").of("stage 1")
    state = {"a": torch.arange(3.0)}
    checkpoint.save(state)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 5):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="is an incomplete or damaged checkpoint"):
            checkpoint.load()
    file.write_bytes(whole)
    assert same(checkpoint.load(), state)


def test_checkpoints_take_at_most_a_twentieth_of_the_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    checkpoint = Checkpoints(tmp_path).of("a")
    assert not checkpoint.due
    now[0] = 1.1
    assert checkpoint.due
    torch_save = torch.save

    def slow(*arguments):
        now[0] += 3
        torch_save(*arguments)

    monkeypatch.setattr("torch.save", slow)
    checkpoint.save({})
    now[0] += 59
    assert not checkpoint.due
    now[0] += 2
    assert checkpoint.due


def test_all_checkpoints_are_removed_at_once(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.clear()
    checkpoints.on("x", "below").of("a").save({})
    checkpoints.clear()
    assert not (tmp_path / "run").exists()
