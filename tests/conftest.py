"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MST_DISTILL_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; MST_DISTILL_SHARED_DATA can point to the real data")
    return folder


@pytest.fixture(scope="session")
def shared_faults() -> Path:
    """The folder of small files that once were read wrongly; tests that need it are skipped.

    Each of these faults is made anew in a test of its own as well.
    """
    default = Path(__file__).parents[2] / "shared" / "faults"
    folder = Path(os.environ.get("MST_DISTILL_SHARED_FAULTS", default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; MST_DISTILL_SHARED_FAULTS can point to the files")
    return folder


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    """The module's tests compute in float64: toy samples, nets, and whatever is laid out for them.

    What two ways of computing agree in hangs on the processor and the number of threads in float32,
    all the more after steps of Adam, which follow the sign of a gradient however small it is. In
    float64 they agree to many digits everywhere, and a wrong formula does not.
    """
    from toys import in_precision

    with in_precision("float64"):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: with several workers none is left alone with one at the end."""
    items.sort(key=lambda item: "pipelines" not in item.path.parts)
