"""The device of a run, with the precision, weight layout and matrix library that suit it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

from mst_distill.parameters import Runtime
from mst_distill.training.memory import keep_freed_memory
from mst_distill.user import ensure_user_name

log = logging.getLogger(__name__)

WIDE = 2**18
"""The number of weights from which a matrix counts as large."""


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device that can compute.

    ``auto`` is the GPU, or the CPU with a warning if the GPU cannot be used.

    Raises:
        ValueError: The device is not available on this machine.
    """
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        device = torch.device("cuda" if name == "auto" else name)
        # PyTorch may have no kernels for an old GPU, which only a computation shows.
        torch.zeros(1, device=device).add(1).cpu()
    except (RuntimeError, AssertionError) as error:
        if name == "auto":
            log.warning("The GPU cannot be used, the run is computed on the CPU: %s", error)
            return torch.device("cpu")
        raise ValueError(
            f"runtime.device {name!r} is not available here: {error}; choose 'auto' or 'cpu'"
        ) from error
    return device


def prepare(device: torch.device, runtime: Runtime) -> None:
    """Set the precision of float32 on CUDA; on a CPU keep freed memory, and flush tiny numbers.

    Tiny numbers are those below 1.2e-38 in float32. Intel's processors take ten times as long and
    more for them, and the second moments of Adam, which are squares of gradients, reach them. This
    thread, also outside PyTorch, and threads that PyTorch starts later compute with zeros instead;
    in float64 these are numbers below 2.2e-308.

    PyTorch's optimisers also need a name for the user. All settings hold for the whole process. By
    default PyTorch rounds the factors of convolutions on CUDA to TF32. Here float32 is computed as
    float32 unless ``tf32`` is the run's precision.
    """
    ensure_user_name()
    # These switches also set the newer `fp32_precision`. The reverse does not hold: after a change
    # of the newer ones, PyTorch's own functions that read these raise an error.
    rounds = runtime.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = rounds
    torch.backends.cudnn.allow_tf32 = rounds
    if device.type == "cpu":
        keep_freed_memory()
        torch.set_flush_denormal(True)


def settle_precision(runtime: Runtime) -> Runtime:
    """Replace the precision ``auto`` by bfloat16 on a GPU of Ampere or newer, else by float32.

    Raises:
        ValueError: The precision is ``auto``, and the device is not available on this machine.
    """
    if runtime.precision != "auto":
        return runtime
    device = resolve_device(runtime.device)
    # Tensor cores for bfloat16 came with Ampere.
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return runtime.model_copy(update={"precision": "bfloat16" if fast else "float32"})


def wide_products(device: torch.device, net: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a context in which oneDNN multiplies float32 matrices, if this is faster for `net`.

    It is used on a CPU if `net` has a large matrix and oneDNN does not round there. On AMD
    processors MKL, which PyTorch prefers, takes twice as long for large matrices. For small
    matrices the overhead of oneDNN's calls is larger than the gain.
    """
    wide = any(weight.dim() == 2 and weight.numel() >= WIDE for weight in net.parameters())
    if wide and device.type == "cpu" and _onednn_is_exact():
        return _onednn()
    return contextlib.nullcontext()


@contextlib.contextmanager
def _onednn() -> Iterator[None]:
    """Let oneDNN multiply float32 matrices inside the context.

    PyTorch uses oneDNN for them only if it permits rounding to bfloat16; see `_onednn_is_exact`.
    """
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, settings.fp32_precision = settings.fp32_precision, "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@cache
def _onednn_is_exact() -> bool:
    """Whether oneDNN multiplies in float32 on this processor although it may round to bfloat16.

    It rounds only on processors with tile instructions for bfloat16. To find out, a number that
    bfloat16 cannot represent is multiplied by 1.
    """
    number = torch.full((64, 64), 1 + 2**-20)
    with _onednn():
        return torch.equal(number @ torch.eye(64), number)


def place(net: nn.Module, device: torch.device, runtime: Runtime) -> nn.Module:
    """Move `net` to the device, and lay its kernels out channels last where it permits that.

    With this layout the first convolutions of a net, which have few channels, take a tenth of the
    time on a CPU, and the tensor cores of a GPU, which compute bfloat16 and TF32, need no copies in
    another layout. The layers after them then receive maps in the same layout, to which
    `Tensor.view` often cannot be applied. A net or submodule that does not depend on `view`
    therefore declares ``channels_last = True``.
    """
    net.to(device)
    if device.type == "cpu" or runtime.precision != "float32":
        for module in net.modules():
            if getattr(module, "channels_last", False):
                _to_channels_last(module)
    return net


def _to_channels_last(net: nn.Module) -> None:
    for weight in net.parameters():
        if weight.dim() == 4:  # kernels of 2-D convolutions
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def autocast(device: torch.device, runtime: Runtime) -> contextlib.AbstractContextManager[object]:
    """Return the context in which forward passes run in the precision of `runtime`."""
    if runtime.precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
