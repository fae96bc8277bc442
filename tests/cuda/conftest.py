"""Fixtures of the tests on a simulated GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simulated_gpu import SimulatedGPU


@pytest.fixture
def gpu() -> Iterator[SimulatedGPU]:
    with SimulatedGPU(devices=2) as simulated:
        yield simulated
