"""Which code tells one store from another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mst_distill.benchmarks.digits import Digits
from mst_distill.benchmarks.source import SampleSource
from mst_distill.benchmarks.source_code import source_code
from mst_distill.imports import resolve
from mst_distill.media.faces import CentreCrop

SOURCE = """
import pandas as pd
from bases_of_mine import Base

class Source(Base):
    classes, files = ("a",), ()
    index = pd.DataFrame({"id": ["s0"], "group": ["g"], "split": ["train"], "label": [0]})
"""
BASES = """
from mst_distill.benchmarks.source import SampleSource

class Base(SampleSource):
    def read(self, part):
        raise NotImplementedError
"""
FINDER = """
from crops_of_mine import Crop

class Finder(Crop):
    pass
"""
CROPS = """
from mst_distill.media.faces import CentreCrop

class Crop(CentreCrop):
    pass
"""
MODULES = {"mine": SOURCE, "bases_of_mine": BASES, "finder_of_mine": FINDER, "crops_of_mine": CROPS}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's source, an argument that it names by import path, and the bases of both."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


def fingerprint(**arguments: Any) -> str:
    source = resolve("mine.Source", SampleSource)()
    source.opened_with = {"type": "mine.Source", "arguments": arguments}
    return source.fingerprint()


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("nested", [False, True])
def test_a_change_of_what_is_read_with_is_another_source(
    modules: Path, module: str, nested: bool
) -> None:
    name = "finder_of_mine.Finder"
    arguments: dict[str, Any] = {"parts": [{"finder": name}]} if nested else {"finder": name}
    before = fingerprint(**arguments)
    assert fingerprint(**arguments) == before
    (modules / f"{module}.py").write_text(MODULES[module] + "# changed\n")
    assert fingerprint(**arguments) != before


def test_what_no_argument_names_does_not_count(modules: Path) -> None:
    before = fingerprint()
    (modules / "finder_of_mine.py").write_text("changed = True\n")
    assert fingerprint() == before


@pytest.mark.parametrize(
    "text",
    ["", ".", "heldout", "data/01_raw/a.npz", "./a.pth", "..", "a.pth", "finder_of_mine.Other",
     "finder_of_mine", "numpy.float_power", "no.such.Class"],
)  # fmt: skip
def test_other_texts_are_plain_texts(modules: Path, text: str) -> None:
    assert source_code(Digits, {"arguments": {"a": text}}) == source_code(Digits, {})


def test_every_file_is_there_once_and_none_of_the_standard_library() -> None:
    files = source_code(Digits, {"finder": "mst_distill.media.faces.CentreCrop"})
    assert len(set(files)) == len(files)
    assert {file.parent.name for file in files} == {"benchmarks", "media"}
    assert {Path(sys.modules[kind.__module__].__file__ or "") for kind in (Digits, CentreCrop)} <= {
        *files
    }


def test_what_is_only_told_of_samples_does_not_count() -> None:
    assert "census.py" not in {file.name for file in source_code(Digits, {})}
