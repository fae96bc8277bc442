"""CUDA graphs of the steps of a training."""

from __future__ import annotations

import contextlib
import logging
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mst_distill.training.not_finite import Step

log = logging.getLogger(__name__)

TakeStep = Callable[[Tensor], Step]
"""Takes a step on the samples at some indices of the training split, ``(B,)`` on the GPU."""


@dataclass(frozen=True)
class _Graph:
    """A captured step: the tensor from which it reads its indices, and its results."""

    graph: torch.cuda.CUDAGraph
    entry: Tensor
    step: Step


class StepGraphs:
    """Takes the steps of a training, after the first ones as CUDA graphs.

    A step of a small net is about a hundred kernels of a few microseconds each, and to start one
    from Python takes longer than to compute it. A CUDA graph starts all of them at once: the same
    kernels on the same memory, hence with equal results. It repeats what the GPU did while it was
    captured and knows nothing of the host. A step may therefore depend on nothing that changes from
    step to step but its indices, tensors that are changed in place, and the GPU's random numbers.

    There is a graph for each batch size and for the current constants. The first step of a size is
    taken without a graph, because libraries and optimisers allocate memory in it. If the host waits
    in it or draws random numbers, no step is captured, with a warning. A branch of a net that
    depends on a counter of its own is not noticed.

    Args:
        optimiser: The optimiser of the training.
        device: The GPU.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, device: torch.device) -> None:
        self._optimiser = optimiser
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._sizes: set[int] = set()
        self._constants: tuple[float, ...] = ()
        self._graphs: dict[int, _Graph] = {}
        self._possible = True

    def take(
        self, entry: Tensor, constants: tuple[float, ...], whole: TakeStep, eager: TakeStep
    ) -> Step:
        """Take a step.

        Args:
            entry: `Batch.entry` on the GPU, ``(B,)``.
            constants: The numbers on which a step depends.
            whole: Takes a step with the whole batch at once; it is captured.
            eager: Takes a step without a graph.

        Returns:
            The step; its number is that of the captured one.

        Raises:
            RuntimeError: The capture failed.
        """
        if constants != self._constants:
            self._constants = constants
            self._graphs.clear()
        size = len(entry)
        if not self._possible:
            return eager(entry)
        if size not in self._sizes:
            self._sizes.add(size)
            return self._try(eager, entry)
        if size not in self._graphs:
            self._graphs[size] = self._capture(whole, entry)
        captured = self._graphs[size]
        captured.entry.copy_(entry)
        captured.graph.replay()
        return replace(captured.step, entry=entry, values=captured.step.values.clone())

    def _try(self, eager: TakeStep, entry: Tensor) -> Step:
        """Take a step on the stream of the captures, and find out whether it can be captured."""
        before = _random_states()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream), _recorded_waits() as waits:
            step = eager(entry)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        reason = "the host waits for the GPU" if waits else ""
        if _random_states() != before:
            reason = "the host draws random numbers"
        if reason:
            self._possible = False
            log.warning("Steps are taken without CUDA graphs, because in a step %s", reason)
        return step

    def _capture(self, whole: TakeStep, entry: Tensor) -> _Graph:
        """Capture a step; nothing is computed."""
        captured_entry, graph = entry.clone(), torch.cuda.CUDAGraph()
        pool = next((other.graph.pool() for other in self._graphs.values()), None)
        self._set_capturable(True)
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self._stream):
                step = whole(captured_entry)
        except RuntimeError as error:
            # PyTorch's streams and generators may now be in a state that cannot be repaired here.
            raise RuntimeError(
                f"a step could not be captured in a CUDA graph ({error}): run the same command "
                f"again with runtime.graphs=false, which continues from the last checkpoint"
            ) from error
        finally:
            self._set_capturable(False)
        return _Graph(graph, captured_entry, step)

    def _set_capturable(self, capturable: bool) -> None:
        """Tell the optimiser whether it is captured: PyTorch asks for it."""
        for group in self._optimiser.param_groups:
            group["capturable"] = capturable


@contextlib.contextmanager
def _recorded_waits() -> Iterator[list[str]]:
    """Collect PyTorch's warnings about operations for which the host waits."""
    messages: list[str] = []
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield messages
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    for warning in caught:
        if "synchronizing" in str(warning.message):
            messages.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _random_states() -> tuple[Any, ...]:
    """The states of the host's generators of random numbers."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - what a user's net may draw from
    of_torch = torch.get_rng_state().numpy().tobytes()
    return of_torch, random.getstate(), kind, np.asarray(keys).tobytes(), *rest
