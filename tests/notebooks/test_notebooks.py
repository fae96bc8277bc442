"""What holds for every notebook of the repository."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from projects import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_a_committed_notebook_has_no_outputs(file: Path) -> None:
    for cell in nbformat.read(file, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
