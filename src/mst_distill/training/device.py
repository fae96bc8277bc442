"""The device a run computes on, its precision, and how much memory it may fill."""

from __future__ import annotations

import contextlib

import psutil
import torch

from mst_distill.parameters import Runtime


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:1`` into a device.

    From then on float32 means float32 on it: by default CUDA rounds the factors of convolutions to
    TF32's ten bits.

    Raises:
        ValueError: There is no such device here.
    """
    torch.backends.cudnn.allow_tf32 = False
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


def autocast(device: torch.device, runtime: Runtime) -> contextlib.AbstractContextManager[object]:
    """The context in which forward passes run at the chosen precision."""
    if runtime.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes take at most half of the device's memory that is free now."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    return size <= free // 2
