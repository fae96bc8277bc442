"""Fixtures of the tests of benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from damaged_sets import RawSet, Undamaged

pytest.register_assert_rewrite("damaged_sets")


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> Undamaged:
    """Write the undamaged files of a set once for each test module, and return their folder."""
    folders: dict[str, Path] = {}

    def folder_of(raw_set: RawSet) -> Path:
        if raw_set.type not in folders:
            folders[raw_set.type] = tmp_path_factory.mktemp("undamaged")
            raw_set.write(folders[raw_set.type])
        return folders[raw_set.type]

    return folder_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run `DamageTests` once for each damage, or once for each set, of the class."""
    for argument, attribute in (("case", "cases"), ("raw_set", "sets")):
        if argument in metafunc.fixturenames and hasattr(metafunc.cls, attribute):
            values = getattr(metafunc.cls, attribute)
            metafunc.parametrize(argument, values.values(), ids=list(values))
