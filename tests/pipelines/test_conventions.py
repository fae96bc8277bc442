"""What holds of every node, every catalog entry, every parameter, every room of the house."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from mst_distill.pipeline_registry import register_pipelines

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "mst_distill"
LAYERS = {
    "01_raw": "raw",
    "05_model_input": "model_input",
    "06_models": "models",
    "07_model_output": "model_output",
    "08_reporting": "reporting",
}
PIPELINES = register_pipelines()
CATALOG = {
    name: entry
    for name, entry in yaml.safe_load((ROOT / "conf/base/catalog.yml").read_text()).items()
    if not name.startswith("_")
}
ENVIRONMENTS = sorted(
    folder.name
    for folder in (ROOT / "conf").iterdir()
    if folder.is_dir() and folder.name not in ("base", "local")
)
WHOLE = PIPELINES["distill"] + PIPELINES["diagnose"] + PIPELINES["compare"] + PIPELINES["aggregate"]
NODES = WHOLE.nodes
OF_ALL = {"comparisons"}
"""An entry that reads what another one wrote, for all benchmarks together."""
DATASETS = {name for name in WHOLE.datasets() if not name.startswith("param")}


def test_distill_is_all_stages_in_order_and_the_default():
    stages = [PIPELINES[name] for name in ("ingest", "teachers", "masks", "route", "evaluate")]
    distill = {node.name for node in PIPELINES["distill"].nodes}
    assert {node.name for stage in stages for node in stage.nodes} == distill
    assert PIPELINES["__default__"] == PIPELINES["distill"]
    known = {"checkpoints"}  # there before any stage, and empty
    for stage in stages:
        assert {n for n in stage.inputs() if not n.startswith("params:")} <= known
        known |= stage.all_outputs()


def test_diagnose_looks_into_what_distill_left_and_makes_none_of_it():
    distill, diagnose = PIPELINES["distill"], PIPELINES["diagnose"]
    needed = {name for name in diagnose.inputs() if not name.startswith("params:")}
    assert needed <= distill.all_outputs() | {"checkpoints"}
    assert not diagnose.all_outputs() & distill.all_outputs()


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.name)
def test_every_node_is_named_for_what_it_does(node):
    assert node.name == node.func.__name__
    verb = node.name.split("_")[0]
    assert verb in {
        "aggregate", "assign", "build", "compare", "compute", "draw", "predict", "summarise",
        "train",
    }  # fmt: skip
    assert node.func.__doc__


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.name)
def test_a_node_depends_on_keys_that_it_is_given(node):
    given = {name.removeprefix("params:") for name in node.inputs if name.startswith("params:")}
    kinds = get_type_hints(node.func)
    arguments = dict(zip(node.inputs, signature(node.func).parameters, strict=True))
    for block, keys in getattr(node.func, "depends_on", {}).items():
        assert block in given
        if keys:
            assert set(keys) <= set(kinds[arguments[f"params:{block}"]].model_fields)


def test_every_dataset_is_catalogued_and_every_entry_used():
    assert set(CATALOG) == DATASETS


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_entry_has_the_layer_of_its_folder_and_a_path_of_its_own(name):
    entry = CATALOG[name]
    path = entry.get("filepath") or entry["path"]
    folder = path.split("/")[1]
    assert entry["metadata"]["kedro-viz"]["layer"] == LAYERS[folder]
    parts = ("${_data}", "${_run}", "${_trials}", "${_aggregate}")
    if name not in OF_ALL:
        assert any(part in path for part in parts)
        assert Path(path).name.startswith(name)


def test_every_parameter_is_used_and_every_used_one_is_there():
    used = {name.split(":")[1] for name in WHOLE.inputs() if ":" in name}
    assert used == set(given_by("base", "parameters"))


def given_by(environment: str, kind: str) -> dict[str, object]:
    """What the files of a kind in an environment hold, each key in one of them."""
    files = sorted((ROOT / "conf" / environment).glob(f"{kind}*.yml"))
    blocks = [yaml.safe_load(file.read_text()) for file in files]
    merged = {key: of for block in blocks for key, of in block.items()}
    assert len(merged) == sum(map(len, blocks))
    return merged


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_changes_only_what_base_has(environment):
    for kind in ("globals", "parameters"):
        assert set(given_by(environment, kind)) <= set(given_by("base", kind))


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


OURS = {
    f"mst_distill.{room}"
    for room in ("mst", "compare", "evaluate", "diagnose", "data", "datasets", "hooks")
}
FORBIDDEN = {
    "artifacts": {*OURS, "mst_distill.benchmarks", "mst_distill.nets", "mst_distill.training"},
    "benchmarks": {f"mst_distill.{room}" for room in ("mst", "compare", "evaluate", "diagnose")},
    "media": {"mst_distill"},
    "nets": {"mst_distill"},
    "data": {*OURS, "mst_distill.training"} - {"mst_distill.data"},
    "training": OURS - {"mst_distill.data"},
    "mst": OURS - {"mst_distill.data", "mst_distill.mst"},
    "evaluate": {"mst_distill.compare", "mst_distill.diagnose"},
    "compare": {"mst_distill.diagnose"},
    "diagnose": {"mst_distill.compare"},
    "datasets": {"mlflow", "mst_distill.mst", "mst_distill.training"},
}
"""A room to what it must not import, besides Kedro, MLflow and the pipelines."""

KEDRO_S_OWN = ("hooks", "pipeline_registry.py", "settings.py", "config_loader.py")
FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_room_knows_only_the_rooms_it_may(file):
    room = file.relative_to(SOURCE).parts[0]
    assert room.endswith(".py") or room in {*FORBIDDEN, "pipelines", "hooks"}, "no rule for it"
    imports = imports_of(file)
    forbidden = FORBIDDEN.get(room, set())
    if room not in ("pipelines", *KEDRO_S_OWN):
        forbidden = forbidden | {"mst_distill.pipelines"}
    if room not in ("pipelines", "datasets", *KEDRO_S_OWN):
        forbidden = forbidden | {"kedro", "mlflow", "kedro_datasets", "kedro_mlflow"}
    for name in imports:
        own = (f"mst_distill.{room}", "mst_distill.hub_weights")
        allowed = room in ("nets", "media") and name.startswith(own)
        caught = [bad for bad in forbidden if name == bad or name.startswith(f"{bad}.")]
        assert allowed or not caught, f"{file} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_path_of_a_machine_and_no_address_of_an_index(file):
    text = file.read_text()
    assert not re.search(r"/(home|root|Users|work|tmp)/", text)
    assert "index-url" not in text


def test_listing_the_pipelines_does_not_load_torch():
    code = (
        "import sys, mst_distill.settings\n"
        "from mst_distill.pipeline_registry import register_pipelines\n"
        "register_pipelines()\n"
        "heavy = {'torch', 'torchvision', 'torchaudio', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
