"""The time from the start of `kedro run` to its first node, and what the imports take of it."""

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
"""A line of `python -X importtime`: the groups are the microseconds of the module without those of
its imports, and its package."""


@dataclass(frozen=True)
class Startup:
    """The cost of starting a run.

    Attributes:
        cpu_seconds: CPU time of the process until it logs the start of the first node.
        wall_seconds: Wall-clock time until then.
        imports: Seconds to import the modules of a package itself, for the slowest packages.
    """

    cpu_seconds: float
    wall_seconds: float
    imports: dict[str, float]


def measure_startup(packages: int = 8) -> Startup:
    """Start a run twice in a copy of the project, and stop it at its first node.

    The first start is timed; the second lists the imports, which slows it down.

    Args:
        packages: The number of packages to list.
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
    """CPU seconds and wall-clock seconds until the first node, and the lines printed until then."""
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
