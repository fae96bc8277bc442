"""Where a result comes from: seed, data, parameters, versions, git revision."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from mst_distill.imports import files_of
from mst_distill.samples import Samples


def fingerprint(samples: Samples, splits: pd.DataFrame, **parameters: Any) -> str:
    """SHA-256 over the data, its splits and the parameters that a result depends on.

    Args:
        samples: The store that was trained on; its digest counts.
        splits: The run's splits.
        parameters: Blocks and values by name; the runtime block is none of them.
    """
    text = json.dumps([samples.digest, _plain(parameters)], sort_keys=True)
    sha = hashlib.sha256(text.encode())
    sha.update("\n".join(splits["id"].astype(str) + "\t" + splits["split"]).encode())
    return sha.hexdigest()


def provenance(
    samples: Samples,
    splits: pd.DataFrame,
    seed: int,
    made_from: Mapping[str, str] | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """What every model bundle says of its origin.

    Args:
        samples: The store.
        splits: The run's splits.
        seed: The run's.
        made_from: Bundles of earlier stages that it was made from: name to their weights' SHA-256.
        parameters: Blocks and values by name.

    Returns:
        ``seed``, ``parameters`` (as JSON), ``data`` (the store's digest), ``made_from``,
        ``fingerprint``, ``versions`` and ``git``.
    """
    return {
        "seed": seed,
        "parameters": _plain(parameters),
        "data": samples.digest,
        "made_from": dict(made_from or {}),
        "fingerprint": fingerprint(samples, splits, seed=seed, **parameters),
        "versions": {name: version(name) for name in ("mst-distill", "torch", "numpy")},
        "git": git_revision(),
    }


def terms(origin: Mapping[str, Any], kinds: Iterable[type]) -> str:
    """SHA-256 over all that a training's course depends on.

    Args:
        origin: From `provenance`.
        kinds: Classes of nets, whose code counts beside this package's.
    """
    sha = hashlib.sha256(json.dumps([origin["fingerprint"], origin["made_from"]]).encode())
    files = [file for kind in kinds for file in files_of(kind)]
    for file in sorted({*files, *Path(__file__).parent.rglob("*.py")}):
        sha.update(file.read_bytes())
    return sha.hexdigest()


def changes(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In what one `provenance` differs from another, but for versions; a clause each.

    Args:
        made: Of what is there.
        wanted: Of what would be made now.
    """
    if all(made.get(key) == wanted[key] for key in ("fingerprint", "made_from")):
        return []
    clauses = ["the samples are others"] if made.get("data") != wanted["data"] else []
    was, now = (
        dict(_leaves("", {"seed": origin.get("seed"), **origin.get("parameters", {})}))
        for origin in (made, wanted)
    )
    clauses += [
        f"{key} was {was.get(key)} and is {now.get(key)}"
        for key in {**was, **now}
        if was.get(key) != now.get(key)
    ]
    before, after = made.get("made_from", {}), wanted["made_from"]
    clauses += [f"{name} was made anew" for name in after if before.get(name) != after[name]]
    return clauses or ["the splits are others"]


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else key, inner)
    else:
        yield prefix, value


def git_revision() -> str:
    """The commit of the working tree, ``-dirty`` when it differs, ``unknown`` outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git on this machine
        return "unknown"
    return done.stdout.strip() or "unknown"


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in parameters.items()
    }
