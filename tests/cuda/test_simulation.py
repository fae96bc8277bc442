"""The simulated GPU has the errors and the waits of CUDA."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simulated_gpu import SimulatedGPU

INVALID: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "sum": lambda on_gpu, on_cpu: on_gpu + on_cpu,
    "selection": lambda on_gpu, on_cpu: on_gpu.index_select(0, on_cpu.long().flatten()),
    "stack": lambda on_gpu, on_cpu: torch.stack([on_gpu.sum(), on_cpu.sum()]),
    "index of a CPU tensor": lambda on_gpu, on_cpu: on_cpu[on_gpu.long().flatten()],
    "numpy": lambda on_gpu, on_cpu: on_gpu.numpy(),
    "generator of the CPU": lambda on_gpu, on_cpu: torch.randperm(
        3, generator=torch.Generator(), device="cuda"
    ),
    "a third GPU": lambda on_gpu, on_cpu: torch.empty(3, device="cuda:2"),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_is_an_error_on_cuda_is_an_error(name: str, gpu: SimulatedGPU) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        INVALID[name](torch.zeros(2, 2, device="cuda"), torch.zeros(2, 2))


WAITING: dict[str, Callable[[Tensor], Any]] = {
    "a value": lambda of: bool((of > 0).all()),
    "values": lambda of: of.tolist(),
    "a selection by a mask": lambda of: of[of > 0],
    "a count": lambda of: torch.bincount(of.long().flatten()),
    "a copy to the CPU": lambda of: of.cpu(),
    "a copy to the GPU": lambda of: torch.zeros(2).to(of.device),
    "an index on the CPU": lambda of: of[torch.tensor([0, 1])],
    "new values": lambda of: torch.tensor([1.0, 2.0], device=of.device),
}


@pytest.mark.parametrize("name", WAITING)
def test_operations_that_wait_are_recorded(name: str, gpu: SimulatedGPU) -> None:
    on_gpu = torch.zeros(2, 2, device="cuda")
    with gpu.recorded() as record:
        WAITING[name](on_gpu)
    assert record.waits


NOT_WAITING: dict[str, Callable[[Tensor], Tensor]] = {
    "a sum with a number": lambda of: of + torch.tensor(1.0),
    "a pinned copy": lambda of: torch.zeros(2).pin_memory().to(of.device, non_blocking=True),
    "a new tensor": lambda of: torch.zeros_like(of) + torch.arange(2, device=of.device),
    "one hot": lambda of: nn.functional.one_hot(of.long(), 3),
    "a fill": partial(torch.Tensor.fill_, value=1.0),
}


@pytest.mark.parametrize("name", NOT_WAITING)
def test_other_operations_are_not_recorded_as_waits(name: str, gpu: SimulatedGPU) -> None:
    on_gpu = torch.zeros(2, 2, device="cuda")
    with gpu.recorded() as record:
        assert NOT_WAITING[name](on_gpu).is_cuda
    assert not record.waits


def test_random_numbers_on_the_gpu_leave_the_generator_of_the_cpu_as_it_is(
    gpu: SimulatedGPU,
) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    on_gpu = torch.rand(3, device="cuda")
    assert torch.rand(3).equal(expected)
    assert on_gpu.is_cuda
    state = torch.cuda.get_rng_state()
    again = torch.rand(3, device="cuda")
    torch.cuda.set_rng_state(state)
    assert torch.rand(3, device="cuda").equal(again)


def test_nothing_stays_replaced_outside_the_simulation() -> None:
    before = torch.Tensor.to, torch.zeros, torch.cuda.is_available, torch.autocast
    with SimulatedGPU():
        assert torch.zeros(1, device="cuda").is_cuda
    assert (torch.Tensor.to, torch.zeros, torch.cuda.is_available, torch.autocast) == before
    assert "device" not in vars(torch.Tensor)


def test_a_graph_computes_nothing_until_it_is_replayed(gpu: SimulatedGPU) -> None:
    total, of = torch.zeros(2, device="cuda"), torch.ones(2, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        double = 2 * of
        total += double
    assert total.tolist() == [0, 0]
    assert double.isnan().all()
    for factor in (1, 3):
        of.fill_(factor)
        graph.replay()
        assert double.tolist() == [2 * factor] * 2
    assert total.tolist() == [8, 8]


def test_a_graph_repeats_what_the_host_computed_while_it_was_captured(gpu: SimulatedGPU) -> None:
    of, factor, graph = torch.ones(2, device="cuda"), 2, torch.cuda.CUDAGraph()
    on_cpu = torch.tensor(3.0)
    with torch.cuda.graph(graph):
        product = factor * of * (on_cpu + 1)
    factor, on_cpu[...] = 5, 7
    graph.replay()
    assert product.tolist() == [8, 8]


def test_random_numbers_of_a_graph_are_those_of_the_eager_operations(gpu: SimulatedGPU) -> None:
    torch.cuda.manual_seed_all(0)
    expected = [torch.rand(3, device="cuda").tolist() for _ in range(3)]
    torch.cuda.manual_seed_all(0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = torch.rand(3, device="cuda")
    found = []
    for _ in range(3):
        graph.replay()
        found.append(drawn.tolist())
    assert found == expected


@pytest.mark.parametrize("name", WAITING)
def test_a_capture_that_waits_is_an_error(name: str, gpu: SimulatedGPU) -> None:
    on_gpu = torch.zeros(2, 2, device="cuda")
    with (
        pytest.raises(RuntimeError, match="when stream is capturing"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        WAITING[name](on_gpu)
    assert not torch.cuda.is_current_stream_capturing()
