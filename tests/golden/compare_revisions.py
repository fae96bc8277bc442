"""Checks whether a change of the code changes any result, with short runs of all pipelines.

    python tests/golden/compare_revisions.py [REVISION] [--renamed OLD=NEW ...]

runs the same pipelines with the code of a revision (by default HEAD) and with that of the working
tree, on this machine, and compares the SHA-256 of all weights and tables. No hashes are stored,
since hashes of float32 results are valid on one kind of processor only. It takes about four minutes
on two cores.

A change that renames files, columns or values of tables lists the names with ``--renamed``. In the
results of the revision each old name is replaced, as a whole word, before the hashes are taken.
The order of the rows of a table, which follows names, is not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[2]

SHORT: dict[str, Any] = {
    "teachers": {"epochs": 2},
    "masks": {"epochs": 2, "factor": 10},
    "runtime": {"device": "cpu"},
}
METHODS = ("kd", "dml", "mst")
MEASURED = ("seconds", "bytes")
"""Parts of the names of columns whose values differ from run to run."""


def sessions() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pipelines to run, with their parameters."""
    for target in ("image", "audio"):
        for preset in ("default", "reference"):
            route = {"epochs": 2, "preset": preset}
            yield "distill", {**SHORT, "target": target, "run": preset, "route": route}
    yield "diagnose", {**SHORT, "target": "audio", "run": "default", "route": {"epochs": 2}}
    yield "compare", {**SHORT, "compare": {"seeds": 1}, "route": {"epochs": 2}}


def run_all(root: Path, project: Path, renamed: dict[str, str]) -> dict[str, str]:
    """Run all pipelines with the code of this process in a new copy of the project in `root`.

    Returns:
        Path of each file, relative to the copy, to the hash of its content.
    """
    import yaml

    from projects import copy_project, run_session

    copy_project(project, root)
    files = sorted((project / "conf/base").glob("parameters*.yml"))
    parameters = {key: of for file in files for key, of in yaml.safe_load(file.read_text()).items()}
    every = parameters["compare"]["methods"]
    first = next(iter(every))  # the one that learns from labels alone
    methods = {name: every[name] for name in (first, *METHODS)}
    local = {"compare": {**parameters["compare"], "methods": methods}}
    (project / "conf/local/parameters.yml").write_text(yaml.safe_dump(local))
    for pipeline, changes in sessions():
        run_session(project, pipeline, **changes)
    return dict(sorted(hashes(project, renamed)))


def hashes(project: Path, renamed: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The hash of every file of weights, and of every table without what is measured."""

    def new(text: str) -> str:
        for old, replacement in renamed.items():
            text = re.sub(rf"\b{re.escape(old)}\b", replacement, text)
        return text

    for file in (project / "data").rglob("*"):
        if "01_raw" in file.parts or not file.is_file():
            continue
        name = new(str(file.relative_to(project)))
        if file.suffix in (".safetensors", ".npy"):
            yield name, hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.suffix in (".csv", ".parquet"):
            csv = file.suffix == ".csv"
            table = pd.read_csv(file, dtype=str) if csv else pd.read_parquet(file)
            compared = [column for column in table if not any(of in column for of in MEASURED)]
            texts = table[compared].map(lambda value: new(str(value)))
            rows = pd.util.hash_pandas_object(texts, index=False)
            columns = [new(column) for column in compared]
            yield name, hashlib.sha256(repr((columns, sorted(rows))).encode()).hexdigest()


def in_new_process(root: Path, folder: Path, renamed: list[str]) -> dict[str, str]:
    """Call `run_all` in a new process, with the code in `root`."""
    result = folder / "hashes.json"
    command = [sys.executable, __file__, "--root", str(root), "--into", str(folder)]
    command += ["--renamed", *renamed]
    paths = os.pathsep.join([str(root / "src"), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "DO_NOT_TRACK": "1"}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, str] = json.loads(result.read_text())
    return found


def main() -> None:
    """Compare the working tree with a revision."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("revision", nargs="?", default="HEAD")
    parser.add_argument("--renamed", nargs="*", default=[], metavar="OLD=NEW")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.root:
        renamed = dict(pair.split("=") for pair in options.renamed)
        found = run_all(options.root, options.into / "project", renamed)
        (options.into / "hashes.json").write_text(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        before, after, tree = (Path(folder, name) for name in ("before", "after", "tree"))
        before.mkdir(), after.mkdir()
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", tree, options.revision], check=True)
        try:
            one = in_new_process(tree, before, options.renamed)
            two = in_new_process(ROOT, after, [])
        finally:
            subprocess.run([*git, "remove", "--force", tree], check=True)
    differing = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
    for name in differing:
        print(f"{name}: {'differs' if name in one and name in two else 'is in one of them only'}")
    print(f"{len(one.keys() | two.keys()) - len(differing)} files are the same")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
