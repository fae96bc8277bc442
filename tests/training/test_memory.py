"""Free memory inside and outside a container, reuse of freed memory, and peaks."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from mst_distill.training.memory import Peak, fits, keep_freed_memory, most_held, share_memory

CPU = torch.device("cpu")
LARGE = 40 * 2**20
"""Bytes of a tensor for which the C library by default maps new memory every time."""


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder for the limits of a container, on a machine with 2001 free bytes."""
    monkeypatch.setattr("mst_distill.training.memory.CGROUP", tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2001))
    return tmp_path


def limit(container: Path, largest: str, current: str, cached: int = 0) -> None:
    (container / "memory.max").write_text(f"{largest}\n")
    (container / "memory.current").write_text(f"{current}\n")
    (container / "memory.stat").write_text(f"anon 7\ninactive_file {cached}\n")


def test_half_of_the_free_memory_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fits(0, CPU)
    assert not fits(2**60, CPU)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1001))
    assert fits(500, CPU)
    assert not fits(501, CPU)


def test_half_of_the_free_memory_of_a_container_may_be_used(container: Path) -> None:
    limit(container, "1501", "500")
    assert fits(500, CPU)
    assert not fits(501, CPU)


def test_the_free_memory_of_the_machine_counts_if_the_limit_of_a_container_is_larger(
    container: Path,
) -> None:
    limit(container, "9000", "500")
    assert fits(1000, CPU)
    assert not fits(1001, CPU)


def test_nothing_fits_in_a_full_container(container: Path) -> None:
    limit(container, "1000", "1000")
    assert not fits(1, CPU)
    limit(container, "1000", "1200")
    assert not fits(1, CPU)


def test_cached_file_pages_count_as_free_memory_of_a_container(container: Path) -> None:
    limit(container, "1500", "900", cached=400)
    assert fits(500, CPU)
    assert not fits(501, CPU)


def test_limits_of_cgroups_version_1_are_found(container: Path) -> None:
    older = container / "memory"
    older.mkdir()
    (older / "memory.limit_in_bytes").write_text("1500\n")
    (older / "memory.usage_in_bytes").write_text("900\n")
    (older / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 400\n")
    assert fits(500, CPU)
    assert not fits(501, CPU)


def test_a_container_without_a_limit_may_use_the_memory_of_the_machine(container: Path) -> None:
    limit(container, "max", "500")
    assert fits(1000, CPU)
    assert not fits(1001, CPU)


@pytest.mark.parametrize("files", [[], ["memory.max"], ["memory.current"]])
def test_without_a_container_the_memory_of_the_machine_counts(
    container: Path, files: list[str]
) -> None:
    for name in files:
        (container / name).write_text("10\n")
    assert fits(1000, CPU)
    assert not fits(1001, CPU)


def new_pages(times: int) -> int:
    """The number of pages that the kernel fills for so many large tensors, one after another."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(LARGE // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_reused_for_later_tensors() -> None:
    if sys.platform == "win32" or not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no setting to keep freed memory")
    import resource

    keep_freed_memory()
    new_pages(12)
    assert new_pages(8) < 4 * LARGE // resource.getpagesize()


def test_without_access_to_the_c_library_no_setting_is_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Windows, Python raises this error if the library has no name."""

    def raise_type_error(name: str | None) -> None:
        raise TypeError("argument of type 'NoneType' is not iterable")

    monkeypatch.setattr(ctypes, "CDLL", raise_type_error)
    keep_freed_memory()
    with Peak(CPU):
        pass


def test_keep_freed_memory_can_be_called_more_than_once() -> None:
    for size in (10, 2**22, 3, 2**23):
        keep_freed_memory()
        tensors = [torch.full((size,), number) for number in (1.0, 2.0)]
        del tensors[0]
        tensors.append(torch.full((size,), 3.0))
        assert (tensors[0] == 2).all()
        assert (tensors[1] == 3).all()


def test_there_is_no_peak_if_the_system_cannot_reset_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on macOS, where the peak of the process may be that of an earlier trial."""
    monkeypatch.setattr("mst_distill.training.memory.PROCESS", tmp_path / "none")
    with Peak(CPU) as peak:
        np.ones(1)
    assert peak.bytes is None


@pytest.mark.skipif(sys.platform == "win32", reason="the next test covers Windows")
def test_most_held_works_without_the_files_of_linux(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mst_distill.training.memory.PROCESS", tmp_path / "none")
    now = psutil.Process().memory_info().rss
    assert 0.9 * now < most_held() < psutil.virtual_memory().total


def test_most_held_reads_the_peak_that_windows_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mst_distill.training.memory.PROCESS", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "resource", None)
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=1, peak_wset=12345))
    monkeypatch.setattr("psutil.Process", lambda: process)
    assert most_held() == 12345


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset a peak")
def test_a_peak_covers_its_context_alone():
    def peak_of(count):
        with Peak(torch.device("cpu")) as peak:
            np.ones(count)
        return peak.bytes

    before = peak_of(1)
    assert peak_of(2**25) - before > 2**27  # 256 MB of numbers, most of them in new pages
    assert peak_of(1) - before < 2**27


def test_several_processes_share_the_half(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mst_distill.training.memory._sharers", [1])
    limit(container, "1501", "500")
    share_memory(2)
    assert fits(250, CPU)
    assert not fits(251, CPU)
