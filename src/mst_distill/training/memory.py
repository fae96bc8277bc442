"""How much memory there is to fill, and that a CPU's is not handed back after every step."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")
"""Where a container's own limit stands."""

PROCESS = Path("/proc/self")
"""Where Linux, and no other system, tells of the process and lets its peak be forgotten."""

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

    On CUDA what tensors held there; else what the process held. Other systems than Linux tell only
    the peak since the process began, which may have been before: there nothing is told.

    Attributes:
        bytes: The peak, once it is over; None where it cannot be told.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._forgotten = False
        self.bytes: int | None = None

    def __enter__(self) -> Peak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            _hand_back()
            with contextlib.suppress(OSError):
                (PROCESS / "clear_refs").write_text("5")
                self._forgotten = True
        return self

    def __exit__(self, *_error: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        elif self._forgotten:
            self.bytes = most_held()


def most_held() -> int:
    """The most bytes that the process held at once since it began, or since a `Peak` was begun."""
    with contextlib.suppress(OSError):
        for line in (PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    # psutil has it on Windows, and the standard library on all other systems.
    held: int | None = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if held is not None:
        return held
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _hand_back() -> None:
    """Let go of what was freed, or one trial's peak would be the next one's floor."""
    libc = _c_library()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next step, instead of handing it back.

    By default glibc maps every large tensor anew, and the kernel fills it with zeros page by page:
    half the time of a step of stage 1 on AV-MNIST. Does nothing where there is no glibc.
    """
    libc = _c_library()
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_ARENA_MAX, 1)


def _c_library() -> Any:
    """What the process is linked with; None on Windows, which wants a name."""
    try:
        return ctypes.CDLL(None)
    except (TypeError, OSError):
        return None
