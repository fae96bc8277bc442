"""Stale results: those of changed code are not reused, those of mixed code are not saved."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from projects import ENVIRONMENT, copy_project, kedro

pytestmark = pytest.mark.long  # a process reads code once, so every run is a new process

NETS = """
from mst_distill.nets.digits import DigitImageNet


class Net(DigitImageNet):
    def forward(self, image):
        return super().forward(image) * SCALE


SCALE = 1.0
"""
PARAMETERS = """
members:
  multimodal:
    type: mst_distill.nets.digits.DigitFusionNet
    masked_layers: [fusion, hidden]
  modalities:
    image: {type: own_nets.Net, masked_layers: [hidden]}
    audio:
      type: mst_distill.nets.digits.DigitAudioNet
      masked_layers: [dense, hidden]
compare:
  seeds: 1
  targets: image
  methods:
    baseline: {type: mst_distill.compare.methods.baseline.Baseline}
    own: {type: own_method.Own}
"""
METHOD = """
from mst_distill.compare.methods.kd import KD


class Own(KD):
    teachers = ("crossmodal",)
"""
SHORT = (
    "--params=limit=100,teachers.epochs=1,masks.epochs=1,masks.factor=10,route.epochs=1,"
    "runtime.tracking=false"
)


@pytest.fixture
def project(tmp_path):
    """A project with a network and a method that the user has written."""
    folder = copy_project(tmp_path / "project")
    (folder / "conf/local/parameters.yml").write_text(PARAMETERS)
    (folder / "own").mkdir()
    (folder / "own/own_nets.py").write_text(NETS)
    (folder / "own/own_method.py").write_text(METHOD)
    return folder


def run(project, *arguments, check=True):
    path = {"PYTHONPATH": os.pathsep.join([str(project / "own"), os.environ.get("PYTHONPATH", "")])}
    return kedro(project, "run", SHORT, *arguments, check=check, environment=path)


def test_results_of_another_version_of_a_network_are_an_error(project):
    run(project, "--pipelines=ingest,teachers")
    nets = project / "own/own_nets.py"
    nets.write_text('"""My nets."""\n' + NETS + "# A comment more.\n")
    run(project, "--pipelines=masks")
    nets.write_text(NETS.replace("1.0", "2.0"))
    done = run(project, "--pipelines=masks,route,evaluate", check=False)
    assert done.returncode == 1
    assert "'members' is out of date: the code has changed (own_nets)" in done.stdout
    assert "masks epoch" not in done.stdout


def test_compare_repeats_the_trials_whose_code_has_changed(project):
    first = run(project, "--pipeline=compare")
    assert "Baseline image <- no teacher epoch" in first.stdout
    method = project / "own/own_method.py"
    method.write_text(METHOD + "\n    extra = 1\n")
    edited = run(project, "--pipeline=compare")
    assert "Own image <- audio epoch" in edited.stdout
    assert "Baseline image <- no teacher epoch" not in edited.stdout
    (project / "own/own_nets.py").write_text(NETS.replace("1.0", "2.0"))
    edited = run(project, "--pipeline=compare")
    for title in ("Own image <- audio epoch", "Baseline image <- no teacher epoch"):
        assert title in edited.stdout


def test_results_of_a_run_whose_code_changes_meanwhile_are_not_saved(project):
    """The code is edited after training has begun."""
    path = {"PYTHONPATH": os.pathsep.join([str(project / "own"), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-m", "kedro", "run", SHORT, "--pipelines=ingest,teachers"],
        cwd=project,
        env=os.environ | ENVIRONMENT | path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        printed = ""
        while "Running node: train_members" not in printed:
            printed += process.stdout.readline() or pytest.fail(printed)
        (project / "own/own_nets.py").write_text(NETS.replace("1.0", "2.0"))
        printed += process.stdout.read()
    assert process.returncode == 1
    assert "own_nets.py was changed while this run was going on" in printed
    run(project, "--pipelines=teachers")
