"""How much memory there is to fill, in and out of a container, and that freed memory is kept."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from mst_distill.training.memory import Peak, fits, keep_freed_memory, most_held

CPU = torch.device("cpu")
LARGE = 40 * 2**20
"""Bytes of a tensor that the C library would by default map and hand back every time."""


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the limits of a container stand, on a machine of which 2001 bytes are free."""
    monkeypatch.setattr("mst_distill.training.memory.CGROUP", tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2001))
    return tmp_path


def limit(container: Path, largest: str, current: str, cached: int = 0) -> None:
    (container / "memory.max").write_text(f"{largest}\n")
    (container / "memory.current").write_text(f"{current}\n")
    (container / "memory.stat").write_text(f"anon 7\ninactive_file {cached}\n")


def test_half_of_the_free_memory_may_be_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fits(0, CPU)
    assert not fits(2**60, CPU)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1001))
    assert fits(500, CPU)
    assert not fits(501, CPU)


def test_half_of_what_is_left_in_a_container_may_be_filled(container: Path) -> None:
    limit(container, "1501", "500")
    assert fits(500, CPU)
    assert not fits(501, CPU)


def test_what_others_leave_counts_where_a_container_might_have_more(container: Path) -> None:
    limit(container, "9000", "500")
    assert fits(1000, CPU)
    assert not fits(1001, CPU)


def test_a_container_that_is_full_holds_nothing_more(container: Path) -> None:
    limit(container, "1000", "1000")
    assert not fits(1, CPU)
    limit(container, "1000", "1200")
    assert not fits(1, CPU)


def test_files_that_were_read_take_no_room_in_a_container(container: Path) -> None:
    limit(container, "1500", "900", cached=400)
    assert fits(500, CPU)
    assert not fits(501, CPU)


def test_a_container_of_the_older_kind_has_its_limit_elsewhere(container: Path) -> None:
    older = container / "memory"
    older.mkdir()
    (older / "memory.limit_in_bytes").write_text("1500\n")
    (older / "memory.usage_in_bytes").write_text("900\n")
    (older / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 400\n")
    assert fits(500, CPU)
    assert not fits(501, CPU)


def test_a_container_without_a_limit_is_as_large_as_the_machine(container: Path) -> None:
    limit(container, "max", "500")
    assert fits(1000, CPU)
    assert not fits(1001, CPU)


@pytest.mark.parametrize("there", [[], ["memory.max"], ["memory.current"]])
def test_without_a_container_the_machine_alone_counts(container: Path, there: list[str]) -> None:
    for name in there:
        (container / name).write_text("10\n")
    assert fits(1000, CPU)
    assert not fits(1001, CPU)


def fresh_pages(times: int) -> int:
    """Pages that the kernel has to fill for as many large tensors, one after another."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(LARGE // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_kept_for_the_tensors_to_come() -> None:
    if sys.platform == "win32" or not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library cannot be told to keep memory")
    import resource

    keep_freed_memory()
    fresh_pages(12)
    assert fresh_pages(8) < 4 * LARGE // resource.getpagesize()


def test_where_the_c_library_wants_a_name_memory_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Python does on Windows."""

    def unnamed(name: str | None) -> None:
        raise TypeError("argument of type 'NoneType' is not iterable")

    monkeypatch.setattr(ctypes, "CDLL", unnamed)
    keep_freed_memory()
    with Peak(CPU):
        pass


def test_memory_can_be_kept_more_than_once() -> None:
    for size in (10, 2**22, 3, 2**23):
        keep_freed_memory()
        tensors = [torch.full((size,), number) for number in (1.0, 2.0)]
        del tensors[0]
        tensors.append(torch.full((size,), 3.0))
        assert (tensors[0] == 2).all()
        assert (tensors[1] == 3).all()


def test_where_a_peak_is_never_forgotten_none_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on macOS; that of the whole process would be an earlier trial's."""
    monkeypatch.setattr("mst_distill.training.memory.PROCESS", tmp_path / "none")
    with Peak(CPU) as peak:
        np.ones(1)
    assert peak.bytes is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has another way, see below")
def test_what_was_held_at_most_is_told_without_linux_s_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mst_distill.training.memory.PROCESS", tmp_path / "none")
    now = psutil.Process().memory_info().rss
    assert 0.9 * now < most_held() < psutil.virtual_memory().total


def test_what_was_held_at_most_is_told_as_windows_tells_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mst_distill.training.memory.PROCESS", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "resource", None)
    told = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=1, peak_wset=12345))
    monkeypatch.setattr("psutil.Process", lambda: told)
    assert most_held() == 12345


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can forget a peak")
def test_the_peak_is_that_of_what_was_done_inside():
    def held(count):
        with Peak(torch.device("cpu")) as peak:
            np.ones(count)
        return peak.bytes

    before = held(1)
    assert held(2**25) - before > 2**27  # 256 MB of numbers, most of them in new pages
    assert held(1) - before < 2**27
