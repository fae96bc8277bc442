"""A simulated GPU: real values, a device for every tensor, and a record of host waits and kernels.

Every tensor is an ordinary CPU tensor. Its storage remembers the device that it is said to be on,
and `Tensor.device` returns that device. Inside the context of a `SimulatedGPU`:

- an operation on tensors of two devices raises CUDA's error;
- an operation without a CUDA kernel raises an error, if PyTorch was built with CUDA;
- a CPU generator raises an error if it draws numbers on the GPU, which has its own generator;
- `numpy` of a tensor on the GPU raises an error;
- memory is counted, and an allocation above the limit raises `torch.OutOfMemoryError`;
- everything for which the host waits is recorded with the line of the project that caused it:
  values and copies that are fetched, copies from memory that is not pinned, and shapes that depend
  on values;
- a CUDA graph records the operations on the GPU and computes nothing while it is captured: the
  values of captured tensors are NaN until the first replay. A replay computes the same operations
  on the same tensors. It knows nothing of the host: what Python and the CPU computed during the
  capture stays as it was. A wait in a capture is an error.

What it cannot show: kernels that do not support a type, races between asynchronous operations,
streams, events, the memory of CUDA graphs, the rounding and the order of additions of CUDA's
kernels, the fragmentation of a real allocator, and speed. A gradient on the wrong device that is
passed to `backward` is not an error. `WAITS` lists the operators that wait, by hand: an operator
that is missing there is not found. Composite operators take the branch of the CPU, and autocast has
the CPU's list of operators. It uses private functions of PyTorch, and replaces no run on a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from simulated_graph import SimulatedGraph

Device = torch.device
CPU = Device("cpu")
ANY = None
"""The device of tensors that PyTorch itself created: they go with tensors of every device."""

SOURCE = str(Path(__file__).parents[1] / "src")

WAITS = {
    "aten::_local_scalar_dense": "a value is fetched",
    "aten::nonzero": "a shape depends on values",
    "aten::masked_select": "a shape depends on values",
    "aten::bincount": "a shape depends on values",
    "aten::unique_dim": "a shape depends on values",
    "aten::unique_consecutive": "a shape depends on values",
    "aten::_unique": "a shape depends on values",
    "aten::_unique2": "a shape depends on values",
    "aten::histc": "a range is fetched",
    "aten::equal": "a value is fetched",
    "aten::repeat_interleave.Tensor": "a shape depends on values",
    "aten::multinomial": "the result of a check is fetched",
}
"""Operators whose CUDA kernels make the host wait, and why."""

INDEXING = {"aten::index.Tensor", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}
FILLING = {"aten::fill_.Tensor", "aten::masked_fill.Tensor", "aten::masked_fill_.Tensor"}

_TENSOR = torch._C.TensorBase
_thread = threading.local()


def simulated_device(tensor: Tensor) -> Device | None:
    """The device that a tensor is said to be on."""
    real = _TENSOR.device.__get__(tensor)
    if real.type != "cpu" or tensor.layout != torch.strided:
        return real
    return getattr(tensor.untyped_storage(), "simulated_device", CPU)


@dataclass
class Record:
    """What happened in one thread inside `SimulatedGPU.recorded`.

    Attributes:
        waits: ``FILE:LINE: reason (operator)`` for everything that the host waited for.
        kernels: The operators that ran on the GPU, without views; a replayed graph is one.
        captured: Whether a graph was captured, for which the host waits.
    """

    waits: list[str] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)
    captured: bool = False


class SimulatedGPU(contextlib.ExitStack):
    """A context with simulated GPUs.

    Args:
        memory: The memory of each device in bytes.
        devices: The number of devices.
        capability: The version of the architecture, by default that of an H100.

    Attributes:
        limit: The bytes of a device that may be allocated.
        allocated: Bytes of tensors, by the index of the device.
        peak: The largest number of allocated bytes, by the index of the device.
        cached: Bytes that the allocator holds for later tensors, by the index of the device.
    """

    def __init__(
        self,
        memory: int = 80 * 2**30,
        devices: int = 1,
        capability: tuple[int, int] = (9, 0),
    ) -> None:
        super().__init__()
        self.memory = memory
        self.limit = memory
        self.sync_debug_mode = "default"
        self.devices = devices
        self.capability = capability
        self.allocated: Counter[int] = Counter()
        self.peak: Counter[int] = Counter()
        self.cached: Counter[int] = Counter()
        self.generators = [torch.Generator().manual_seed(0) for _ in range(devices)]
        self.capturing: SimulatedGraph | None = None
        self._record: Record | None = None

    def __enter__(self) -> SimulatedGPU:
        super().__enter__()
        for owner, name, replacement in (*_of_tensors(self), *_of_torch(self)):
            self.enter_context(mock.patch.object(owner, name, replacement, create=True))
        for constructor in _device_constructors():
            if (name := constructor.__name__) != "range" and hasattr(torch, name):
                replacement = _by_the_caller(getattr(torch, name))
                self.enter_context(mock.patch.object(torch, name, replacement))
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        self.callback(torch._C._set_only_lift_cpu_tensors, before)
        self.enter_context(_Dispatch(self))
        return self

    @contextlib.contextmanager
    def recorded(self) -> Iterator[Record]:
        """Record what the current thread does inside the context."""
        self._record, before = Record(), self._record
        _thread.recording = True
        try:
            yield self._record
        finally:
            self._record = before
            _thread.recording = before is not None

    def assign(self, tensor: Tensor, device: Device | None) -> Tensor:
        """Say that a new tensor is on a device.

        Raises:
            torch.OutOfMemoryError: The device has not enough memory.
        """
        if _TENSOR.device.__get__(tensor).type != "cpu" or tensor.layout != torch.strided:
            return tensor
        storage = tensor.untyped_storage()
        if getattr(storage, "simulated_device", CPU) == device:
            return tensor
        storage.simulated_device = device  # type: ignore[attr-defined]
        if device is not ANY and device.type == "cuda":
            self._allocate(storage, device.index)
        return tensor

    def check(self, device: Device) -> None:
        """Raise an error if there is no such device."""
        if device.type == "cuda" and (device.index or 0) >= self.devices:
            raise torch.AcceleratorError("CUDA error: invalid device ordinal (simulated)")

    def add_wait(self, reason: str, operator: str) -> None:
        """Record that the host waits.

        Raises:
            torch.AcceleratorError: A graph is being captured.
            RuntimeError: The synchronisation debug mode of PyTorch is "error".
        """
        message = f"called a synchronizing CUDA operation: {operator} (simulated)"
        if self.sync_debug_mode == "error":
            raise RuntimeError(message)
        if self.sync_debug_mode == "warn":
            warnings.warn(message, stacklevel=2)
        if self.capturing is not None:
            raise torch.AcceleratorError(
                f"CUDA error: operation not permitted when stream is capturing: {operator} "
                f"({reason}, simulated)"
            )
        if self._record is not None and getattr(_thread, "recording", False):
            self._record.waits.append(f"{_project_line()}: {reason} ({operator})")

    def add_kernel(self, operator: str) -> None:
        """Record that an operator ran on the GPU."""
        if self._record is not None and getattr(_thread, "recording", False):
            self._record.kernels.append(operator)

    def _allocate(self, storage: Any, index: int) -> None:
        size = storage.nbytes()
        if self.allocated[index] + size > self.limit:
            storage.simulated_device = ANY
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. (simulated)"
            )
        self.allocated[index] += size
        self.peak[index] = max(self.peak[index], self.allocated[index])
        weakref.finalize(storage, self._free, index, size)

    def _free(self, index: int, size: int) -> None:
        self.allocated[index] -= size
        self.cached[index] = max(self.cached[index], self.peak[index] - self.allocated[index])


class _Dispatch(TorchDispatchMode):
    """Receives every operator below autograd, in the forward and in the backward pass."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func.name()
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        explicit, _thread.explicit = getattr(_thread, "explicit", False), False
        wanted = kwargs.get("device")
        if wanted is not None and wanted.type == "cuda":
            self._gpu.check(wanted)
            kwargs["device"] = CPU
        elif wanted is not None and wanted.type != "cpu":
            return func(*args, **kwargs)
        device = self._device(func, name, args, tensors, wanted, explicit)
        on_gpu = device is not ANY and device.type == "cuda"
        if on_gpu:
            self._check(name, args, kwargs)
        compute = functools.partial(self._compute, func, args, kwargs, device)
        graph = self._gpu.capturing
        if graph is not None and (on_gpu or device is ANY) and not _is_view(func):
            result = graph.record(compute, func, args, kwargs)
        else:
            result = compute()
        known = {
            id(tensor.untyped_storage()) for tensor in tensors if tensor.layout == torch.strided
        }
        for leaf in tree_leaves(result):
            if not isinstance(leaf, Tensor) or leaf.layout != torch.strided:
                continue
            if id(leaf.untyped_storage()) not in known or simulated_device(leaf) is ANY:
                self._gpu.assign(leaf, device)
        if on_gpu and not _is_view(func):
            self._gpu.add_kernel(name)
        return result

    def _device(self, func, name, args, tensors, wanted, explicit) -> Device | None:
        """The device on which an operator runs."""
        if wanted is not None and wanted.type == "cuda":
            if any(_on_cpu(tensor) for tensor in tensors):
                self._gpu.add_wait("memory that is not pinned is copied to the GPU", name)
            return Device("cuda", wanted.index or 0)
        if not tensors:
            return CPU if explicit else ANY
        if explicit and wanted is not None:
            return CPU
        if name in ("aten::copy_", "aten::_copy_from"):
            return self._copy(name, *args[:2], non_blocking=args[2] if len(args) > 2 else False)
        if name in INDEXING:
            return self._index(name, args)
        devices = {simulated_device(tensor) for tensor in tensors} - {ANY}
        gpus = {device for device in devices if device.type == "cuda"}
        if not gpus:
            return CPU if devices else ANY
        takes_numbers = torch.Tag.pointwise in func.tags or name in FILLING
        others = [
            tensor
            for tensor in tensors
            if _on_cpu(tensor) and not (takes_numbers and tensor.dim() == 0)
        ]
        if len(gpus) > 1 or others:
            found = sorted(map(str, gpus)) + ["cpu"] * bool(others)
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, "
                f"{found[0]} and {found[1]}! (in {name}, called by {_project_line()})"
            )
        return next(iter(gpus))

    def _copy(self, name: str, to: Tensor, of: Tensor, non_blocking: bool) -> Device | None:
        here, there = simulated_device(to), simulated_device(of)
        if here is ANY or there is ANY or here == there:
            return here or there
        pinned = getattr((of if here.type == "cuda" else to).untyped_storage(), "pinned", False)
        if of.dim() and not (non_blocking and pinned):
            self._gpu.add_wait(f"a blocking copy from {there} to {here}", name)
        return here

    def _index(self, name: str, args: tuple[Any, ...]) -> Device | None:
        device = simulated_device(args[0])
        if device is ANY or device.type != "cuda":
            if any(isinstance(of, Tensor) and not _on_cpu(of) for of in args[1]):
                raise RuntimeError(
                    f"indices should be either on cpu or on the same device as the indexed tensor "
                    f"(cpu) (called by {_project_line()})"
                )
            return device
        for index in filter(None.__ne__, args[1]):
            if _on_cpu(index):
                self._gpu.add_wait("an index is copied to the GPU", name)
            if index.dtype in (torch.bool, torch.uint8):
                self._gpu.add_wait("a shape depends on values", name)
        return device

    def _check(self, name: str, args, kwargs) -> None:
        has_kernel = torch._C._dispatch_has_computed_kernel_for_dispatch_key
        if torch.version.cuda and not has_kernel(name, "CUDA"):
            raise NotImplementedError(f"{name} has no CUDA kernel (called by {_project_line()})")
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Generator) and leaf not in self._gpu.generators:
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        for operator in (name, name.split(".")[0]):
            if operator in WAITS:
                self._gpu.add_wait(WAITS[operator], name)
                break

    def _compute(self, func, args, kwargs, device: Device | None) -> Any:
        """Run an operator; random numbers on a GPU come from its generator."""
        on_gpu = device is not ANY and device.type == "cuda"
        if not on_gpu or torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        own = self._gpu.generators[device.index]
        before = torch.get_rng_state()
        torch.default_generator.set_state(own.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            own.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(before)


def _on_cpu(tensor: Tensor) -> bool:
    return simulated_device(tensor) == CPU


@functools.cache
def _is_view(func) -> bool:
    return any(of.alias_info and not of.alias_info.is_write for of in func._schema.returns)


def _project_line() -> str:
    """The innermost line of the project in the stack."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(SOURCE):
            return f"{Path(frame.filename).relative_to(SOURCE).as_posix()}:{frame.lineno}"
    return "?"


def _by_the_caller(constructor: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function that creates a tensor: it is on the caller's device, by default on the CPU.

    Tensors that PyTorch creates by itself, in C++, do not pass the wrapper and are on `ANY`.
    """

    @functools.wraps(constructor)
    def construct(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if constructor.__name__ in ("tensor", "as_tensor") and device is not None:
            made = construct(*args, **{**kwargs, "device": None})
            return made.to(device)
        _thread.explicit = True
        try:
            return constructor(*args, **kwargs)
        finally:
            _thread.explicit = False

    return construct


def _of_tensors(gpu: SimulatedGPU) -> list[tuple[Any, str, Any]]:
    """The attributes of `Tensor` that are replaced."""

    def device(self: Tensor) -> Device:
        return simulated_device(self) or CPU

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        given = [*args, kwargs.get("device"), kwargs.get("other")]
        wanted = next((of for of in given if isinstance(of, str | Device | Tensor)), None)
        if wanted is None:
            return _TENSOR.to(self, *args, **kwargs)
        if isinstance(wanted, Tensor):
            other, args = wanted, ()
            wanted, kwargs = other.device, {"dtype": other.dtype}
        wanted = Device(wanted)
        if wanted.type not in ("cpu", "cuda"):
            return _TENSOR.to(self, *args, **kwargs)
        wanted = Device("cuda", wanted.index or 0) if wanted.type == "cuda" else CPU
        args = tuple(CPU if isinstance(of, str | Device) else of for of in args)
        kwargs = {name: CPU if name == "device" else of for name, of in kwargs.items()}
        moved, was = _TENSOR.to(self, *args, **kwargs), self.device
        if was == wanted:
            return moved
        gpu.check(wanted)
        non_blocking = kwargs.get("non_blocking", False) or True in args
        pinned = getattr(self.untyped_storage(), "pinned", False)
        if not (non_blocking and (wanted == CPU or pinned)):
            gpu.add_wait(f"a blocking copy from {was} to {wanted}", "aten::_to_copy")
        if moved.untyped_storage() is self.untyped_storage():
            moved = moved.clone(memory_format=torch.preserve_format)
        if was.type == "cuda":  # `clone` has assigned the copy to the GPU
            moved.untyped_storage().simulated_device = CPU  # type: ignore[attr-defined]
            return moved
        return gpu.assign(moved, wanted)

    def pin_memory(self: Tensor, device: Any = None) -> Tensor:
        if self.device != CPU:
            raise RuntimeError(f"cannot pin '{self.type()}' only dense CPU tensors can be pinned")
        copied = self.clone()
        copied.untyped_storage().pinned = True  # type: ignore[attr-defined]
        return copied

    def numpy(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.device != CPU:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy")
        return _TENSOR.numpy(self, *args, **kwargs)

    def tolist(self: Tensor) -> Any:
        if self.device != CPU:
            gpu.add_wait("values are fetched", "Tensor.tolist")
        return _TENSOR.tolist(self)

    copy_deeply = Tensor.__deepcopy__

    def deepcopy(self: Tensor, memo: dict[int, Any]) -> Tensor:
        recording, _thread.recording = getattr(_thread, "recording", False), False
        copied = copy_deeply(self, memo)
        _thread.recording = recording
        return gpu.assign(copied, self.device)

    return [
        (Tensor, "device", property(device)),
        (Tensor, "is_cuda", property(lambda self: self.device.type == "cuda")),
        (Tensor, "to", to),
        (Tensor, "cpu", lambda self, *_args: to(self, CPU)),
        (Tensor, "cuda", lambda self, device=None, *_args: to(self, Device("cuda", device or 0))),
        (Tensor, "pin_memory", pin_memory),
        (Tensor, "is_pinned", lambda self: getattr(self.untyped_storage(), "pinned", False)),
        (Tensor, "numpy", numpy),
        (Tensor, "tolist", tolist),
        (Tensor, "__deepcopy__", deepcopy),
    ]


def _of_torch(gpu: SimulatedGPU) -> list[tuple[Any, str, Any]]:
    """The functions of `torch` and `torch.cuda` that are replaced."""

    def index(device: Any = None) -> int:
        return (Device(device).index or 0) if device is not None else 0

    def mem_get_info(device: Any = None) -> tuple[int, int]:
        here = index(device)
        return gpu.memory - gpu.allocated[here] - gpu.cached[here], gpu.memory

    def manual_seed(number: int) -> None:
        for generator in gpu.generators:
            generator.manual_seed(number)

    def empty_cache() -> None:
        # A failed backward pass leaves its graph in the queue of the CPU's thread until the next
        # one. The thread of a GPU frees it at once.
        with torch.enable_grad():
            torch.zeros((), requires_grad=True).mul(1).backward()
        gpu.cached.clear()

    def set_fraction(fraction: float, device: Any = None) -> None:
        gpu.limit = int(fraction * gpu.memory)

    def reset_peak(device: Any = None) -> None:
        gpu.peak[index(device)] = gpu.allocated[index(device)]

    class Autocast(torch.amp.autocast_mode.autocast):
        """Autocast for the CPU, because the tensors are the CPU's."""

        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    def one_hot(label: Tensor, classes: int = -1) -> Tensor:
        """On CUDA, labels are not read if the number of classes is given."""
        if classes < 0:
            classes = int(label.max()) + 1
        return label.new_zeros((*label.shape, classes)).scatter_(-1, label.unsqueeze(-1), 1)

    @contextlib.contextmanager
    def graph(captured: SimulatedGraph, pool: Any = None, stream: Any = None) -> Iterator[None]:
        """Capture a CUDA graph."""
        if gpu._record is not None:
            gpu._record.captured = True
        with captured.captured():
            yield

    group = torch.optim.Optimizer._group_tensors_by_device_and_dtype

    def group_by_device(lists: list[list[Any]], with_indices: bool = False) -> dict[Any, Any]:
        """Group the weights of an optimiser by their simulated device."""
        return {
            (grouped[0][0].device, dtype): (grouped, indices)
            for (_, dtype), (grouped, indices) in group(lists, with_indices).items()
        }

    cuda = torch.cuda
    by_device = "_group_tensors_by_device_and_dtype"
    return [
        (torch.optim.Optimizer, by_device, staticmethod(group_by_device)),
        (torch.nn.utils.clip_grad, by_device, group_by_device),
        (torch.nn.functional, "one_hot", one_hot),
        (cuda, "_lazy_init", lambda: None),
        (cuda, "is_available", lambda: True),
        (cuda, "is_initialized", lambda: True),
        (cuda, "device_count", lambda: gpu.devices),
        (cuda, "current_device", lambda: 0),
        (cuda, "get_device_capability", lambda device=None: gpu.capability),
        (cuda, "is_current_stream_capturing", lambda: gpu.capturing is not None),
        (cuda, "CUDAGraph", lambda: SimulatedGraph(gpu)),
        (cuda, "graph", graph),
        (cuda, "Stream", lambda device=None: mock.Mock(spec=["wait_stream"])),
        (cuda, "current_stream", lambda device=None: mock.Mock(spec=["wait_stream"])),
        (cuda, "stream", lambda _stream: contextlib.nullcontext()),
        (cuda, "mem_get_info", mem_get_info),
        (cuda, "memory_allocated", lambda device=None: gpu.allocated[index(device)]),
        (cuda, "max_memory_allocated", lambda device=None: gpu.peak[index(device)]),
        (
            cuda,
            "memory_reserved",
            lambda device=None: gpu.allocated[index(device)] + gpu.cached[index(device)],
        ),
        (cuda, "reset_peak_memory_stats", reset_peak),
        (cuda, "empty_cache", empty_cache),
        (cuda, "set_per_process_memory_fraction", set_fraction),
        (cuda, "set_sync_debug_mode", lambda mode: setattr(gpu, "sync_debug_mode", mode)),
        (cuda, "get_sync_debug_mode", lambda: gpu.sync_debug_mode),
        (cuda, "synchronize", lambda device=None: gpu.add_wait("it is requested", "synchronize")),
        (cuda, "manual_seed_all", manual_seed),
        (cuda, "get_rng_state", lambda device="cuda": gpu.generators[index(device)].get_state()),
        (
            cuda,
            "set_rng_state",
            lambda state, device="cuda": gpu.generators[index(device)].set_state(state),
        ),
        (torch, "autocast", Autocast),
    ]
