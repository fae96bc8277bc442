"""From typing `kedro run` to its first node: how long, and what takes it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
FIRST_NODE = "Running node"
IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)")
"""A line of `python -X importtime`: microseconds of the module itself, cumulated, its package."""


@dataclass(frozen=True)
class Startup:
    """How a run begins.

    Attributes:
        cpu_seconds: Of the process, until its log says that the first node runs.
        wall_seconds: The same by the clock.
        imports: The packages whose own modules take longest to import, in seconds.
    """

    cpu_seconds: float
    wall_seconds: float
    imports: dict[str, float]


def measure_startup(packages: int = 8) -> Startup:
    """Start a run twice, in a copy of the project, and stop it at its first node.

    Args:
        packages: How many to name.
    """
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        shutil.copytree(ROOT / "conf", project / "conf")
        shutil.copytree(ROOT / "data/01_raw/digits", project / "data/01_raw/digits")
        shutil.copy(ROOT / "pyproject.toml", project)
        (project / "src").mkdir()
        cpu, wall, _ = _until_first_node(project)
        _, _, log = _until_first_node(project, "-X", "importtime")
    microseconds: Counter[str] = Counter()
    for line in log:
        if match := IMPORT.match(line):
            microseconds[match[2]] += int(match[1])
    longest = microseconds.most_common(packages)
    return Startup(cpu, wall, {package: count / 1e6 for package, count in longest})


def _until_first_node(project: Path, *options: str) -> tuple[float, float, list[str]]:
    """CPU seconds, seconds, and what was said until then."""
    command = [sys.executable, *options, "-m", "kedro", "run"]
    environment = {**os.environ, "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    lines: list[str] = []
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if FIRST_NODE in line:
                wall = time.perf_counter() - began
                times = psutil.Process(process.pid).cpu_times()
                process.kill()
                return times.user + times.system, wall, lines
    raise RuntimeError("kedro run ended before its first node:\n" + "".join(lines[-20:]))
