"""Batches that are too much for a GPU's memory, which is faked: nets refuse many samples."""

from __future__ import annotations

import dataclasses
import logging

import pandas as pd
import pytest
import torch

from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.mst.baseline import train_control
from mst_distill.mst.ensemble import assemble_panel, tabulate_logits
from mst_distill.mst.stage1_teachers import train_members
from mst_distill.mst.stage2_masks import train_masks
from mst_distill.mst.stage3_route import train_student
from mst_distill.parameters import Members
from mst_distill.training.micro_batches import Parts
from toy_runs import MASKS, TEACHERS, fusion, make_run, route
from toys import make_samples

pytestmark = pytest.mark.usefixtures("float64")

NET = {"type": "toy_nets.Audio", "masked_layers": ["first", "second"]}
MEMBERS = Members.model_validate(
    {
        "multimodal": fusion({"image": 416, "audio": 416}),
        "modalities": {"image": NET, "audio": NET},
    }
)
"""Nets without batch statistics: what is a mean over samples is one over parts."""


GIVEN: list[float] = []
"""How much specialists were heard, in all, by the runs of stage 3."""


def run_without_statistics(**runtime):
    run, _ = make_run(**runtime)
    samples, splits = make_samples(40, {"image": (1, 26, 16), "audio": (13, 32)})
    return dataclasses.replace(run, samples=samples, splits=splits)


@pytest.fixture
def room():
    """Lets every module take so many samples and no more; what they took is in a list."""
    hooks = []

    def limit(most, without_gradient=False):
        taken = []

        def refuse(_module, inputs):
            taking = inputs and isinstance(inputs[0], torch.Tensor)
            if not taking or not (torch.is_grad_enabled() or without_gradient):
                return
            if len(inputs[0]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            taken.append(len(inputs[0]))

        hooks.append(torch.nn.modules.module.register_module_forward_pre_hook(refuse))
        return taken

    yield limit
    for hook in hooks:
        hook.remove()


def stage_one(run):
    _, done = train_members(run, MEMBERS, TEACHERS, MASKS)
    return done.history


def stage_two(run):
    plain = run_without_statistics()
    nets, _ = train_members(plain, MEMBERS, TEACHERS.model_copy(update={"epochs": 1}), MASKS)
    student = nets.pop(run.target)
    _, done = train_masks(run, nets, student, MEMBERS, MASKS)
    return done.history


def stage_three(run):
    plain = run_without_statistics()
    nets, _ = train_members(plain, MEMBERS, TEACHERS.model_copy(update={"epochs": 1}), MASKS)
    student = nets.pop(run.target)
    masks, _ = train_masks(plain, nets, student, MEMBERS, MASKS)
    panel = assemble_panel(run, nets, masks, MEMBERS)
    settings = route(balance_weight=0.0, epochs=2)
    done = train_student(run, student, panel, tabulate_logits(run, panel, 8), settings)
    GIVEN.append(done.given["samples"].sum())
    return done.fit.history.drop(columns="train_balance")


def control(run):
    return train_control(run, MEMBERS, TEACHERS, MASKS, route())[1].history


STAGES = {"teachers": stage_one, "masks": stage_two, "route": stage_three, "control": control}


@pytest.mark.parametrize("stage", STAGES)
def test_in_parts_a_stage_ends_as_with_whole_batches(stage, room, caplog):
    run = run_without_statistics()
    wanted = STAGES[stage](run)
    taken = room(3)
    with caplog.at_level(logging.WARNING, "mst_distill"):
        found = STAGES[stage](run)
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-9)
    assert max(taken) == 3
    if stage == "route":
        assert GIVEN[-1] == GIVEN[-2]  # what the failed attempts noted is taken back
    said = [record.getMessage() for record in caplog.records]
    assert any(f"stage '{stage}" in line or "stage 'control" in line for line in said)
    assert any("8 samples at once are too much" in line for line in said)
    assert any("4 samples at once are too much" in line for line in said)


def test_frozen_nets_are_asked_in_parts_too(room):
    run = run_without_statistics(frozen="online")
    wanted = stage_two(run)
    room(4, without_gradient=True)
    pd.testing.assert_frame_equal(stage_two(run), wanted, rtol=1e-9)


def test_the_size_that_was_found_is_kept_and_goes_on_after_a_stop(room, caplog, tmp_path):
    run = dataclasses.replace(
        run_without_statistics(), checkpoints=Checkpoints(tmp_path, "these terms")
    )
    room(4)
    with caplog.at_level(logging.WARNING, "mst_distill"):
        control(run)
    assert len(caplog.records) == 2  # once a phase, in whatever epoch
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mst_distill"):
        control(run)
    assert not caplog.records


def test_when_a_few_samples_are_too_much_the_error_names_the_stage(room):
    room(2)
    with pytest.raises(torch.OutOfMemoryError, match=r"stage 'teachers': a part of 3 samples"):
        stage_one(run_without_statistics())


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(8, 8, [8]), (8, 4, [4, 4]), (7, 4, [4, 3]), (7, 3, [3, 2, 2]), (2, 3, [2]), (1, 3, [1])],
)
def test_parts_are_even_and_none_is_a_single_one_of_several(count, most, sizes):
    parts = Parts("something")
    undone = []

    def work(places):
        if len(places) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return places.tolist()

    found = parts.each(count, work, lambda: undone.append(True))
    assert [len(part) for part in found] == sizes
    assert [place for part in found for place in part] == list(range(count))
    assert len(undone) == {8: 0, 4: 1, 3: 2}[most] * (count > 3)
