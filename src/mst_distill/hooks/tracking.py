"""Tracks what the catalog saves in MLflow; if that fails, the run continues untracked."""

from __future__ import annotations

import logging
import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import chdir, closing, contextmanager
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

from mst_distill.artifacts.lock import one_at_a_time
from mst_distill.artifacts.signals import interruption_of
from mst_distill.datasets.catalog import PARAMETERS, ArtifactCatalog
from mst_distill.parameters import Runtime

with warnings.catch_warnings(record=True):
    # The plugin defines an MLflow model without type hints, of which MLflow would warn every user.
    from kedro_mlflow.framework.hooks import MlflowHook


log = logging.getLogger(__name__)


class TrackingHooks(MlflowHook):
    """The hook of kedro-mlflow, extended by flat parameters and by tracked catalog entries.

    The metadata of an entry state how it is logged: ``tracking: history`` (a table with one row for
    each epoch, as metrics by step), ``metrics`` (nested numbers) or ``artifact`` (its files).
    """

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Read mlflow.yml; the path of an SQLite file is relative to the root of the project."""
        self._enabled = Runtime.model_validate(
            context.config_loader["parameters"]["runtime"]
        ).tracking
        self.run_id = None
        if not self._enabled:
            return
        settings = context.config_loader["mlflow"]
        uri = settings["server"]["mlflow_tracking_uri"]
        # MLflow creates its folder of artifacts in the working folder.
        with self._disabling_on_error(), chdir(context.project_path):
            if uri and uri.startswith("sqlite:///"):
                file = context.project_path / uri.removeprefix("sqlite:///")
                settings["server"]["mlflow_tracking_uri"] = f"sqlite:///{file}"
                _check_database(file)
            context.config_loader["mlflow"] = settings
            # Several runs that start together would all create the tables of a new database.
            with one_at_a_time(Path(context.project_path) / "mlflow"):
                super().after_context_created(context)

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog, conf_catalog: dict[str, Any]) -> None:
        """Collect the entries that are tracked."""
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
        """Start an MLflow run, unless ``runtime.tracking`` is off."""
        self._is_mlflow_enabled = False
        if self._enabled:
            with self._disabling_on_error():
                super().before_pipeline_run(run_params, pipeline, catalog)

    @hook_impl
    def on_pipeline_error(
        self,
        error: Exception,
        run_params: dict[str, Any],
        pipeline: Pipeline,
        catalog: DataCatalog,
    ) -> None:
        """End the MLflow run, if any: as KILLED after a signal, else as FAILED."""
        with self._disabling_on_error():
            while interruption_of(error) and mlflow.active_run():
                mlflow.end_run("KILLED")
            if mlflow.active_run():
                super().on_pipeline_error(error, run_params, pipeline, catalog)

    @hook_impl
    def after_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """End the MLflow run as FINISHED."""
        with self._disabling_on_error():
            super().after_pipeline_run(run_params, pipeline, catalog)

    @hook_impl
    def before_node_run(
        self, node: Node, catalog: DataCatalog, inputs: dict[str, Any], is_async: bool
    ) -> None:
        """Log the parameters that the node reads."""
        if self._is_mlflow_enabled:
            if PARAMETERS in inputs and isinstance(catalog, ArtifactCatalog):
                inputs = {PARAMETERS: catalog.plan_of(node)}
            with self._disabling_on_error():
                super().before_node_run(node, catalog, inputs, is_async)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log an entry that was saved, if it is tracked."""
        if self._is_mlflow_enabled:
            with self._disabling_on_error():
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
    def _disabling_on_error(self) -> Iterator[None]:
        """Log an error of MLflow as a warning, and track this run no further."""
        try:
            yield
        # For example a full disk, an unreachable server, a database of another MLflow version.
        except Exception as error:
            self._enabled = self._is_mlflow_enabled = False
            log.warning("MLflow tracks this run no further: %s: %s", type(error).__name__, error)

    def _log_param(self, name: str, value: Any) -> None:
        for key, leaf in _flatten("" if name == PARAMETERS else name, value, object):
            super()._log_param(key, leaf)


def _check_database(database: Path) -> None:
    """Open and close an SQLite file, creating it if needed; MLflow would retry for 100 seconds.

    Raises:
        sqlite3.Error: The file cannot be opened or created, or is not a database.
    """
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA schema_version")


def _log_history(name: str, history: pd.DataFrame) -> None:
    stage = name.removesuffix("_history")
    for row, record in enumerate(history.select_dtypes("number").to_dict(orient="records")):
        metrics = {key: value for key, value in record.items() if key != "epoch"}
        mlflow.log_metrics({_valid_key(f"{stage}/{key}"): metrics[key] for key in metrics}, row)


def _flatten(name: str, value: Any, kind: type) -> list[tuple[str, Any]]:
    """The leaves of nested models and dicts that are instances of `kind`, by dotted names."""
    if isinstance(value, BaseModel):
        value = dict(value)  # unlike a dump, this includes the excluded fields
    if isinstance(value, dict):
        return [
            leaf
            for key, inner in value.items()
            for leaf in _flatten(f"{name}.{key}" if name else str(key), inner, kind)
        ]
    return [(_valid_key(name), value)] if isinstance(value, kind) else []


def _valid_key(name: str) -> str:
    """`name`, with _ in place of characters that MLflow rejects; class names may contain some."""
    return re.sub(r"[^/\w.\- :]", "_", name)
