"""Says whether a change of the code changes a result: a small run of everything, before and after.

    python tests/golden/compare_revisions.py [REVISION]

runs the same pipelines with the code of a revision (by default HEAD) and with that of the working
tree, on this machine, and compares the SHA-256 of all weights and tables. Hashes of float32 results
hold on one kind of processor only, so none are kept. It takes some four minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
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
"""What the names of columns that differ from run to run contain."""


def sessions() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pipelines that are run, with their parameters."""
    for target in ("image", "audio"):
        for preset in ("default", "reference"):
            route = {"epochs": 2, "preset": preset}
            yield "distill", {**SHORT, "target": target, "run": preset, "route": route}
    yield "diagnose", {**SHORT, "target": "audio", "run": "default", "route": {"epochs": 2}}
    yield "compare", {**SHORT, "compare": {"seeds": 1}, "route": {"epochs": 2}}


def run_all(root: Path, project: Path) -> dict[str, str]:
    """Run everything with the code of this process in a new copy of `root`'s configuration.

    Returns:
        File, relative to the copy, to the hash of its content.
    """
    import yaml

    from projects import copy_project, run_session

    copy_project(project, root)
    files = sorted((project / "conf/base").glob("parameters*.yml"))
    parameters = {key: of for file in files for key, of in yaml.safe_load(file.read_text()).items()}
    methods = {name: parameters["compare"]["methods"][name] for name in ("none", *METHODS)}
    local = {"compare": {**parameters["compare"], "methods": methods}}
    (project / "conf/local/parameters.yml").write_text(yaml.safe_dump(local))
    for pipeline, changes in sessions():
        run_session(project, pipeline, **changes)
    return dict(sorted(hashes(project)))


def hashes(project: Path) -> Iterator[tuple[str, str]]:
    """The hash of every file of weights, and of every table but for what is measured."""
    for file in (project / "data").rglob("*"):
        if "01_raw" in file.parts or not file.is_file():
            continue
        name = str(file.relative_to(project))
        if file.suffix in (".safetensors", ".npy"):
            yield name, hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.suffix in (".csv", ".parquet"):
            csv = file.suffix == ".csv"
            table = pd.read_csv(file, dtype=str) if csv else pd.read_parquet(file)
            kept = [column for column in table if not any(of in column for of in MEASURED)]
            rows = pd.util.hash_pandas_object(table[kept].astype(str), index=False)
            yield name, hashlib.sha256(repr((kept, rows.tolist())).encode()).hexdigest()


def in_new_process(root: Path, folder: Path) -> dict[str, str]:
    """`run_all` with the code in `root`."""
    result = folder / "hashes.json"
    command = [sys.executable, __file__, "--root", str(root), "--into", str(folder)]
    paths = os.pathsep.join([str(root / "src"), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "DO_NOT_TRACK": "1"}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, str] = json.loads(result.read_text())
    return found


def main() -> None:
    """Compare the working tree with a revision."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("revision", nargs="?", default="HEAD")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.root:
        found = run_all(options.root, options.into / "project")
        (options.into / "hashes.json").write_text(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        before, after, tree = (Path(folder, name) for name in ("before", "after", "tree"))
        before.mkdir(), after.mkdir()
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", tree, options.revision], check=True)
        try:
            one, two = in_new_process(tree, before), in_new_process(ROOT, after)
        finally:
            subprocess.run([*git, "remove", "--force", tree], check=True)
    differing = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
    for name in differing:
        print(f"{name}: {'differs' if name in one and name in two else 'is in one of them only'}")
    print(f"{len(one.keys() | two.keys()) - len(differing)} files are the same")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
