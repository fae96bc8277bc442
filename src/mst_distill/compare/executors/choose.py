"""Makes the executor that the parameters name, with a share of the machine for each worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import torch

from mst_distill.compare.executors.base import Executor, J, R, Sequential
from mst_distill.compare.executors.processes import Processes
from mst_distill.parameters import Runtime

SHARES = (0.25, 0.5)
"""The shares of a GPU that a trial may have, but for the whole."""

CONTEXT = 600 * 2**20
"""The memory in bytes that CUDA takes for a process: about 500 MiB on an H100."""

MARGIN = 1.3
"""How much more memory a trial gets than its largest tensors took: the allocator leaves gaps."""


def check_available(runtime: Runtime) -> None:
    """Check that the executor can be used here.

    Raises:
        ValueError: A package is not installed, or a command not found.
    """
    needed = {"ray": "ray", "slurm": "submitit"}.get(runtime.executor)
    if needed and find_spec(needed) is None:
        raise ValueError(
            f"runtime.executor={runtime.executor} needs the package {needed}: install it with "
            f"`make engines`, or choose processes"
        )
    if runtime.executor == "slurm" and which("sbatch") is None:
        raise ValueError(
            "runtime.executor=slurm needs the command sbatch, which is not on the PATH: run this "
            "on a login node of the cluster, or choose processes"
        )


def executor_of(
    runtime: Runtime, make_work: Callable[..., Callable[[J], R]], folder: Path, share: float = 1
) -> Executor[J, R]:
    """The executor that the parameters name.

    Args:
        runtime: The parameters.
        make_work: Makes the function that is applied to jobs; it can be pickled. Its arguments are
            `threads`, the threads of the worker, or None for those that PyTorch chooses; and
            `sharers`, the number of workers that share the memory, or None for as many as the
            processors of the machine have room for.
        folder: Where an executor may keep files, on storage that all workers share.
        share: The share of a GPU for each worker, if there are GPUs.

    Raises:
        ValueError: The options of Slurm or the cluster of Ray do not suit.
    """
    threads = runtime.threads or 1
    together = int(1 / share)
    if runtime.executor == "processes":
        gpus = _gpus(runtime.device)
        workers = runtime.workers or (len(gpus) * together or os.cpu_count() or 1)
        work = partial(
            make_work,
            threads=runtime.threads or max(1, torch.get_num_threads() // workers),
            sharers=-(-workers // max(1, len(gpus))),
        )
        return Processes(work, workers, gpus if len(gpus) > 1 else None)
    if runtime.executor == "ray":
        from mst_distill.compare.executors.on_ray import RayWorkers

        gpu = share if runtime.device != "cpu" else 0
        work = partial(make_work, threads=threads, sharers=together if share < 1 else None)
        return RayWorkers(work, runtime.workers, threads, gpu)
    if runtime.executor == "slurm":
        from mst_distill.compare.executors.on_slurm import SlurmJobs

        options = {"cpus_per_task": threads * together, **runtime.slurm}
        work = partial(make_work, threads=threads, sharers=together)
        return SlurmJobs(work, folder, runtime.workers, together, options)
    return Sequential(partial(make_work, threads=None, sharers=1))


def share_of(peak: int, total: int) -> float:
    """The smallest share of a GPU that is large enough for a trial.

    Args:
        peak: The largest memory of tensors that a trial has had, in bytes.
        total: The memory of the GPU in bytes.
    """
    needed = CONTEXT + MARGIN * peak
    return next((share for share in SHARES if needed <= share * total), 1)


def measured_memory(runtime: Runtime) -> int | None:
    """The memory of a GPU of this machine in bytes, if the share of trials follows from it."""
    if runtime.executor != "processes" or runtime.gpu_share != "auto" or not _gpus(runtime.device):
        return None
    return torch.cuda.get_device_properties(0).total_memory


def _gpus(device: str) -> Sequence[str]:
    """The GPUs over which processes may be spread, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if device == "cpu" or not torch.cuda.is_available():
        return ()
    if device not in ("auto", "cuda"):
        return (device,)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [*map(str, range(torch.cuda.device_count()))]
