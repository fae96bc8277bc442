"""Timing of schedules in turn, each in a process of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from bench.turns import Clocked, take_turns
from toy_schedules import LARGE, failing, large, small

REPEATS = 2
NAMES = {"one": "a", "three": "b"}


@pytest.fixture(scope="module")
def diary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("turns") / "diary"


@pytest.fixture(scope="module")
def clocked(diary: Path) -> dict[str, Clocked]:
    """The measurements of a schedule with one epoch per turn, and of one with three."""
    schedules = {
        "one": (partial(small, diary, NAMES["one"]), 1),
        "three": (partial(large, diary, NAMES["three"]), 3),
    }
    return take_turns(schedules, REPEATS)


def test_schedules_alternate(diary: Path, clocked: dict[str, Clocked]) -> None:
    assert diary.read_text() == "abbb" * (REPEATS + 1)
    assert list(clocked) == ["one", "three"]


def test_the_first_turn_is_not_timed(clocked: dict[str, Clocked]) -> None:
    assert [len(schedule.epochs) for schedule in clocked.values()] == [REPEATS, REPEATS]


def test_the_metrics_of_the_first_epoch_are_returned(clocked: dict[str, Clocked]) -> None:
    expected = {
        name: {"epoch": 0.0, "train_loss": float(ord(letter))} for name, letter in NAMES.items()
    }
    assert {name: schedule.row for name, schedule in clocked.items()} == expected


def test_the_peak_memory_is_that_of_the_schedule_itself(clocked: dict[str, Clocked]) -> None:
    assert clocked["one"].peak < LARGE <= clocked["three"].peak


@pytest.mark.parametrize("after", [0, 2])
def test_a_failing_schedule_is_an_error_and_its_own_error_is_printed(
    after: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="a schedule failed"):
        take_turns({"failing": (partial(failing, after), 1)}, REPEATS)
    assert "ValueError: failed on purpose" in capfd.readouterr().err
