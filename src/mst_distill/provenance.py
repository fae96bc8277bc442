"""Where a result comes from: seed, data, parameters, versions, git revision."""

from __future__ import annotations

import hashlib
import json
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

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
    samples: Samples, splits: pd.DataFrame, seed: int, **parameters: Any
) -> dict[str, Any]:
    """What every model bundle says of its origin.

    Returns:
        ``seed``, ``parameters`` (as JSON), ``data`` (the store's digest), ``fingerprint``,
        ``versions`` and ``git``.
    """
    return {
        "seed": seed,
        "parameters": _plain(parameters),
        "data": samples.digest,
        "fingerprint": fingerprint(samples, splits, seed=seed, **parameters),
        "versions": {name: version(name) for name in ("mst-distill", "torch", "numpy")},
        "git": git_revision(),
    }


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
