"""The report of a bench, from timings with known ratios."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from bench.__main__ import EPOCHS, rates_line, startup_line, table
from bench.measure import Timing
from bench.rates import Rates
from bench.startup import IMPORT, Startup

TEACHERS = Timing(
    samples=400,
    seconds=2.0,
    plain_seconds=5.0,
    baseline_seconds=None,
    once_seconds=4.0,
    peak_bytes=12_400_000,
    plain_peak_bytes=31_000_000,
    operations=6e9,
    busy=0.625,
    difference=1e-6,
)
MASKS = replace(TEACHERS, seconds=0.5, plain_seconds=40.0, once_seconds=16.0)
ROUTE = replace(
    TEACHERS,
    seconds=0.25,
    plain_seconds=10.0,
    baseline_seconds=0.2,
    once_seconds=5.0,
    peak_bytes=0,
    busy=None,
)
RATES = Rates(products=12e9, convolutions=8.4e9)
STAGES = {"teachers": TEACHERS, "masks": MASKS, "route": ROUTE}


def cells(line: str) -> list[str]:
    assert line.startswith("|")
    assert line.endswith("|")
    return [cell.strip() for cell in line[1:-1].split("|")]


def rows(case: str, stages: dict[str, Timing]) -> dict[str, list[str]]:
    """The rows of the table by their first cell, with the header and the line below it."""
    lines = table(case, stages, RATES).splitlines()
    assert lines[:3] == ["", case, ""]
    table_rows = [cells(line) for line in lines[3:]]
    assert {len(row) for row in table_rows} == {11}
    return {first: rest for first, *rest in table_rows}


def test_a_row_has_the_times_of_both_schedules_and_their_ratio() -> None:
    table_rows = rows("toys", STAGES)
    assert table_rows["teachers"] == [
        "2",
        "5",
        "2.5",
        "200",
        "3",
        "0.25",
        "0.62",
        "4.0",
        "12",
        "31",
    ]
    assert table_rows["masks"] == [
        "0.5",
        "40",
        "80.0",
        "800",
        "12",
        "1.00",
        "0.62",
        "16.0",
        "12",
        "31",
    ]
    assert table_rows["route"] == ["0.25", "10", "40.0", "1600", "24", "2.00", "", "5.0", "0", "31"]


def test_the_baseline_follows_stage_3() -> None:
    table_rows = rows("toys", STAGES)
    assert table_rows["baseline"] == ["", "0.2", "0.80", "", "", "", "", "", "", ""]
    names = list(table_rows)
    assert names.index("baseline") == names.index("route") + 1
    assert "baseline" not in rows("toys", {"masks": MASKS})


def test_a_whole_run_is_the_epochs_of_all_stages_and_the_one_time_costs_of_the_project() -> None:
    assert EPOCHS == 100
    # The project: 4 + 200, 16 + 50, 5 + 25 s; plain: 500, 4000, 1000 s; 120,000 samples.
    whole = rows("toys", STAGES)["a run of 100 epochs per stage"]
    assert whole == ["300 in total", "5500", "18.3", "400", "", "", "", "", "", ""]


@pytest.mark.parametrize("missing", STAGES)
def test_without_all_stages_there_is_no_row_of_a_whole_run(missing: str) -> None:
    others = {stage: timing for stage, timing in STAGES.items() if stage != missing}
    assert "a run of 100 epochs per stage" not in rows("toys", others)


def test_the_rates_are_in_billions_a_second() -> None:
    line = rates_line(RATES)
    assert "12 billion operations a second in matrix products" in line
    assert "and 8 in 3 x 3 convolutions" in line


def test_the_startup_line_lists_the_slowest_imports() -> None:
    line = startup_line(Startup(5.04, 6.28, {"torch": 1.234, "mlflow": 0.5, "kedro": 0.001}))
    assert "5.0 s of CPU time and 6.3 s of wall-clock time" in line
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
def test_package_and_microseconds_are_read_from_a_line_of_importtime(
    line: str, expected: tuple[str, str] | None
) -> None:
    match = IMPORT.match(line)
    assert (match and match.groups()) == expected


def test_the_lines_of_the_interpreter_match() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import json.decoder"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    matches = [IMPORT.match(line) for line in lines[1:]]
    assert all(matches)
    assert [match[2] for match in matches if match].count("json") >= 2
