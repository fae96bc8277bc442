"""Tests that use a database of MLflow, and leave none behind as the one in use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow

URI = "MLFLOW_TRACKING_URI"


@contextmanager
def using_database(folder: Path) -> Iterator[None]:
    """Let MLflow use ``mlflow.db`` in a folder; it also sets a variable of the environment."""
    before, variable = mlflow.get_tracking_uri(), os.environ.get(URI)
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop(URI, None)
        if variable is not None:
            os.environ[URI] = variable
