"""Steps as CUDA graphs on a simulated GPU: equal to the bit, and only where that is safe."""

from __future__ import annotations

import gc
import logging
import random
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from cuda.test_methods import train as train_method
from cuda.test_training import Dropping, make_stage, stop_after
from mst_distill.artifacts.checkpoint import Checkpoint
from mst_distill.mst.baseline import train_baseline
from mst_distill.mst.ensemble import assemble_ensemble, tabulate_logits
from mst_distill.mst.networks import build_members
from mst_distill.mst.stage3_route import StudentResult, train_student
from mst_distill.training import batches, loop
from mst_distill.training.batches import Batch
from mst_distill.training.graphs import StepGraphs, TakeStep
from simulated_gpu import SimulatedGPU
from toy_runs import make_run, route, vary

EPOCHS = 12
"""The weight of the balance term changes after 10 epochs."""

BATCH_SIZE = 7
"""The last batch of an epoch is smaller."""


class Captured(Dropping):
    """A net with dropout whose steps may be captured."""

    def constants(self) -> tuple[float, ...]:
        return ()


class Waiting(Captured):
    """The loss is fetched, which a capture does not allow."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        terms = super().losses(batch)
        assert terms["loss"].item() > 0
        return terms


class Drawing(Captured):
    """A factor is drawn on the host, which a graph would repeat."""

    draw: Callable[[], float]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        factor = type(self).draw()
        return {name: factor * of for name, of in super().losses(batch).items()}


class DrawingByTorch(Drawing):
    """The generator of PyTorch."""

    draw = staticmethod(lambda: torch.rand(()).item())


class DrawingByPython(Drawing):
    """The generator of Python."""

    draw = staticmethod(random.random)


class DrawingByNumPy(Drawing):
    """The generator of NumPy."""

    draw = staticmethod(np.random.random_sample)


class FailingLater(Captured):
    """The third step of the training fails, as a capture may."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.steps = 0

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self.steps += self.trainable.training
        if self.steps == 2:
            raise RuntimeError("an error of CUDA")
        return super().losses(batch)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch size of every graph that has been captured."""
    capture, sizes = StepGraphs._capture, []

    def record(graphs: StepGraphs, whole: TakeStep, place: Tensor) -> Any:
        sizes.append(len(place))
        return capture(graphs, whole, place)

    monkeypatch.setattr(StepGraphs, "_capture", record)
    return sizes


def fit(task: type[Dropping], graphs: bool, checkpoint: Checkpoint | None = None) -> loop.FitResult:
    stage, runtime = make_stage("cuda", task(torch.device("cuda", 0)), BATCH_SIZE)
    return loop.fit(stage, runtime.model_copy(update={"graphs": graphs}), checkpoint)


def assert_same(found: loop.FitResult, expected: loop.FitResult) -> None:
    pd.testing.assert_frame_equal(found.history, expected.history, check_exact=True)
    for name, best in expected.best.items():
        for key, tensor in best.state.items():
            assert tensor.equal(found.best[name].state[key]), key


def test_a_training_with_graphs_is_equal_to_the_bit_with_a_graph_for_each_batch_size(
    gpu: SimulatedGPU, captures: list[int]
) -> None:
    expected = fit(Captured, graphs=False)
    assert not captures
    assert_same(fit(Captured, graphs=True), expected)
    stage, _ = make_stage("cuda", batch_size=BATCH_SIZE)
    sizes = {len(batch.label) for batch in stage.train}
    assert len(sizes) == 2
    assert sorted(captures) == sorted(sizes)


def test_a_task_that_does_not_permit_it_is_not_captured(
    gpu: SimulatedGPU, captures: list[int]
) -> None:
    fit(Dropping, graphs=True)
    assert not captures


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Waiting, "the host waits for the GPU"),
        (DrawingByTorch, "the host draws random numbers"),
        (DrawingByPython, "the host draws random numbers"),
        (DrawingByNumPy, "the host draws random numbers"),
    ],
)
def test_a_step_that_depends_on_the_host_is_taken_as_usual_with_a_warning(
    task: type[Dropping],
    reason: str,
    gpu: SimulatedGPU,
    captures: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    fits = []
    for graphs in (False, True):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        with caplog.at_level(logging.WARNING):
            fits.append(fit(task, graphs))
    assert_same(fits[1], fits[0])
    (warning,) = caplog.messages
    assert warning.endswith(f"without CUDA graphs, because in a step {reason}")
    assert not captures


def test_a_failed_capture_is_an_error_that_names_the_way_out(gpu: SimulatedGPU) -> None:
    with pytest.raises(RuntimeError, match=r"an error of CUDA.*runtime\.graphs=false, which conti"):
        fit(FailingLater, graphs=True)


def test_after_a_micro_batch_there_are_no_graphs(gpu: SimulatedGPU, captures: list[int]) -> None:
    stage, runtime = make_stage("cuda", Captured(torch.device("cuda", 0)))
    training = loop._Training(stage, runtime, None)
    list(training.train_epoch())
    assert captures == [8]
    training.end_epoch()
    training._micro_batcher.size = 4
    list(training.train_epoch())
    assert training._graphs is None
    assert captures == [8]


def test_nothing_holds_the_memory_of_a_training_after_its_end(gpu: SimulatedGPU) -> None:
    stage, runtime = make_stage("cuda", Captured(torch.device("cuda", 0)))
    training = loop._Training(stage, runtime, None)
    list(training.train_epoch())
    assert training._graphs is not None
    alive = weakref.ref(training)
    gc.disable()
    try:
        del training
        assert alive() is None
    finally:
        gc.enable()


def test_batches_that_are_read_one_by_one_are_not_captured(
    gpu: SimulatedGPU, captures: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fit(Captured, graphs=False)
    monkeypatch.setattr(batches, "fits", lambda _size, _device: False)
    assert_same(fit(Captured, graphs=True), expected)
    assert not captures


def test_a_cpu_has_no_graphs(captures: list[int]) -> None:
    stage, runtime = make_stage("cpu", Captured(torch.device("cpu")))
    assert runtime.graphs
    loop.fit(stage, runtime)
    assert not captures


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_a_training_continues_to_the_bit(steps: int, gpu: SimulatedGPU, tmp_path: Path) -> None:
    expected = fit(Captured, graphs=True)
    checkpoint = Checkpoint(tmp_path / "state.pt", "digest")
    stop_after(steps, "cuda", checkpoint, Captured, BATCH_SIZE)
    assert_same(fit(Captured, True, checkpoint), expected)


def test_a_step_that_is_not_finite_changes_no_weight_and_is_named(gpu: SimulatedGPU) -> None:
    stage, runtime = make_stage("cuda", Captured(torch.device("cuda", 0)))
    image = stage.train._tensors["image"]
    place = stage.train.count - 1
    image[place] = torch.inf
    with pytest.raises(FloatingPointError, match=r"loss is nan in step .* of epoch 0 .*range from"):
        loop.fit(stage, runtime)
    for weight in stage.task.trainable.parameters():
        assert weight.isfinite().all()


ROUTES: dict[str, tuple[dict[str, Any], int]] = {
    "default": ({}, 2),
    "paper": ({"preset": "paper"}, 2),
    "merit": ({"preset": "merit"}, 5),
    "uniform": ({"preset": "merit", "router": "uniform"}, 5),
    "balance by variation": ({"balance": "cv"}, 2),
    "halved weight": ({"halvings": [0.5]}, 3),
}
"""The parameters of stage 3, and the number of different pairs of weights in `EPOCHS` epochs."""


def train_third_stage(options: dict[str, Any], kind: str, graphs: bool) -> StudentResult:
    run, plan = make_run(kind, device="cuda:1", graphs=graphs)
    plan = plan.model_copy(update={"route": route(epochs=EPOCHS, masked=False, **options)})
    nets = {member: run.place(net) for member, net in build_members(run, plan).items()}
    student = nets.pop(run.target)
    ensemble = assemble_ensemble(run, plan, nets, {})
    table = tabulate_logits(run, ensemble, 8)
    return train_student(run, plan, student, ensemble, table)


@pytest.mark.parametrize("kind", ["two modalities", "dense labels"])
@pytest.mark.parametrize("name", ROUTES)
def test_stage_3_is_equal_to_the_bit_with_its_load_and_its_schedule(
    name: str, kind: str, gpu: SimulatedGPU, captures: list[int]
) -> None:
    options, number = ROUTES[name]
    expected = train_third_stage(options, kind, graphs=False)
    found = train_third_stage(options, kind, graphs=True)
    assert_same(found.fit, expected.fit)
    pd.testing.assert_frame_equal(found.load, expected.load, check_exact=True)
    assert captures == [8] * number


def test_the_baseline_is_equal_to_the_bit(gpu: SimulatedGPU, captures: list[int]) -> None:
    fits = []
    for graphs in (False, True):
        run, plan = make_run(device="cuda", graphs=graphs)
        fits.append(train_baseline(run, vary(plan, route={"epochs": 3}))[1])
    assert_same(fits[1], fits[0])
    assert captures


@pytest.mark.parametrize(
    ("kind", "name", "teacher"),
    [
        ("two modalities", "kd", "multimodal"),
        ("two modalities", "kd", "audio"),
        ("dense labels", "kd", "multimodal"),
        ("two modalities", "baseline", ""),
    ],
)
def test_compared_methods_are_equal_to_the_bit(
    kind: str, name: str, teacher: str, gpu: SimulatedGPU, captures: list[int]
) -> None:
    results = [
        train_method(kind, name, teacher, device="cuda", graphs=graphs)[2]
        for graphs in (False, True)
    ]
    pd.testing.assert_frame_equal(results[1].history, results[0].history, check_exact=True)
    assert captures
