"""A user whose id has no name, as in a container that runs under an arbitrary id."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

CODE = """
import getpass
try:
    getpass.getuser()
except (KeyError, OSError):
    print("unknown")
import torch
from mst_distill.parameters import Runtime
from mst_distill.training.device import prepare
prepare(torch.device("cpu"), Runtime())
weight = torch.nn.Parameter(torch.zeros(2))
weight.grad = torch.ones(2)
torch.optim.Adam([weight], fused=True).step()
print(getpass.getuser())
"""
WITHOUT_NAME = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]


def test_an_optimiser_works_for_a_user_without_a_name() -> None:
    if not shutil.which("unshare") or subprocess.call([*WITHOUT_NAME, "true"]):
        pytest.skip("this machine does not permit a process with another user id")
    names = ("LOGNAME", "USER", "LNAME", "USERNAME")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [*WITHOUT_NAME, sys.executable, "-c", CODE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["unknown", "uid-54321"]
