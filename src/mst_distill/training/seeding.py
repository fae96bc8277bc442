"""Seeds: every source of chance gets one of its own, derived from the run's seed and a name."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *names: str) -> int:
    """A seed for the thing that `names` name; other names, unrelated seeds.

    So the student starts from the same weights whatever other members stand beside it, and the
    control sees the same batches as the student.
    """
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: str) -> torch.Generator:
    """A CPU generator of its own for the thing that `names` name."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))
