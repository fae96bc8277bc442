"""Conventions that all nodes, catalog entries, parameters and packages follow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from inspect import signature
from pathlib import Path

import pytest
import yaml
from kedro.pipeline import Pipeline

from mst_distill.artifacts.provenance import parameters_read
from mst_distill.parameters import Card
from mst_distill.pipeline_registry import register_pipelines
from mst_distill.plan import Plan

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "mst_distill"
LAYERS = {
    "01_raw": "raw",
    "05_model_input": "model_input",
    "06_models": "models",
    "07_model_output": "model_output",
    "08_reporting": "reporting",
}
STAGES = ("ingest", "teachers", "masks", "route", "evaluate")
OTHERS = ("diagnose", "predict", "export")
"""The pipelines that read a finished run."""

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
WHOLE = sum(
    (
        PIPELINES[name]
        for name in ("distill", *OTHERS, "check", "compare", "label_curve", "aggregate")
    ),
    start=Pipeline([]),
)
NODES = WHOLE.nodes
WITHOUT_OWN_PATH = {"comparisons"}
"""The entry that reads the files of another entry, on all benchmarks."""
DATASETS = {name for name in WHOLE.datasets() if not name.startswith("param")}


def test_distill_has_all_stages_in_order_and_is_the_default():
    stages = [PIPELINES[name] for name in STAGES]
    distill = {node.name for node in PIPELINES["distill"].nodes}
    assert {node.name for stage in stages for node in stage.nodes} == distill
    assert PIPELINES["__default__"] == PIPELINES["distill"]
    available = {"checkpoints"}  # it exists before the first stage, and is empty
    for stage in stages:
        assert {name for name in stage.inputs() if name != "parameters"} <= available
        available |= stage.all_outputs()


def test_diagnose_reads_the_outputs_of_distill_and_overwrites_none():
    distill, diagnose = PIPELINES["distill"], PIPELINES["diagnose"]
    needed = {name for name in diagnose.inputs() if name != "parameters"}
    assert needed <= distill.all_outputs() | {"checkpoints"}
    assert not diagnose.all_outputs() & distill.all_outputs()


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.name)
def test_every_node_is_named_after_its_function_which_begins_with_a_verb(node):
    assert node.name == f"{node.namespace}.{node.func.__name__}"
    verb = node.func.__name__.split("_")[0]
    assert verb in {
        "aggregate", "assign", "build", "compare", "compute", "draw", "export", "predict",
        "summarise", "train",
    }  # fmt: skip
    assert node.func.__doc__


def test_every_pipeline_is_one_namespace():
    for stage in (*STAGES, *OTHERS, "check", "aggregate"):
        assert {node.namespace for node in PIPELINES[stage].nodes} == {stage}
    assert {node.namespace for node in PIPELINES["compare"].nodes} == {"ingest", "compare"}


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.name)
def test_a_node_takes_data_sets_by_name_and_declares_its_parameters(node):
    names = signature(node.func).parameters
    assert len(names) <= 6
    assert ("plan" in names) == ("parameters" in node.inputs) == bool(parameters_read(node.func))
    for name in names:
        assert name in node.inputs or name == "plan" or names[name].kind == names[name].VAR_KEYWORD
    for block, keys in parameters_read(node.func).items():
        if keys:
            assert set(keys) <= set(Plan.model_fields[block].annotation.model_fields)


def test_every_data_set_has_an_entry_and_every_entry_is_used():
    assert set(CATALOG) == DATASETS


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_entry_has_the_layer_of_its_folder_and_a_path_of_its_own(name):
    entry = CATALOG[name]
    path = entry.get("filepath") or entry["path"]
    folder = path.split("/")[1]
    assert entry["metadata"]["kedro-viz"]["layer"] == LAYERS[folder]
    folders = ("${_data}", "${_run}", "${_trials}", "${_curve}", "${_aggregate}")
    if name not in WITHOUT_OWN_PATH:
        assert any(folder in path for folder in folders)
        assert Path(path).name.startswith(name)


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_the_layers_of_a_pipeline_have_an_order(name):
    """In a cycle, kedro-viz shows no layers at all."""
    layers = {entry: of["metadata"]["kedro-viz"]["layer"] for entry, of in CATALOG.items()}
    before: dict[str, set[str]] = {}
    for node in PIPELINES[name].nodes:
        for output in node.outputs:
            inputs = {layers[entry] for entry in node.inputs if entry in layers}
            before.setdefault(layers[output], set()).update(inputs - {layers[output]})
    assert len(list(TopologicalSorter(before).static_order())) >= len(before)


def test_every_parameter_is_used_and_every_used_parameter_exists():
    used = {name for node in NODES for name in parameters_read(node.func)}
    used -= {
        "deal",
        "given",
        "masked_given",
        "metric",
        "seen_labels",
        "students",
    }  # properties of other keys
    assert used == set(configuration("base", "parameters")) == set(Plan.model_fields)


def configuration(environment: str, kind: str) -> dict[str, object]:
    """The content of the files of a kind in an environment; no key is in two files."""
    files = sorted((ROOT / "conf" / environment).glob(f"{kind}*.yml"))
    blocks = [yaml.safe_load(file.read_text()) for file in files]
    merged = {key: value for block in blocks for key, value in block.items()}
    assert len(merged) == sum(map(len, blocks))
    return merged


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_has_only_keys_of_base(environment):
    for kind in ("globals", "parameters"):
        assert set(configuration(environment, kind)) <= set(configuration("base", kind))


@pytest.mark.parametrize("environment", ["base", *ENVIRONMENTS])
def test_every_benchmark_states_the_licence_of_its_data(environment):
    card = Card.model_validate(configuration(environment, "parameters")["card"])
    assert card.data_license
    terms = {"NC": "nc", "SA": "sa"}
    for name, term in terms.items():
        if re.search(rf"\bBY-(\w+-)*{name}\b", card.data_license):
            assert not card.license or f"-{term}" in card.license
    assert card.license not in ("mit", "apache-2.0")


def test_the_card_of_base_describes_the_embedded_benchmark_alone():
    base = configuration("base", "parameters")
    assert base["card"]["benchmark"] == base["benchmark"]["type"]


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


HIGHER_LEVEL = {
    f"mst_distill.{package}"
    for package in (
        "mst",
        "compare",
        "evaluate",
        "diagnose",
        "report",
        "data",
        "datasets",
        "hooks",
    )
}
FORBIDDEN = {
    "artifacts": {
        *HIGHER_LEVEL,
        "mst_distill.benchmarks",
        "mst_distill.nets",
        "mst_distill.training",
    },
    "benchmarks": {
        f"mst_distill.{package}" for package in ("mst", "compare", "evaluate", "diagnose", "report")
    },
    "media": {"mst_distill"},
    "nets": {"mst_distill"},
    "data": {*HIGHER_LEVEL, "mst_distill.training"} - {"mst_distill.data"},
    "training": HIGHER_LEVEL - {"mst_distill.data"},
    "mst": HIGHER_LEVEL - {"mst_distill.data", "mst_distill.mst"},
    "evaluate": {"mst_distill.compare", "mst_distill.diagnose", "mst_distill.report"},
    "compare": {"mst_distill.diagnose", "mst_distill.report"},
    "diagnose": {"mst_distill.compare", "mst_distill.report"},
    "report": {"torch", "mst_distill.mst", "mst_distill.training", "mst_distill.diagnose"},
    "deploy": {*HIGHER_LEVEL, "mst_distill.nets"},
    "datasets": {"mlflow", "mst_distill.mst", "mst_distill.training"},
}
"""Package to what it must not import, in addition to Kedro, MLflow and the pipelines."""

GENERAL = ("mst_distill.hub_weights", "mst_distill.import_path", "mst_distill.errors")
"""What networks and readers may import of this package besides their own."""

LOADED_BY_KEDRO = (
    "hooks",
    "cli.py",
    "pipeline_registry.py",
    "settings.py",
    "config_loader.py",
    "context.py",
    "__main__.py",
)
FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_package_imports_only_what_it_may(file):
    package = file.relative_to(SOURCE).parts[0]
    assert package.endswith(".py") or package in {*FORBIDDEN, "pipelines", "hooks"}, (
        "missing in FORBIDDEN"
    )
    imports = imports_of(file)
    forbidden = FORBIDDEN.get(package, set())
    if package not in ("pipelines", *LOADED_BY_KEDRO):
        forbidden = forbidden | {"mst_distill.pipelines"}
    if package not in ("pipelines", "datasets", *LOADED_BY_KEDRO):
        forbidden = forbidden | {"kedro", "mlflow", "kedro_datasets", "kedro_mlflow"}
    for name in imports:
        own = (f"mst_distill.{package}", *GENERAL)
        allowed = package in ("nets", "media") and name.startswith(own)
        violated = [other for other in forbidden if name == other or name.startswith(f"{other}.")]
        assert allowed or not violated, f"{file} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_file_has_an_absolute_path_or_the_address_of_a_package_index(file):
    text = file.read_text()
    assert not re.search(r"/(home|root|Users|work|tmp)/", text)
    assert "index-url" not in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_text_files_have_an_encoding(file):
    """Without one, their encoding is that of the system."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        method = getattr(call.func, "attr", None)
        name = method or getattr(call.func, "id", None)
        modes = [of.value for of in call.args if isinstance(of, ast.Constant)]
        text = method in ("read_text", "write_text") or (
            name == "open" and modes and str(modes[0]) in ("r", "w", "a", "x")
        )
        assert not text or any(of.arg == "encoding" for of in call.keywords), call.lineno


