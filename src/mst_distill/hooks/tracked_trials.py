"""Logs the trials of a comparison to MLflow, each as a child of the run that made it."""

from __future__ import annotations

import time
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

KEYS = ("target", "title", "method", "teacher", "seed", "labelled")
"""The columns that tell trials apart."""


def log_trials(trials: pd.DataFrame, selection: str) -> None:
    """Create a child of the active run for each trial, with its metrics or its error.

    Args:
        trials: A row for each trial and selection criterion, as `run_trials` returns it.
        selection: The criterion whose metrics are logged.
    """
    active = mlflow.active_run()
    if active is None:
        return
    client, parent = MlflowClient(), active.info
    for row in trials[trials["selection"].isin(["", selection])].to_dict("records"):
        keys = {key: row[key] for key in KEYS if key in row}
        failed = bool(row["error"])
        tags = {
            MLFLOW_PARENT_RUN_ID: parent.run_id,
            MLFLOW_RUN_NAME: ", ".join(
                [str(keys["title"]), str(keys["target"]), f"seed {keys['seed']}"]
                + [f"{value:g} of the labels" for key, value in keys.items() if key == "labelled"]
            ),
            **({"error": row["error"]} if failed else {}),
        }
        child = client.create_run(parent.experiment_id, tags=tags).info.run_id
        client.log_batch(
            child,
            metrics=_metrics_of({key: row[key] for key in row if key not in keys}),
            params=[Param(str(key), str(value)) for key, value in keys.items()],
        )
        client.set_terminated(child, "FAILED" if failed else "FINISHED")


def _metrics_of(row: dict[Any, Any]) -> list[Metric]:
    now = int(1000 * time.time())
    return [
        Metric(str(name), float(value), now, 0)
        for name, value in row.items()
        if isinstance(value, int | float) and not pd.isna(value)
    ]
