"""How long waiting threads spin is set before PyTorch is imported, and users can decide it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LOAD = """
import os, sys
import mst_distill.settings
print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_spinning_is_limited_before_torch_is_loaded_unless_the_user_decides(
    chosen: dict[str, str], expected: str
) -> None:
    others = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env={**environment, **chosen},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == f"{expected} False"
