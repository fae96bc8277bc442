"""A CUDA graph of a simulated GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from simulated_gpu import SimulatedGPU


class SimulatedGraph:
    """A CUDA graph: the operations on the GPU that a thread ran while the graph was captured.

    Args:
        gpu: The GPU.
    """

    def __init__(self, gpu: SimulatedGPU) -> None:
        self._gpu = gpu
        self._operations: list[tuple[Callable[[], Any], list[Tensor], list[Tensor]]] = []

    def pool(self) -> tuple[int, int]:
        """The memory of the graph, of which the simulation knows nothing."""
        return (0, 0)

    def replay(self) -> None:
        """Compute the captured operations again, on the same tensors."""
        self._gpu.add_kernel("cudaGraphLaunch")
        with _disable_current_modes(), torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
            for compute, results, _inputs in self._operations:
                for result, new in zip(results, _fresh(compute(), _inputs), strict=True):
                    result.copy_(new)

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        """Capture what happens inside."""
        states = [generator.get_state() for generator in self._gpu.generators]
        self._gpu.capturing = self
        try:
            yield
        finally:
            self._gpu.capturing = None
            for generator, state in zip(self._gpu.generators, states, strict=True):
                generator.set_state(state)
            with _disable_current_modes(), torch.no_grad():
                for _, results, _ in self._operations:
                    for result in results:
                        if result.is_floating_point():
                            result.detach().fill_(torch.nan)

    def record(self, compute: Callable[[], Any], func, args, kwargs) -> Any:
        """Record an operation, and return tensors of the right shapes; nothing else changes."""
        changed = list(_changed(func, args, kwargs))
        before = [tensor.detach().clone() for tensor in changed]
        result = compute()
        for tensor, value in zip(changed, before, strict=True):
            tensor.detach().copy_(value)
        inputs = [of for of in tree_leaves((args, kwargs)) if isinstance(of, Tensor)]
        self._operations.append((compute, _fresh(result, inputs), inputs))
        return result


def _changed(func, args, kwargs) -> Iterator[Tensor]:
    """The arguments that an operator changes in place."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    for argument in func._schema.arguments:
        declared = argument.alias_info is not None and argument.alias_info.is_write
        if declared or argument.name in ("running_mean", "running_var"):  # of batch norm
            yield from (of for of in tree_leaves(given.get(argument.name)) if of is not None)


def _fresh(result: Any, inputs: list[Tensor]) -> list[Tensor]:
    """The tensors of a result that do not share the memory of an input."""
    known = {of.untyped_storage().data_ptr() for of in inputs if of.layout == torch.strided}
    return [
        of
        for of in tree_leaves(result)
        if isinstance(of, Tensor) and of.untyped_storage().data_ptr() not in known
    ]
