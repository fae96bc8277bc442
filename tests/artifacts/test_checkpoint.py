"""A stage that was stopped goes on to the very same weights, rows and figures."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch

from mst_distill.artifacts.checkpoint import Checkpoint, Checkpoints
from mst_distill.compare.teaching import teach
from mst_distill.mst.baseline import train_control
from mst_distill.mst.ensemble import assemble_panel, tabulate_logits
from mst_distill.mst.stage1_teachers import train_members
from mst_distill.mst.stage2_masks import train_masks
from mst_distill.mst.stage3_route import train_student
from toy_comparisons import make_pool, make_recipe, ways
from toy_runs import MASKS, TEACHERS, make_run, route


class StopError(Exception):
    """Stands for a kill."""


class Stopping(Checkpoint):
    """Saves at every step, or at every second one, and dies at one of them."""

    every = 1
    die_at = -1
    saves = 0
    steps = 0

    @property
    def due(self):
        """Whether it is time."""
        Stopping.steps += 1
        if Stopping.steps == Stopping.die_at:
            raise StopError
        return Stopping.steps % Stopping.every == 0

    def save(self, state):
        """Count it."""
        Stopping.saves += 1
        super().save(state)


@pytest.fixture
def stopping(monkeypatch):
    """Every checkpoint dies at the step that is set."""
    monkeypatch.setattr("mst_distill.artifacts.checkpoint.Checkpoint", Stopping)

    def begin(every=1, die_at=-1):
        Stopping.every, Stopping.die_at, Stopping.saves, Stopping.steps = every, die_at, 0, 0

    return begin


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
    _, members = make_run()
    nets, done = train_members(run, members, TEACHERS, MASKS)
    return nets, done.history


def stage_two(run):
    plain, members = make_run()
    nets, _ = train_members(plain, members, TEACHERS, MASKS)
    student = nets.pop(run.target)
    masks, done = train_masks(run, nets, student, members, MASKS)
    return masks, done.history


def stage_three(run):
    plain, members = make_run()
    nets, _ = train_members(plain, members, TEACHERS, MASKS)
    student = nets.pop(run.target)
    masks, _ = train_masks(plain, nets, student, members, MASKS)
    panel = assemble_panel(run, nets, masks, members)
    settings = route(chosen=2, balance="cv", early_decay=True)
    done = train_student(run, student, panel, tabulate_logits(run, panel, 8), settings)
    return done.students, done.given, done.fit.history, {"router": done.router}


def control(run):
    _, members = make_run()
    controls, done = train_control(run, members, TEACHERS, MASKS, route(learning_rate=3.0))
    rows = {rule: kept.row for rule, kept in done.kept.items()}
    assert rows["ce"]["epoch"] < TEACHERS.epochs
    return controls, rows, done.history


STAGES = {"teachers": stage_one, "masks": stage_two, "route": stage_three, "control": control}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("every", "die_at"), [(1, 1), (1, 2), (2, 4), (1, 3), (3, 5), (2, 6)])
def test_a_stage_goes_on_to_the_bit(stage, every, die_at, stopping, tmp_path):
    plain, _ = make_run()
    wanted = STAGES[stage](plain)
    run = dataclasses.replace(plain, checkpoints=Checkpoints(tmp_path, "these terms"))
    stopping(every, die_at)
    with pytest.raises(StopError):
        STAGES[stage](run)
    stopping()
    torch.manual_seed(12345)  # another process begins with other noise
    found = STAGES[stage](run)
    assert all(same(one, other) for one, other in zip(wanted, found, strict=True))


@pytest.mark.parametrize(
    ("name", "method", "teacher"),
    ways("two modalities"),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_method_goes_on_to_the_bit(name, method, teacher, stopping, tmp_path):
    plain, _ = make_run()
    recipe = make_recipe()
    arguments = recipe.compare.methods[name].arguments

    def train(run):  # another process has nothing in its pool
        return teach(run, recipe, make_pool(plain, recipe), method, teacher, arguments)

    wanted = train(plain)
    run = dataclasses.replace(plain, checkpoints=Checkpoints(tmp_path, "these terms"))
    for die_at in (2, 5, 7):
        stopping(every=2, die_at=die_at)
        with pytest.raises(StopError):
            train(run)
    stopping()
    found = train(run)
    assert same(wanted.students, found.students)
    assert same(wanted.history, found.history)
    assert wanted.student_epochs == found.student_epochs


def test_a_stage_that_is_over_is_not_trained_again(stopping, tmp_path):
    plain, _ = make_run()
    run = dataclasses.replace(plain, checkpoints=Checkpoints(tmp_path, "these terms"))
    stopping(every=100)
    first = stage_one(run)
    assert Stopping.saves == 1
    stopping(every=100)
    assert all(same(one, other) for one, other in zip(first, stage_one(run), strict=True))
    assert (Stopping.steps, Stopping.saves) == (0, 0)


def test_on_other_terms_a_stage_begins_anew(stopping, tmp_path):
    plain, _ = make_run()
    run = dataclasses.replace(plain, checkpoints=Checkpoints(tmp_path, "these terms"))
    stopping(every=100)
    stage_one(run)
    steps = Stopping.steps
    stopping(every=100)
    stage_one(dataclasses.replace(plain, checkpoints=Checkpoints(tmp_path, "others")))
    assert Stopping.steps == steps


def test_a_damaged_checkpoint_is_named(tmp_path):
    checkpoint = Checkpoints(tmp_path, "these terms").of("stage 1")
    checkpoint.save({"a": torch.ones(3)})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match=f"{file} is no whole checkpoint"):
        checkpoint.load()


def test_any_flipped_bit_of_a_checkpoint_is_seen(tmp_path):
    checkpoint = Checkpoints(tmp_path, "these terms").of("stage 1")
    state = {"a": torch.arange(3.0)}
    checkpoint.save(state)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 5):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="is no whole checkpoint, or is damaged"):
            checkpoint.load()
    file.write_bytes(whole)
    assert same(checkpoint.load(), state)


def test_checkpoints_take_a_twentieth_of_the_time(tmp_path, monkeypatch):
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


def test_all_is_cleared_at_once(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.clear()
    checkpoints.on("x", "below").of("a").save({})
    checkpoints.clear()
    assert not (tmp_path / "run").exists()
