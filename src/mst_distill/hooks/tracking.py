"""MLflow is told what the catalog saves; if it cannot be, the run goes on."""

from __future__ import annotations

import logging
import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from pydantic import BaseModel

from mst_distill.artifacts.signals import Interrupted
from mst_distill.parameters import Runtime

with warnings.catch_warnings(record=True):
    # It defines an MLflow model without type hints, and MLflow would tell every user so.
    from kedro_mlflow.framework.hooks import MlflowHook


log = logging.getLogger(__name__)


class TrackingHooks(MlflowHook):
    """kedro-mlflow's hook, with typed parameters flattened and the catalog's ``tracking`` obeyed.

    An entry of the catalog says in its metadata how MLflow is told of it: ``tracking: history`` (a
    table, a row an epoch), ``metrics`` (nested numbers) or ``artifact`` (its files).
    """

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Read mlflow.yml; a relative SQLite file lies in the project, wherever one works from."""
        self._on = Runtime.model_validate(context.config_loader["parameters"]["runtime"]).tracking
        self.run_id = None
        if not self._on:
            return
        settings = context.config_loader["mlflow"]
        uri = settings["server"]["mlflow_tracking_uri"]
        with self._giving_up():
            if uri and uri.startswith("sqlite:///"):
                file = context.project_path / uri.removeprefix("sqlite:///")
                settings["server"]["mlflow_tracking_uri"] = f"sqlite:///{file}"
                _open(file)
            context.config_loader["mlflow"] = settings
            super().after_context_created(context)

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog, conf_catalog: dict[str, Any]) -> None:
        """Note which entries are tracked."""
        self._tracked = {
            name: entry["metadata"]["tracking"]
            for name, entry in conf_catalog.items()
            if "tracking" in entry.get("metadata", {})
        }
        self._catalog = catalog

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Open a run, unless ``runtime.tracking`` is off."""
        self._is_mlflow_enabled = False
        if self._on:
            with self._giving_up():
                super().before_pipeline_run(run_params, pipeline, catalog)

    @hook_impl
    def on_pipeline_error(
        self,
        error: Exception,
        run_params: dict[str, Any],
        pipeline: Pipeline,
        catalog: DataCatalog,
    ) -> None:
        """Close the run, if one was opened: as KILLED if a signal ended it, else as FAILED."""
        with self._giving_up():
            while isinstance(error, Interrupted) and mlflow.active_run():
                mlflow.end_run("KILLED")
            if mlflow.active_run():
                super().on_pipeline_error(error, run_params, pipeline, catalog)

    @hook_impl
    def after_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Close the run as FINISHED."""
        with self._giving_up():
            super().after_pipeline_run(run_params, pipeline, catalog)

    @hook_impl
    def before_node_run(
        self, node: Node, catalog: DataCatalog, inputs: dict[str, Any], is_async: bool
    ) -> None:
        """Log the node's parameters."""
        if self._is_mlflow_enabled:
            with self._giving_up():
                super().before_node_run(node, catalog, inputs, is_async)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Tell MLflow of an entry that was saved."""
        if self._is_mlflow_enabled:
            with self._giving_up():
                self._log(dataset_name, data)

    def _log(self, dataset_name: str, data: Any) -> None:
        match self._tracked.get(dataset_name):
            case "history":
                _log_history(dataset_name, data)
            case "metrics":
                mlflow.log_metrics(dict(_flatten("", data, float)))
            case "artifact":
                path = Path(self._catalog[dataset_name]._describe()["filepath"])
                for file in path.parent.glob(f"{path.stem}.*"):
                    mlflow.log_artifact(str(file), dataset_name)

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Warn once of whatever MLflow meets inside, and tell it no more."""
        try:
            yield
        except Exception as error:  # a full disk, a server that is gone, a database of another age
            self._on = self._is_mlflow_enabled = False
            log.warning("MLflow is told no more of this run: %s: %s", type(error).__name__, error)

    def _log_param(self, name: str, value: Any) -> None:
        for key, leaf in _flatten(name, value, object):
            super()._log_param(key, leaf)


def _open(database: Path) -> None:
    """Open and close a SQLite file, which MLflow would try to for 100 seconds.

    Raises:
        sqlite3.Error: The file cannot be opened or made, or is no database.
    """
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA schema_version")


def _log_history(name: str, history: pd.DataFrame) -> None:
    stage = name.removesuffix("_history")
    for row, record in enumerate(history.select_dtypes("number").to_dict(orient="records")):
        figures = {key: value for key, value in record.items() if key != "epoch"}
        mlflow.log_metrics({_allowed(f"{stage}/{key}"): figures[key] for key in figures}, row)


def _flatten(name: str, value: Any, kind: type) -> list[tuple[str, Any]]:
    """Leaves of nested models and dicts that are of `kind`, under dotted names."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        return [
            leaf
            for key, inner in value.items()
            for leaf in _flatten(f"{name}.{key}" if name else str(key), inner, kind)
        ]
    return [(_allowed(name), value)] if isinstance(value, kind) else []


def _allowed(name: str) -> str:
    """`name` without the characters that MLflow refuses, which a class may well have."""
    return re.sub(r"[^/\w.\- :]", "_", name)
