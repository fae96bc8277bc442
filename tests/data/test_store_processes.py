"""Several processes and one sample store: one that was killed, and two at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from array_sources import remaining_entries
from mst_distill.data.store import open_store

SLOW_BUILD = """
import logging, os, sys, time
from pathlib import Path
import numpy as np, pandas as pd
from mst_distill.data import store
from mst_distill.benchmarks.source import SampleSource

class Slow(SampleSource):
    classes = ("a", "b")

    def __init__(self):
        self.files = [Path(__file__)]
        rows = np.arange(30)
        self.index = pd.DataFrame({"id": rows.astype(str), "group": rows.astype(str)})
        self.index = self.index.assign(split="train", label=rows % 2, row=rows)

    def read(self, part):
        with open(sys.argv[2], "a") as file:
            file.write(f"{os.getpid()} {part['row'].iloc[0]}\\n")
        while part["row"].iloc[0] == int(sys.argv[3]) and not Path(sys.argv[4]).exists():
            time.sleep(0.01)
        return {"image": part["row"].to_numpy("float32")[:, None] * np.ones(5, np.float32)}

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    store.SLICE_BYTES = 1
    store.write_store(Slow(), Path(sys.argv[1]))
    print(store.open_store(Path(sys.argv[1])).digest)
"""


class Script:
    """Builds a store row by row in a process of its own, which logs every read."""

    def __init__(self, root: Path) -> None:
        self.path, self.log, self.gate = root / "slow.py", root / "reads.txt", root / "go"
        self.path.write_text(SLOW_BUILD)

    def start(self, folder: Path, hold: int = -1) -> subprocess.Popen[str]:
        """Start a process, which waits at the row `hold` until the file `gate` exists."""
        arguments = [self.path, folder, self.log, hold, self.gate]
        return subprocess.Popen(
            [sys.executable, "-u", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def reads(self) -> list[tuple[int, int]]:
        """Return process and row of every read, in order."""
        lines = self.log.read_text().splitlines() if self.log.is_file() else []
        return [(int(pid), int(row)) for pid, row in map(str.split, lines)]

    def wait_for(self, reads: int, process: subprocess.Popen[str]) -> None:
        until = time.monotonic() + 120
        while len(self.reads()) < reads:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def output_of(process: subprocess.Popen[str]) -> str:
    """Wait until a process has succeeded, and return what it printed."""
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    return printed


@pytest.mark.parametrize("row", [1, 5, 12, 20, 29])
def test_a_killed_build_is_resumed(script: Script, folder: Path, row: int) -> None:
    first = script.start(folder, hold=row)
    script.wait_for(row + 1, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert remaining_entries(folder) == [".samples.partial"]
    second = script.start(folder)
    printed = output_of(second)
    assert script.reads()[row + 1 :] == [(second.pid, later) for later in range(row, 30)]
    assert f"Continuing after the {row} samples that were already read" in printed
    assert remaining_entries(folder) == ["samples"]
    rows = open_store(folder).modalities["image"]
    np.testing.assert_array_equal(rows, np.arange(30)[:, None] * np.ones(5))
    unstopped = output_of(script.start(folder.parent / "whole" / "samples"))
    assert printed.splitlines()[-1] == unstopped.splitlines()[-1]


def test_of_two_processes_one_builds_the_store_and_one_waits(script: Script, folder: Path) -> None:
    first = script.start(folder, hold=5)
    script.wait_for(6, first)
    second = script.start(folder)
    assert second.stdout is not None
    assert "waiting for it" in second.stdout.readline()
    script.gate.touch()
    printed = [output_of(process) for process in (first, second)]
    assert script.reads() == [(first.pid, row) for row in range(30)]
    assert "already holds the requested samples" in printed[1]
    assert printed[0].splitlines()[-1] == printed[1].splitlines()[-1]
    assert remaining_entries(folder) == ["samples"]
