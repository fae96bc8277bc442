"""How much memory is free and was used, and how freed memory stays in the process."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from mst_distill.errors import is_expected

CGROUP = Path("/sys/fs/cgroup")
"""The folder with the memory limit of a container."""

PROCESS = Path("/proc/self")
"""The folder in which Linux, and no other system, reports on the process and resets its peak."""

_V1 = "memory/memory"
_ACCOUNTS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (f"{_V1}.limit_in_bytes", f"{_V1}.usage_in_bytes", f"{_V1}.stat", "total_inactive_file"),
)
"""The files of the limit, the use and the statistics, and the entry for reclaimable file pages.

The first row is for version 2 of cgroups, the second for version 1.
"""

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
"""Parameters of glibc's `mallopt`, from its header."""


_sharers = [1]


def share_memory(processes: int) -> None:
    """Let this process take a share of the free memory, as one of several that need as much."""
    _sharers[0] = processes


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes take at most half of the memory that is now free.

    This is the free memory of the GPU, with what PyTorch's allocator keeps for later tensors, or
    that of the machine and its container. Because every large allocation takes at most half of what
    is free, there is memory left for later allocations and for the training steps. Several
    processes share that half, see `share_memory`.
    """
    divisor = 2 * _sharers[0]
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return size <= (torch.cuda.mem_get_info(device)[0] + kept) // divisor
    return size <= min(psutil.virtual_memory().available, _left_in_container()) // divisor


def _left_in_container() -> int:
    for limit, used, stat, cached in _ACCOUNTS:
        try:
            left = int((CGROUP / limit).read_text(encoding="utf-8")) - int(
                (CGROUP / used).read_text(encoding="utf-8")
            )
            details = dict(
                line.split() for line in (CGROUP / stat).read_text(encoding="utf-8").splitlines()
            )
        except (OSError, ValueError):  # no container, or no limit: the file then contains "max"
            continue
        # The kernel drops cached pages of files when memory is needed.
        return left + int(details[cached])
    return sys.maxsize


_WITHOUT_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
    "CUDA out of memory",
)
"""What the messages of CUDA's libraries contain if they could not allocate memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the GPU is exhausted.

    PyTorch has a class for it. The libraries for products and convolutions report it in the message
    of a `RuntimeError`.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(of in str(error) for of in _WITHOUT_MEMORY)


@contextlib.contextmanager
def naming_memory(what: str, advice: str) -> Iterator[None]:
    """State what did not fit in the GPU's memory, and what to do, if it is exhausted inside.

    Raises:
        torch.OutOfMemoryError: With this message; an error that has a message of this package
            passes.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error) or is_expected(error):
            raise
        raise torch.OutOfMemoryError(
            f"{what} does not fit in the GPU's memory: {advice} or runtime.device=cpu"
        ) from error


class Peak:
    """Measure the peak memory inside a context.

    On CUDA this is the memory of tensors on the device, otherwise the memory of the process.
    Systems other than Linux report only the peak since the process began, which may have been
    before the context: there is no measurement on them.

    Attributes:
        bytes: The peak, after the context; None where it cannot be measured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peak_was_reset = False
        self.bytes: int | None = None

    def __enter__(self) -> Peak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            _return_freed_memory()
            with contextlib.suppress(OSError):
                (PROCESS / "clear_refs").write_text("5", encoding="utf-8")  # resets VmHWM
                self._peak_was_reset = True
        return self

    def __exit__(self, *_error: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        elif self._peak_was_reset:
            self.bytes = most_held()


def most_held() -> int:
    """The peak memory of the process in bytes, since it began or since the last `Peak` began."""
    with contextlib.suppress(OSError):
        for line in (PROCESS / "status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    # psutil reports the peak on Windows, and the standard library on all other systems.
    held: int | None = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if held is not None:
        return held
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes elsewhere
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _return_freed_memory() -> None:
    """Return freed memory to the system, so that it does not count in the next peak."""
    libc = _c_library()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step instead of returning it to the system.

    By default glibc maps new memory for every large tensor, and the kernel fills it with zeros page
    by page. This takes half the time of a step of stage 1 on AV-MNIST. Without glibc this function
    does nothing.
    """
    libc = _c_library()
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)  # no mapping of its own for a large block
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # the heap does not shrink
        libc.mallopt(_M_ARENA_MAX, 1)  # all threads reuse the same freed memory


def _c_library() -> Any:
    """The C library of the process; None on Windows, where a library has to be named."""
    try:
        return ctypes.CDLL(None)
    except (TypeError, OSError):
        return None
