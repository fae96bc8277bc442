"""The device a run computes on, and how: precision, layout of the weights, what suits a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

from mst_distill.parameters import Runtime
from mst_distill.training.memory import keep_freed_memory

WIDE = 2**18
"""From how many weights on a matrix counts as large."""


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device.

    Raises:
        ValueError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"runtime.device {name!r} is not to be had here: {error}; 'auto' or 'cpu' always is"
        ) from error
    return device


def prepare(device: torch.device, runtime: Runtime) -> None:
    """Set for the whole process what float32 means, and on a CPU that freed memory is kept.

    On CUDA float32 is float32 unless ``tf32`` is asked for; by default PyTorch rounds the factors
    of convolutions.
    """
    rounding = "tf32" if runtime.precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = rounding
    torch.backends.cudnn.conv.fp32_precision = rounding  # type: ignore[attr-defined]
    if device.type == "cpu":
        keep_freed_memory()


def wide_products(device: torch.device, net: nn.Module) -> contextlib.AbstractContextManager[None]:
    """On a CPU let oneDNN multiply float32 matrices inside, if `net` has a large one.

    On AMD's processors MKL, which PyTorch prefers, takes twice as long for large matrices; for
    small ones oneDNN's calls cost more than they save.
    """
    wide = any(weight.dim() == 2 and weight.numel() >= WIDE for weight in net.parameters())
    if wide and device.type == "cpu" and _onednn_is_exact():
        return _onednn()
    return contextlib.nullcontext()


@contextlib.contextmanager
def _onednn() -> Iterator[None]:
    """Inside, oneDNN multiplies float32 matrices, which PyTorch lets it do if it may round them."""
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, settings.fp32_precision = settings.fp32_precision, "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@cache
def _onednn_is_exact() -> bool:
    """Whether oneDNN multiplies in float32 here though it may round to bfloat16.

    It rounds on processors with tiles for bfloat16 and on no others: so it is tried with a number
    that bfloat16 does not have.
    """
    number = torch.full((64, 64), 1 + 2**-20)
    with _onednn():
        return torch.equal(number @ torch.eye(64), number)


def place(net: nn.Module, device: torch.device) -> nn.Module:
    """Bring `net` to the device; on a CPU kernels lie channels last where a net says they may.

    There the first convolutions of a net, which have few channels, take a tenth of the time. What
    follows them sees maps whose channels lie last too, which `Tensor.view` refuses: so a net or a
    part of one says ``channels_last = True`` if it does without.
    """
    net.to(device)
    if device.type == "cpu":
        for part in net.modules():
            if getattr(part, "channels_last", False):
                _lay_channels_last(part)
    return net


def _lay_channels_last(net: nn.Module) -> None:
    for weight in net.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def autocast(device: torch.device, runtime: Runtime) -> contextlib.AbstractContextManager[object]:
    """The context in which forward passes run at the chosen precision."""
    if runtime.precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
