"""No result is taken for that of code that has changed since, and none of two versions is kept."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from projects import ENVIRONMENT, copy_project, kedro

pytestmark = pytest.mark.long  # code is read once a process: every run is a new one

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
    none: {type: mst_distill.compare.methods.alone.Alone}
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
    """A project with a net and a method of the user's own."""
    folder = copy_project(tmp_path / "project")
    (folder / "conf/local/parameters.yml").write_text(PARAMETERS)
    (folder / "own").mkdir()
    (folder / "own/own_nets.py").write_text(NETS)
    (folder / "own/own_method.py").write_text(METHOD)
    return folder


def run(project, *arguments, check=True):
    own = {"PYTHONPATH": os.pathsep.join([str(project / "own"), os.environ.get("PYTHONPATH", "")])}
    return kedro(project, "run", SHORT, *arguments, check=check, environment=own)


def test_stages_refuse_what_another_version_of_a_net_has_left(project):
    run(project, "--pipelines=ingest,teachers")
    nets = project / "own/own_nets.py"
    nets.write_text('"""My nets."""\n' + NETS + "# A comment more.\n")
    run(project, "--pipelines=masks")
    nets.write_text(NETS.replace("1.0", "2.0"))
    done = run(project, "--pipelines=masks,route,evaluate", check=False)
    assert done.returncode == 1
    assert "'members' is not what would be made now: the code has changed (own_nets)" in done.stdout
    assert "masks epoch" not in done.stdout


def test_compare_trains_again_what_another_version_of_the_code_has_trained(project):
    first = run(project, "--pipeline=compare")
    assert "Alone image <- nobody epoch" in first.stdout
    method = project / "own/own_method.py"
    method.write_text(METHOD + "\n    extra = 1\n")
    edited = run(project, "--pipeline=compare")
    assert "Own image <- audio epoch" in edited.stdout
    assert "Alone image <- nobody epoch" not in edited.stdout
    (project / "own/own_nets.py").write_text(NETS.replace("1.0", "2.0"))
    edited = run(project, "--pipeline=compare")
    for title in ("Own image <- audio epoch", "Alone image <- nobody epoch"):
        assert title in edited.stdout


def test_what_two_versions_of_the_code_have_made_together_is_not_kept(project):
    """An edit after training has begun."""
    own = {"PYTHONPATH": os.pathsep.join([str(project / "own"), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-m", "kedro", "run", SHORT, "--pipelines=ingest,teachers"],
        cwd=project,
        env=os.environ | ENVIRONMENT | own,
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
