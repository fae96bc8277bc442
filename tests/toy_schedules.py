"""Schedules that write down when they train, to be sent to processes of their own."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.turns import Turns
from mst_distill.training.loop import Row

LARGE = 2**26
"""Bytes that `large` holds for a moment."""


def write(diary: Path, word: str) -> None:
    with diary.open("a") as file:
        file.write(word)


def small(diary: Path, name: str, turns: Turns) -> Row:
    """Its name an epoch."""
    turns.ready()
    for _ in range(turns.epochs):
        write(diary, name)
        turns.end_epoch()
    return {"epoch": 0.0, "train_loss": float(ord(name))}


def large(diary: Path, name: str, turns: Turns) -> Row:
    """The same, with a large tensor at the beginning."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.ones(LARGE // 4, device=device)
    return small(diary, name, turns)


def failing(after: int, turns: Turns) -> Row:
    """Trains so many epochs and no more."""
    turns.ready()
    for _ in range(after):
        turns.end_epoch()
    raise ValueError("out of breath")
