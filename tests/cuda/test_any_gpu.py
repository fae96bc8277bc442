"""What holds on a real GPU: these tests run on one where there is one, and on the simulated one.

They need nothing that the simulation alone can tell. `torch.cuda.set_sync_debug_mode` lets PyTorch
itself find the waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from cuda.test_methods import train as train_method
from cuda.test_stages import histories, short_run
from cuda.test_training import digits_run
from mst_distill.mst.stage1_teachers import train_members
from mst_distill.training import loop
from mst_distill.training.graphs import StepGraphs, TakeStep
from simulated_gpu import SimulatedGPU
from toy_runs import KINDS


@pytest.fixture(autouse=True, params=["simulated", "real"])
def any_gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "real":
        if not torch.cuda.is_available():
            pytest.skip("PyTorch finds no GPU on this machine")
        yield
    else:
        with SimulatedGPU():
            yield


@contextmanager
def waits_are_errors(allowed: bool = False) -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("default" if allowed else "error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.fixture
def strict_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second step of an epoch on, a wait is an error; a capture waits."""
    train_epoch, capture = loop._Training.train_epoch, StepGraphs._capture

    def train(training: loop._Training) -> Iterator[None]:
        steps = train_epoch(training)
        yield next(steps)
        while True:
            with waits_are_errors():
                if next(steps, "end") == "end":
                    return
            yield

    def capture_and_wait(graphs: StepGraphs, whole: TakeStep, place: Tensor) -> Any:
        with waits_are_errors(allowed=True):
            return capture(graphs, whole, place)

    monkeypatch.setattr(loop._Training, "train_epoch", train)
    monkeypatch.setattr(StepGraphs, "_capture", capture_and_wait)


def test_a_wait_is_an_error_where_it_is_forbidden() -> None:
    on_gpu = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError), waits_are_errors():
        on_gpu.sum().item()
    assert on_gpu.sum().item() == 2


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_histories_are_those_of_a_cpu_and_no_step_waits(
    kind: str, graphs: bool, strict_steps: None
) -> None:
    found = histories(*short_run(kind, device="cuda", graphs=graphs))
    for stage, history in histories(*short_run(kind)).items():
        pd.testing.assert_frame_equal(found[stage], history, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "teacher"), [("kd", "multimodal"), ("kd", "audio"), ("baseline", "")]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_graph_gives_the_numbers_of_its_operations(
    name: str, teacher: str, precision: str, strict_steps: None
) -> None:
    results = [
        train_method(
            "two modalities", name, teacher, device="cuda", graphs=graphs, precision=precision
        )[2].history
        for graphs in (False, True)
    ]
    pd.testing.assert_frame_equal(results[1], results[0], check_exact=True)


def test_a_batch_that_does_not_fit_is_computed_in_micro_batches(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def train() -> pd.DataFrame:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return train_members(*digits_run("cuda"))[1].history

    expected = train()
    peak, total = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(0.8 * peak / total)
    try:
        found = train()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "do not fit in the GPU's memory at once" in caplog.text
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-5)


def test_float32_is_not_rounded_and_the_switches_of_pytorch_can_be_read() -> None:
    run, _ = short_run(device="cuda")
    torch.manual_seed(0)
    one, other = (torch.randn(256, 256, dtype=torch.float64) for _ in range(2))
    product = (one.float().to(run.device) @ other.float().to(run.device)).cpu().double()
    error = (product - one @ other).abs().max().item()
    assert error < 1e-3  # TF32 would round by 1e-2
    switches: list[Any] = [
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
    ]
    assert switches == [False, False, "highest"]
