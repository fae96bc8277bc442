"""Batches that do not fit in a GPU's memory, simulated by nets that raise for many samples."""

from __future__ import annotations

import dataclasses
import logging

import pandas as pd
import pytest
import torch

from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.metric import metric_of
from mst_distill.mst.baseline import train_baseline
from mst_distill.mst.ensemble import assemble_ensemble, tabulate_logits
from mst_distill.mst.stage1_teachers import train_members
from mst_distill.mst.stage2_masks import train_masks
from mst_distill.mst.stage3_route import train_student
from mst_distill.parameters import Members
from mst_distill.training.micro_batches import MicroBatcher
from toy_runs import fusion, make_plan, make_run, route, vary
from toys import make_samples

pytestmark = pytest.mark.usefixtures("float64")

NET = {"type": "toy_nets.Audio", "masked_layers": ["first", "second"]}
PLAN = make_plan(
    members=Members.model_validate(
        {
            "multimodal": fusion({"image": 416, "audio": 416}),
            "modalities": {"image": NET, "audio": NET},
        }
    )
)
"""Nets without batch statistics: a mean over samples does not depend on micro-batches."""


LOADS: list[float] = []
"""The total load of the specialists in the runs of stage 3."""


def run_without_statistics(**runtime):
    run, _ = make_run(**runtime)
    samples, splits = make_samples(40, {"image": (1, 26, 16), "audio": (13, 32)})
    return dataclasses.replace(run, samples=samples, splits=splits)


@pytest.fixture
def limit_samples():
    """A function that sets the most samples with which a module can be called.

    It returns a list to which the number of samples of every successful call is appended.
    """
    hooks = []

    def limit(most, without_gradient=False):
        sizes = []

        def check(_module, inputs):
            has_samples = inputs and isinstance(inputs[0], torch.Tensor)
            if not has_samples or not (torch.is_grad_enabled() or without_gradient):
                return
            if len(inputs[0]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            sizes.append(len(inputs[0]))

        hooks.append(torch.nn.modules.module.register_module_forward_pre_hook(check))
        return sizes

    yield limit
    for hook in hooks:
        hook.remove()


def stage_one(run):
    _, done = train_members(run, PLAN)
    return done.history


def stage_two(run):
    plain = run_without_statistics()
    nets, _ = train_members(plain, vary(PLAN, teachers={"epochs": 1}))
    _, done = train_masks(run, PLAN, nets)
    return done.history


def stage_three(run):
    plain = run_without_statistics()
    plan = PLAN.model_copy(update={"route": route(balance_weight=0.0, epochs=2)})
    nets, _ = train_members(plain, vary(plan, teachers={"epochs": 1}))
    masks, _ = train_masks(plain, plan, nets)
    ensemble = assemble_ensemble(run, plan, nets, masks)
    table = tabulate_logits(run, ensemble, 8)
    done = train_student(run, plan, nets[run.target], ensemble, table)
    LOADS.append(done.load["samples"].sum())
    return done.fit.history.drop(columns="train_balance")


def baseline(run):
    return train_baseline(run, PLAN)[1].history


STAGES = {"teachers": stage_one, "masks": stage_two, "route": stage_three, "baseline": baseline}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_in_micro_batches_has_the_history_of_whole_batches(stage, limit_samples, caplog):
    run = run_without_statistics()
    expected = STAGES[stage](run)
    sizes = limit_samples(3)
    with caplog.at_level(logging.WARNING, "mst_distill"):
        found = STAGES[stage](run)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9)
    assert max(sizes) == 3
    if stage == "route":
        assert LOADS[-1] == LOADS[-2]  # the loads that failed attempts added were reverted
    lines = [record.getMessage() for record in caplog.records]
    assert any(f"stage '{stage}" in line or "stage 'baseline" in line for line in lines)
    assert any("8 samples do not fit" in line for line in lines)
    assert any("4 samples do not fit" in line for line in lines)


def test_frozen_nets_are_evaluated_in_micro_batches(limit_samples):
    run = run_without_statistics(frozen="online")
    expected = stage_two(run)
    limit_samples(4, without_gradient=True)
    pd.testing.assert_frame_equal(stage_two(run), expected, rtol=1e-9)


def test_the_size_of_micro_batches_is_found_once_and_saved_in_checkpoints(
    limit_samples, caplog, tmp_path
):
    run = dataclasses.replace(
        run_without_statistics(), checkpoints=Checkpoints(tmp_path, "parameters")
    )
    limit_samples(4)
    with caplog.at_level(logging.WARNING, "mst_distill"):
        baseline(run)
    assert len(caplog.records) == 2  # once in each of the two phases
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mst_distill"):
        baseline(run)
    assert not caplog.records


def test_the_error_names_the_stage_if_the_smallest_micro_batch_does_not_fit(limit_samples):
    limit_samples(2)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"stage 'teachers': a micro-batch of 3 samples"
    ):
        stage_one(run_without_statistics())


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_libraries_that_report_exhausted_memory_in_a_message_lead_to_micro_batches(message):
    def work(indices):
        if len(indices) > 4:
            raise RuntimeError(message)
        return len(indices)

    assert MicroBatcher("something").each(8, work) == [4, 4]


def test_other_errors_of_a_batch_are_raised():
    def work(indices):
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        MicroBatcher("something").each(8, work)


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(8, 8, [8]), (8, 4, [4, 4]), (7, 4, [4, 3]), (7, 3, [3, 2, 2]), (2, 3, [2]), (1, 3, [1])],
)
def test_micro_batches_are_even_and_have_more_than_one_sample(count, most, sizes):
    micro_batcher = MicroBatcher("something")
    undone = []

    def work(indices):
        if len(indices) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return indices.tolist()

    found = micro_batcher.each(count, work, lambda: undone.append(True))
    assert [len(micro_batch) for micro_batch in found] == sizes
    assert [index for micro_batch in found for index in micro_batch] == list(range(count))
    assert len(undone) == {8: 0, 4: 1, 3: 2}[most] * (count > 3)


@pytest.mark.parametrize("setting", ["macro_f1", "auroc"])
def test_the_terms_of_a_metric_count_once_if_validation_is_in_micro_batches(setting, limit_samples):
    run = dataclasses.replace(run_without_statistics(), metric=metric_of(setting))
    expected = baseline(run)
    sizes = limit_samples(3, without_gradient=True)
    found = baseline(run)
    assert max(sizes) == 3
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9)
    assert found[f"valid_{setting}"].between(0, 1).all()
