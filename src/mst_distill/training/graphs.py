"""CUDA graphs of the steps of a training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mst_distill.training.not_finite import Step

log = logging.getLogger(__name__)

Compute = Callable[[Tensor], Step]
"""Takes a step on the samples at some indices of the training split, ``(B,)``."""


class StepGraphs:
    """Takes the steps of a training, after the first ones as CUDA graphs.

    A step of a small net is about a hundred kernels of a few microseconds each, and to start one
    from Python takes longer than to compute it. A CUDA graph starts all of them at once: the same
    kernels on the same memory, hence with equal results. It repeats what the GPU did while it was
    captured and knows nothing of the host. A step may therefore depend on nothing that changes from
    step to step but its indices, tensors that are changed in place, and the GPU's random numbers.

    There is a graph for each batch size and for the current constants. The first step of a size is
    taken without a graph, because libraries and optimisers allocate memory in it. If a step cannot
    be captured, a warning is logged, and this and all later steps are taken without a graph.

    Args:
        whole: Takes a step with the whole batch at once; it is captured.
        eager: Takes a step without a graph.
        optimiser: The optimiser of the training.
        device: The GPU.
    """

    def __init__(
        self,
        whole: Compute,
        eager: Compute,
        optimiser: torch.optim.Optimizer,
        device: torch.device,
    ) -> None:
        self._whole = whole
        self._eager = eager
        self._optimiser = optimiser
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._sizes: set[int] = set()
        self._constants: tuple[float, ...] = ()
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Step]] = {}
        self.failed = False

    def take(self, place: Tensor, constants: tuple[float, ...]) -> Step:
        """Take a step.

        Args:
            place: ``(B,)`` on the GPU, the indices of the samples.
            constants: The numbers on which a step depends.

        Returns:
            The step; its number is that of the captured one.
        """
        if constants != self._constants:
            self._constants = constants
            self._graphs.clear()
        size = len(place)
        if size in self._sizes and size not in self._graphs and not self.failed:
            self._capture(place)
        if self.failed:
            return self._eager(place)
        if size not in self._graphs:
            self._sizes.add(size)
            return self._beside(place)
        graph, captured_place, step = self._graphs[size]
        captured_place.copy_(place)
        graph.replay()
        return replace(step, place=place, values=step.values.clone())

    def _beside(self, place: Tensor) -> Step:
        """Take a step on the stream of the captures, so that autograd's nodes belong to it."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            step = self._eager(place)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return step

    def _capture(self, place: Tensor) -> None:
        """Capture a step; nothing is computed."""
        captured_place, graph = place.clone(), torch.cuda.CUDAGraph()
        pool = next((other.pool() for other, _, _ in self._graphs.values()), None)
        self._set_capturable(True)
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                step = self._whole(captured_place)
        except RuntimeError as error:
            self.failed = True
            self._graphs.clear()
            self._optimiser.zero_grad()
            log.warning("The steps are taken without a CUDA graph, which failed: %s", error)
        else:
            self._graphs[len(place)] = graph, captured_place, step
        finally:
            self._set_capturable(False)

    def _set_capturable(self, capturable: bool) -> None:
        """Tell the optimiser whether it is captured: PyTorch asks for it."""
        for group in self._optimiser.param_groups:
            group["capturable"] = capturable
