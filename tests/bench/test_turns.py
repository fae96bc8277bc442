"""Schedules that take turns, each in a process of its own."""

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
    """Of a schedule that takes an epoch at a turn and one that takes three."""
    schedules = {
        "one": (partial(small, diary, NAMES["one"]), 1),
        "three": (partial(large, diary, NAMES["three"]), 3),
    }
    return take_turns(schedules, REPEATS)


def test_schedules_train_in_turn(diary: Path, clocked: dict[str, Clocked]) -> None:
    assert diary.read_text() == "abbb" * (REPEATS + 1)
    assert list(clocked) == ["one", "three"]


def test_every_turn_but_the_first_is_timed(clocked: dict[str, Clocked]) -> None:
    assert [len(of.epochs) for of in clocked.values()] == [REPEATS, REPEATS]


def test_the_figures_come_back(clocked: dict[str, Clocked]) -> None:
    expected = {name: {"epoch": 0.0, "train_loss": float(ord(to))} for name, to in NAMES.items()}
    assert {name: of.row for name, of in clocked.items()} == expected


def test_memory_is_counted_from_the_beginning_on(clocked: dict[str, Clocked]) -> None:
    assert clocked["one"].peak < LARGE <= clocked["three"].peak


@pytest.mark.parametrize("after", [0, 2])
def test_a_schedule_that_fails_is_an_error_and_says_why(
    after: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="a schedule failed"):
        take_turns({"failing": (partial(failing, after), 1)}, REPEATS)
    assert "ValueError: out of breath" in capfd.readouterr().err
