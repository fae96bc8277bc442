"""What a student costs: multiply-adds counted by hand, the exported file, and the budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mst_distill.deploy.costs import check_budget, costs_of, multiply_adds
from mst_distill.deploy.export import save_onnx
from mst_distill.parameters import Budget, Member
from mst_distill.pipelines.student_costs import measure_students, untrained_export
from toy_nets import Dense, Image, Small
from toy_runs import make_run, vary

COSTS = {"parameters": 275, "multiply_adds": 268, "bytes": 2_500_000, "milliseconds": 4.0}


def test_multiply_adds_are_those_counted_by_hand():
    # conv: 8 channels x 64 positions x 9 weights; second: 512 x 12; last: 12 x 3
    assert multiply_adds(Image(3), (1, 8, 8)) == 8 * 64 * 9 + 512 * 12 + 12 * 3
    assert multiply_adds(Small(3, width=5), (1, 8, 8)) == 64 * 5 + 5 * 3


def test_counting_leaves_the_net_as_it_is():
    net = Image(3).train()
    before = {name: of.clone() for name, of in net.state_dict().items()}
    multiply_adds(net, (1, 8, 8))
    assert net.training
    assert all(of.equal(before[name]) for name, of in net.state_dict().items())


def test_the_file_is_the_one_that_is_exported(tmp_path: Path):
    run, plan = make_run()
    export = untrained_export(run.samples, plan)
    save_onnx(export, tmp_path / "student.onnx")
    costs = costs_of(export)
    assert costs["bytes"] == (tmp_path / "student.onnx").stat().st_size
    assert costs["parameters"] == sum(of.numel() for of in Image(3).parameters())
    assert costs["multiply_adds"] == multiply_adds(Image(3), (1, 8, 8))
    assert 0 < costs["milliseconds"] <= costs["milliseconds_p95"]
    assert 0 < costs["milliseconds_of_32"] <= costs["milliseconds_of_32_p95"]


def test_a_net_with_a_label_for_every_pixel_has_costs():
    run, plan = make_run("dense labels")
    costs = costs_of(untrained_export(run.samples, plan))
    assert costs["multiply_adds"] == multiply_adds(Dense(3, channels=3), (3, 8, 8))
    assert costs["milliseconds"] > 0
    assert np.isnan(costs["milliseconds_of_32"])


def test_without_students_of_other_sizes_nothing_is_measured():
    run, plan = make_run()
    assert not len(measure_students(run.samples, plan))


@pytest.mark.parametrize("lazy", [False, True])
def test_measuring_draws_no_random_number(lazy):
    run, plan = make_run()
    if lazy:
        net = Member(type="mst_distill.nets.simple.MapNet")
        members = plan.members.model_copy(
            update={"modalities": {**plan.members.modalities, "image": net}}
        )
        plan = plan.model_copy(update={"members": members})
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    untrained_export(run.samples, plan)
    assert torch.rand(1).equal(expected)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            {"milliseconds": 3},
            "'small' needs 4 milliseconds for a sample .* budget.milliseconds is 3",
        ),
        ({"megabytes": 2}, r"needs 2.5 megabytes as ONNX, and budget.megabytes is 2: choose"),
    ],
)
def test_a_student_above_the_budget_is_rejected_with_the_measured_value(budget, message):
    with pytest.raises(ValueError, match=message):
        check_budget("small", COSTS, Budget(**budget))


def test_a_student_within_the_budget_passes():
    check_budget("small", COSTS, Budget(milliseconds=4, megabytes=2.5))
    check_budget("small", COSTS, Budget())
    assert not Budget().is_set
    assert vary(make_run()[1], budget={"megabytes": 1.0}).budget.is_set
