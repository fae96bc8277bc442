"""How much memory there is to fill, and that a CPU's is not handed back after every step."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")
"""Where a container's own limit stands."""

_V1 = "memory/memory"
_ACCOUNTS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (f"{_V1}.limit_in_bytes", f"{_V1}.usage_in_bytes", f"{_V1}.stat", "total_inactive_file"),
)
"""Limit, use, and what of it could be dropped, as versions 2 and 1 of cgroups tell them."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes take at most half of what is free now on the device or in a container.

    Asked before every large thing is laid down, each leaves room for the next and for the steps.
    """
    if device.type == "cuda":
        return size <= torch.cuda.mem_get_info(device)[0] // 2
    return size <= min(psutil.virtual_memory().available, _left_in_container()) // 2


def _left_in_container() -> int:
    for limit, used, stat, cached in _ACCOUNTS:
        try:
            left = int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text())
            details = dict(line.split() for line in (CGROUP / stat).read_text().splitlines())
        except (OSError, ValueError):  # no container, or one without a limit, which says "max"
            continue
        # Pages of files that were read are dropped when room is wanted.
        return left + int(details[cached])
    return sys.maxsize


class Peak:
    """The most memory that was held at once inside.

    On CUDA what tensors held there; else what the process held, as Linux tells it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes: int | None = None

    def __enter__(self) -> Peak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            _hand_back()
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *_error: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
            return
        with contextlib.suppress(OSError):
            status = Path("/proc/self/status").read_text()
            (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
            self.bytes = 1024 * int(line.split()[1])


def _hand_back() -> None:
    """Let go of what was freed, or one trial's peak would be the next one's floor."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next step, instead of handing it back.

    By default glibc maps every large tensor anew, and the kernel fills it with zeros page by page:
    half the time of a step of stage 1 on AV-MNIST. Does nothing where there is no glibc.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_ARENA_MAX, 1)
