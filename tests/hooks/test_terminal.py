"""A run outlives the reader of its output, and errors are messages without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mst_distill.errors import add_context, did_you_mean, is_expected
from mst_distill.plan import read_plan
from projects import ENVIRONMENT, copy_project, kedro

INGEST = ["run", "--pipeline=ingest", "--params=limit=300,runtime.tracking=false"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_project(tmp_path / "project")


def samples_of(project: Path) -> Path:
    return project / "data/05_model_input/digits/heldout-300/samples/store.json"


def start(project: Path, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "kedro", *INGEST],
        cwd=project,
        env=os.environ | ENVIRONMENT,
        **streams,
    )


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such pipes")
def test_a_run_goes_on_when_the_reader_of_its_output_ends(project: Path) -> None:
    """As in ``kedro run 2>&1 | head -1``."""
    with start(project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=120) == 0
    assert samples_of(project).is_file()


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such streams")
def test_a_run_needs_no_open_streams(project: Path) -> None:
    """As in ``kedro run >&- 2>&-``."""

    def close() -> None:
        os.close(1)
        os.close(2)

    with start(project, preexec_fn=close) as process:
        assert process.wait(timeout=120) == 0
    assert samples_of(project).is_file()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        pytest.param("target=imag", "unknown target", marks=pytest.mark.long),
        ("limit=300", "npz is"),
    ],
)
def test_an_expected_error_is_printed_last_and_without_a_traceback(
    project: Path, parameters: str, words: str
) -> None:
    (project / "data/01_raw/digits/digits.npz").unlink()
    done = kedro(project, "run", "--pipeline=ingest", f"--params={parameters}", check=False)
    assert done.returncode == 1
    assert words in done.stdout.splitlines()[-1]
    assert "Traceback" not in done.stdout


def test_an_unexpected_error_is_printed_with_its_traceback_and_context(project: Path) -> None:
    (project / "mine.py").write_text(
        "from mst_distill.benchmarks.source import SampleSource\n"
        "class Mine(SampleSource):\n"
        "    def __init__(self, protocol): {}['text']\n"
        "    def read(self, part): ...\n"
    )
    (project / "conf/local/parameters.yml").write_text("benchmark: {type: mine.Mine}")
    done = kedro(project, *INGEST, check=False, environment={"PYTHONPATH": str(project)})
    assert done.returncode == 1
    assert "Traceback" in done.stdout
    assert done.stdout.splitlines()[-1] == "This happened when the benchmark mine.Mine was opened."


def raised(function: Any, *arguments: Any) -> BaseException:
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("no error was raised")


def test_errors_of_this_package_and_of_named_files_are_expected() -> None:
    assert is_expected(raised(read_plan, {}))
    missing = raised(open, "/no/such/file")
    assert not is_expected(missing)  # a file that code outside of this package has opened
    assert is_expected(missing.with_traceback(None))
    assert not is_expected(raised(int, "x"))
    assert not is_expected(raised(did_you_mean, "name"))  # our function, but a wrong call
    assert not is_expected(raised(os.close, 10**6))


def test_context_is_added_to_unexpected_errors_alone() -> None:
    ours, other = raised(read_plan, {}), raised(int, "x")
    for error in (ours, other):
        add_context(error, "This happened here.")
    assert not hasattr(ours, "__notes__")
    assert other.__notes__ == ["This happened here."]
