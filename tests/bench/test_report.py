"""What a bench prints, from timings worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from bench.__main__ import EPOCHS, startup_line, table
from bench.measure import Timing
from bench.startup import IMPORT, Startup

TEACHERS = Timing(
    samples=400,
    seconds=2.0,
    plain_seconds=5.0,
    alone_seconds=None,
    once_seconds=4.0,
    peak_bytes=12_400_000,
    plain_peak_bytes=31_000_000,
    difference=1e-6,
)
MASKS = replace(TEACHERS, seconds=0.5, plain_seconds=40.0, once_seconds=16.0)
ROUTE = replace(
    TEACHERS, seconds=0.25, plain_seconds=10.0, alone_seconds=0.2, once_seconds=5.0, peak_bytes=0
)
STAGES = {"teachers": TEACHERS, "masks": MASKS, "route": ROUTE}


def cells(line: str) -> list[str]:
    assert line.startswith("|")
    assert line.endswith("|")
    return [cell.strip() for cell in line[1:-1].split("|")]


def rows(case: str, stages: dict[str, Timing]) -> dict[str, list[str]]:
    """The table's rows by their first cell, header and rule included."""
    lines = table(case, stages).splitlines()
    assert lines[:3] == ["", case, ""]
    found = [cells(line) for line in lines[3:]]
    assert {len(row) for row in found} == {8}
    return {first: rest for first, *rest in found}


def test_a_row_tells_both_schedules_times_and_how_often_the_one_goes_into_the_other() -> None:
    found = rows("toys", STAGES)
    assert found["teachers"] == ["2", "5", "2.5", "200", "4.0", "12", "31"]
    assert found["masks"] == ["0.5", "40", "80.0", "800", "16.0", "12", "31"]
    assert found["route"] == ["0.25", "10", "40.0", "1600", "5.0", "0", "31"]


def test_the_student_alone_stands_under_the_stage_that_is_held_against_it() -> None:
    found = rows("toys", STAGES)
    assert found["the student alone"] == ["", "0.2", "0.80", "", "", "", ""]
    names = list(found)
    assert names.index("the student alone") == names.index("route") + 1
    assert "the student alone" not in rows("toys", {"masks": MASKS})


def test_a_whole_run_is_every_stage_s_epochs_and_what_ours_does_once() -> None:
    assert EPOCHS == 100
    # Ours: 4 + 200, 16 + 50, 5 + 25 seconds; plain: 500, 4000, 1000; 120,000 samples.
    whole = rows("toys", STAGES)["a run of 100 epochs a stage"]
    assert whole == ["300 in all", "5500", "18.3", "400", "", "", ""]


@pytest.mark.parametrize("lacking", STAGES)
def test_without_all_stages_there_is_no_whole_run(lacking: str) -> None:
    some = {stage: timing for stage, timing in STAGES.items() if stage != lacking}
    assert "a run of 100 epochs a stage" not in rows("toys", some)


def test_startup_names_the_packages_that_take_longest() -> None:
    line = startup_line(Startup(5.04, 6.28, {"torch": 1.234, "mlflow": 0.5, "kedro": 0.001}))
    assert "5.0 s of CPU, 6.3 s by the clock" in line
    assert line.endswith("imports take, in seconds: torch 1.23, mlflow 0.50, kedro 0.00")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import time:       123 |       4567 | torch", ("123", "torch")),
        ("import time:       123 |       4567 |     torch.nn.functional\n", ("123", "torch")),
        ("import time:   1234567 |   12345678 |   _codecs", ("1234567", "_codecs")),
        ("import time: self [us] | cumulative | imported package", None),
        ("INFO     import time:  1 |  2 | torch", None),
        ("INFO     Running node: ingest", None),
    ],
)
def test_a_line_of_importtime_names_package_and_microseconds(
    line: str, expected: tuple[str, str] | None
) -> None:
    found = IMPORT.match(line)
    assert (found and found.groups()) == expected


def test_the_interpreter_writes_such_lines() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import json.decoder"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    found = [IMPORT.match(line) for line in lines[1:]]
    assert all(found)
    assert [match[2] for match in found if match].count("json") >= 2
