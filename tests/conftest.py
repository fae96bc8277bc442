"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; without it, the tests that need it are skipped."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MST_DISTILL_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; MST_DISTILL_SHARED_DATA can point to the real data")
    return folder


@pytest.fixture(scope="session")
def shared_faults() -> Path:
    """A folder of small files that were once misread; without it, tests that need it are skipped.

    Each of these faults is also reproduced by a test that needs no file.
    """
    default = Path(__file__).parents[2] / "shared" / "faults"
    folder = Path(os.environ.get("MST_DISTILL_SHARED_FAULTS", default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; MST_DISTILL_SHARED_FAULTS can point to the files")
    return folder


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    """Run the tests of a module in float64: toy samples, networks, and every new tensor.

    How closely two implementations agree in float32 depends on the processor and on the number of
    threads, all the more after steps of Adam, which follow the sign of a gradient however small it
    is. In float64, correct implementations agree to many digits on every machine, and a wrong
    formula does not.
    """
    from toys import in_precision

    with in_precision("float64"):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of whole pipelines first, so that none is left to one worker at the end."""
    items.sort(key=lambda item: "pipelines" not in item.path.parts)
