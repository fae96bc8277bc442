"""The executor that the parameters name, and the share of each worker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mst_distill.compare.executors import choose
from mst_distill.compare.executors.base import Executor, Sequential, Workers
from mst_distill.compare.executors.processes import Processes
from mst_distill.parameters import Runtime
from toy_jobs import Given, Number, make_given

GIB = 2**30


def workers_of(executor: Executor[Any, Any]) -> int:
    assert isinstance(executor, Workers)
    return len(executor._slots)


def given(tmp_path: Path, share: float = 1, **runtime: object) -> list[Given]:
    with choose.executor_of(Runtime(**runtime), make_given, tmp_path, share) as executor:
        return [result for _, result in executor.run([Number(0), Number(1)], lambda job: None)]


def test_the_parameters_name_the_executor(tmp_path: Path) -> None:
    sequential = choose.executor_of(Runtime(), make_given, tmp_path)
    assert isinstance(sequential, Sequential)
    several = choose.executor_of(Runtime(executor="processes", workers=3), make_given, tmp_path)
    assert isinstance(several, Processes)
    assert workers_of(several) == 3
    default = choose.executor_of(Runtime(executor="processes"), make_given, tmp_path)
    assert workers_of(default) == os.cpu_count()


def test_this_process_has_all_threads_and_the_whole_memory(tmp_path: Path) -> None:
    assert given(tmp_path) == [Given(None, 1, None)] * 2


def test_processes_share_the_threads_and_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert given(tmp_path, executor="processes", workers=2) == [Given(4, 2, None)] * 2
    assert given(tmp_path, executor="processes", workers=2, threads=3) == [Given(3, 2, None)] * 2


def test_processes_take_the_gpus_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    both = given(tmp_path, executor="processes")
    assert sorted(both, key=str) == [Given(4, 1, "0"), Given(4, 1, "1")]
    halves = choose.executor_of(Runtime(executor="processes"), make_given, tmp_path, 0.5)
    assert workers_of(halves) == 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert {of.device for of in given(tmp_path, executor="processes")} == {"5", "7"}
    # A device that is named is that of all processes.
    named = choose.executor_of(
        Runtime(executor="processes", device="cuda:1"), make_given, tmp_path, 0.25
    )
    assert workers_of(named) == 4


@pytest.mark.parametrize(
    ("peak", "share"),
    [(0, 0.25), (10 * GIB, 0.25), (14 * GIB, 0.25), (16 * GIB, 0.5), (35 * GIB, 1), (79 * GIB, 1)],
)
def test_a_share_holds_the_peak_the_gaps_and_the_context(peak: int, share: float) -> None:
    total = 80 * GIB
    assert choose.share_of(peak, total) == share
    assert share == 1 or share * total >= 1.3 * peak + 600 * 2**20


def test_the_share_is_measured_on_a_gpu_of_this_machine_alone() -> None:
    assert choose.measured_memory(Runtime(executor="processes")) is None
    assert choose.measured_memory(Runtime(executor="ray")) is None


def test_a_package_or_a_command_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    choose.check_available(Runtime())
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package ray: install it with `make engines`"):
        choose.check_available(Runtime(executor="ray"))
    monkeypatch.setattr(choose, "find_spec", lambda name: object())
    monkeypatch.setattr(choose, "which", lambda name: None)
    with pytest.raises(ValueError, match="sbatch, which is not on the PATH"):
        choose.check_available(Runtime(executor="slurm"))
