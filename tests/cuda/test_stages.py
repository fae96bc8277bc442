"""The three stages and the baseline on a simulated GPU: the metrics of the CPU, and no host waits.

A wait leaves the GPU idle, and a step that waits cannot be captured in a CUDA graph.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd
import pytest

from gpu_steps import recorded_steps
from mst_distill.mst.baseline import train_baseline
from mst_distill.mst.ensemble import assemble_ensemble, tabulate_logits
from mst_distill.mst.networks import build_members
from mst_distill.mst.stage1_teachers import train_members
from mst_distill.mst.stage2_masks import train_masks
from mst_distill.mst.stage3_route import train_student
from mst_distill.parameters import TrainingRecipe
from mst_distill.plan import Plan
from mst_distill.training import batches
from mst_distill.training.run import Run
from toy_runs import KINDS, make_run, route, vary

ROUTES: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"preset": "paper"},
    "reference": {"preset": "reference"},
    "merit": {"preset": "merit"},
    "uniform": {"preset": "merit", "router": "uniform"},
    "balance by variation": {"balance": "cv"},
}


def short_run(kind: str = "two modalities", **runtime: Any) -> tuple[Run, Plan]:
    """A run with one epoch in each stage."""
    run, plan = make_run(kind, **runtime)
    return run, vary(plan, teachers={"epochs": 1}, masks={"epochs": 1}, route={"epochs": 1})


def histories(run: Run, plan: Plan) -> dict[str, pd.DataFrame]:
    """The history of each stage, and of the baseline."""
    nets, first = train_members(run, plan)
    masks, second = train_masks(run, plan, nets)
    student = nets.pop(run.target)
    ensemble = assemble_ensemble(run, plan, nets, masks)
    table = tabulate_logits(run, ensemble, 8)
    third = train_student(run, plan, student, ensemble, table)
    _, baseline = train_baseline(run, plan)
    return {
        "teachers": first.history,
        "masks": second.history,
        "route": third.fit.history,
        "baseline": baseline.history,
    }


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_histories_are_those_of_a_cpu_and_no_step_waits(kind: str, device: str) -> None:
    expected = histories(*short_run(kind))
    with recorded_steps() as recorded:
        found = histories(*short_run(kind, device=device))
        used, unused = (0, 1) if device == "cuda" else (1, 0)
        assert recorded.gpu.peak[used] > 0
        assert recorded.gpu.peak[unused] == 0
    for stage, history in expected.items():
        pd.testing.assert_frame_equal(found[stage], history, rtol=1e-4, atol=1e-6)
    assert not recorded.waits


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_of_a_stage_waits_in_bfloat16(kind: str) -> None:
    with recorded_steps() as recorded:
        histories(*short_run(kind, device="cuda", precision="bfloat16"))
    assert not recorded.waits


@pytest.mark.parametrize("kind", ["two modalities", "dense labels"])
@pytest.mark.parametrize("name", ROUTES)
def test_no_step_of_stage_3_waits_with_any_router(name: str, kind: str) -> None:
    with recorded_steps() as recorded:
        run, plan = short_run(kind, device="cuda")
        plan = plan.model_copy(update={"route": route(epochs=1, masked=False, **ROUTES[name])})
        nets = {member: run.place(net) for member, net in build_members(run, plan).items()}
        student = nets.pop(run.target)
        ensemble = assemble_ensemble(run, plan, nets, {})
        train_student(run, plan, student, ensemble, tabulate_logits(run, ensemble, 8))
    assert not recorded.waits


ALL_OPTIONS = TrainingRecipe(
    preset="strong",
    gradient_clip=0.1,
    label_smoothing=0.1,
    class_weights="balanced",
    views=2,
    transforms={"noise": ["toy_transforms.Noise"]},
)


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_waits_with_all_options_of_the_recipe(kind: str) -> None:
    def train(**runtime: Any) -> dict[str, pd.DataFrame]:
        run, plan = short_run(kind, **runtime)
        noise = {run.target: ALL_OPTIONS.transforms["noise"]}
        recipe = ALL_OPTIONS.model_copy(update={"transforms": noise})
        return histories(dataclasses.replace(run, recipe=recipe), plan)

    expected = train()
    with recorded_steps() as recorded:
        found = train(device="cuda")
    for stage, history in expected.items():
        pd.testing.assert_frame_equal(found[stage], history, rtol=1e-4, atol=1e-6)
    assert not recorded.waits


def test_prefetched_batches_are_the_same_and_no_step_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train_members(*short_run())[1].history
    monkeypatch.setattr(batches, "fits", lambda _size, _device: False)
    with recorded_steps() as recorded:
        found = train_members(*short_run(device="cuda"))[1].history
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-6)
    assert not recorded.waits
