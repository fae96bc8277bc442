"""Schedules that record when they train, for tests that run each in its own process."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.turns import Turns
from mst_distill.training.loop import Row

LARGE = 2**26
"""The number of bytes that `large` allocates for a moment."""


def append(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def small(log: Path, name: str, turns: Turns) -> Row:
    """Append the name to the log in every epoch."""
    turns.ready()
    for _ in range(turns.epochs):
        append(log, name)
        turns.end_epoch()
    return {"epoch": 0.0, "train_loss": float(ord(name))}


def large(log: Path, name: str, turns: Turns) -> Row:
    """Do the same as `small`, with a large tensor at the beginning."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.ones(LARGE // 4, device=device)
    return small(log, name, turns)


def failing(after: int, turns: Turns) -> Row:
    """Raise an error after so many epochs."""
    turns.ready()
    for _ in range(after):
        turns.end_epoch()
    raise ValueError("failed on purpose")
