"""The code digest covers all modules that are reached by imports, and no docstrings."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest

from mst_distill.artifacts import code_digest
from mst_distill.artifacts.code_digest import code_of, reject_changed_code
from mst_distill.artifacts.provenance import sha256_of
from mst_distill.pipelines.evaluate.nodes import draw_routing, train_baseline
from mst_distill.pipelines.teachers.nodes import train_members
from mst_distill.report import rendering

NETS = """
from typing import TYPE_CHECKING

import torch
from own_layers import Layer
from own_package import parts

if TYPE_CHECKING:
    import own_types


class Net(Layer):
    def forward(self, x):
        from own_late import scale

        return scale(x) + 1
"""
FILES = {
    "own_nets.py": NETS,
    "own_layers.py": "class Layer:\n    width = 3\n",
    "own_late.py": "def scale(x):\n    return 2 * x\n",
    "own_types.py": "KIND = 1\n",
    "own_package/__init__.py": "",
    "own_package/parts.py": "from . import inner\n",
    "own_package/inner.py": "DEPTH = 4\n",
    "own_other.py": "UNUSED = 1\n",
}
REACHED = (
    "own_late",
    "own_layers",
    "own_nets",
    "own_package",
    "own_package.inner",
    "own_package.parts",
)
NET = "own_nets.Net"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user's modules, none of which is imported."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def clear_caches() -> None:
    """Make this process behave like a new one."""
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    code_digest._READ.clear()
    for cache in (code_digest._own_file, code_digest._spec, code_digest._function):
        cache.cache_clear()


@pytest.fixture(autouse=True)
def _clear_caches_before_and_after() -> Iterator[None]:
    clear_caches()
    yield
    clear_caches()


@pytest.fixture
def digest(own: Path) -> Callable[..., dict[str, str]]:
    """`code_of` as in a new process."""

    def compute(*texts: str) -> dict[str, str]:
        clear_caches()
        return code_of(*texts)

    return compute


def test_only_modules_that_a_class_reaches_count(
    digest: Callable[..., dict[str, str]],
) -> None:
    assert digest(NET) == digest(NET)
    assert tuple(digest(NET)) == (*REACHED, "torch")
    assert digest(NET)["torch"] == version("torch")


@pytest.mark.parametrize("module", REACHED)
def test_a_change_of_any_reached_module_is_detected(
    own: Path, digest: Callable[..., dict[str, str]], module: str
) -> None:
    before = digest(NET)
    file = own / f"{module.replace('.', '/')}.py"
    if not file.is_file():
        file = own / module / "__init__.py"
    file.write_text(file.read_text() + "MORE = 1\n")
    after = digest(NET)
    assert {name for name in after if after[name] != before.get(name)} == {module}


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("x) + 1", "x) + 2", True),
        ("x) + 1", "x) + True", True),
        ("def forward(self, x):", "def forward(self, x: int):", True),
        ("\nclass Net", "\n\n# A comment.\nclass Net", False),
        ("class Net(Layer):\n", 'class Net(Layer):\n    """A net."""\n', False),
        ("        from own_late", '        """Forward."""\n        from own_late', False),
        ("scale(x) + 1", "(scale(x)  +  1)", False),
        ("import own_types", "import own_types, json", True),
    ],
)
def test_code_counts_and_docstrings_and_comments_do_not(
    own: Path, digest: Callable[..., dict[str, str]], old: str, new: str, counts: bool
) -> None:
    before = digest(NET)
    assert old in NETS
    (own / "own_nets.py").write_text(NETS.replace(old, new, 1))
    assert (digest(NET) != before) == counts


@pytest.mark.parametrize(
    "text",
    ["", ".", "heldout", "data/01_raw/a.npz", "./a.pth", "..", "a.pth", "own_nets", "json.dumps",
     "no.such.Class", "3.14"],
)  # fmt: skip
def test_texts_that_are_not_import_paths_are_ignored(own: Path, text: str) -> None:
    assert code_of(text) == {}


def test_installed_libraries_count_by_version(own: Path) -> None:
    """Except this package, whose modules are digested."""
    assert "mst-distill" not in code_of("mst_distill.nets.digits.DigitImageNet")
    assert code_of("torchvision.models.resnet.ResNet") == {"torchvision": version("torchvision")}


def test_templates_count_as_code_of_their_package() -> None:
    file = Path(rendering.__file__).parent / "templates" / "run.html"
    code = code_of("mst_distill.report.rendering.render_html")
    assert code["mst_distill.report/templates/run.html"] == sha256_of(file)
    assert not any("templates" in name for name in code_of(train_members))


def test_only_what_a_node_uses_of_its_module_counts() -> None:
    baseline, figure = code_of(train_baseline), code_of(draw_routing)
    assert "mst_distill.pipelines.evaluate.nodes.train_baseline" in baseline
    assert "mst_distill.mst.baseline" in baseline
    assert "mst_distill.training.loop" in baseline
    assert "mst_distill.evaluate.plots" not in baseline
    assert "mst_distill.evaluate.plots" in figure
    assert "mst_distill.mst.baseline" not in figure


def test_a_partial_function_counts_as_its_function_and_a_lambda_as_its_module() -> None:
    assert code_of(partial(train_baseline, plan=None)) == code_of(train_baseline)
    assert not any("<lambda>" in name for name in code_of(lambda: train_baseline))


def test_training_does_not_depend_on_evaluation_code() -> None:
    packages = {name.split(".")[1] for name in code_of(train_members) if name.count(".")}
    assert {"training", "mst"} <= packages
    others = {"compare", "evaluate", "diagnose", "benchmarks", "hooks", "datasets"}
    assert not others & packages


def test_code_that_changes_during_a_run_is_rejected(own: Path) -> None:
    code = code_of(NET)
    reject_changed_code(code)
    file = own / "own_layers.py"
    file.write_text("# The same, with a comment.\n" + FILES["own_layers.py"])
    reject_changed_code(code)
    file.write_text(textwrap.dedent(FILES["own_layers.py"]).replace("3", "4"))
    assert code_of(NET) == code  # the code that was loaded
    with pytest.raises(RuntimeError, match=r"own_layers\.py was changed while this run was going"):
        reject_changed_code(code)
    file.write_text(FILES["own_layers.py"])
    reject_changed_code(code)
