"""How long PyTorch's threads on a CPU spin while they wait for work."""

from __future__ import annotations

import os


def limit_spinning() -> None:
    """Let waiting threads sleep after a short time, unless the user has decided otherwise.

    PyTorch's threads wait in libgomp, which reads these variables when PyTorch is imported. By
    default they spin for long and take the cores from other processes and from each other.
    With ``OMP_WAIT_POLICY=passive`` they sleep at once, which is slow if no other process runs.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