COINED = re.compile(
    r"\b(panels?|company|census|tall(?:y|ies)|preferences?|weighing|heard|hears?|judge[sd]?|judging"
    r"|merit|gazes?|viewers?|opponents?|worn|Observ(?:er|ed)|said|told|refuse[sd]?|beside|nobody"
    r"|picked|weakening|taught|Setup|Recipe|the controls?|held fast|to be had|anew)\b"
)
"""Words that the glossary of docs/method.md replaces; as part of a longer name they are free."""

ALLOWED = {
    "preference": ("mst/masks.py", "mst/router.py"),  # a key in the state of networks
    "gaze": ("training/seeding.py",),  # the value of a stream, on which results depend
    "merit": ("parameters.py", "mst/stage3_route.py", ".md"),  # a preset and a loss term
}
"""Words that stand in files or on command lines of users, and where they are allowed."""

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("file", [*FILES, *PAGES], ids=lambda file: str(file.relative_to(ROOT)))
def test_the_words_are_those_of_the_glossary(file):
    found = {
        f"line {number}: {word}"
        for number, line in enumerate(file.read_text().splitlines(), 1)
        for word in COINED.findall(line)
        if not str(file).endswith(ALLOWED.get(word, ()))
    }
    assert not found, "see the glossary in docs/method.md"


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
