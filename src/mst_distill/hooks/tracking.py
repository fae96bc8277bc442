"""Tracks what the catalog saves in MLflow; if that fails, the run continues untracked."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
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
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.file_utils import local_file_uri_to_path
from pydantic import BaseModel

from mst_distill.artifacts.lock import one_at_a_time
from mst_distill.artifacts.signals import interruption_of
from mst_distill.datasets.catalog import PARAMETERS, ArtifactCatalog
from mst_distill.hooks.tracked_trials import log_trials
from mst_distill.parameters import Runtime
from mst_distill.plan import labels_in_path

with warnings.catch_warnings(record=True):
    # The plugin defines an MLflow model without type hints, of which MLflow would warn every user.
    from kedro_mlflow.framework.hooks import MlflowHook

# The plugin sets its level to INFO when it is imported, and reports at every start what it found.
logging.getLogger("kedro_mlflow").setLevel(logging.WARNING)

URI = "MLFLOW_TRACKING_URI"
"""The environment variable with which users of MLflow name their server."""

FOLDER = "run_folder"
"""The tag of a run of MLflow that states the folder of its results."""

log = logging.getLogger(__name__)


class TrackingHooks(MlflowHook):
    """The hook of kedro-mlflow, extended by flat parameters and by tracked catalog entries.

    The metadata of an entry state how it is logged: ``tracking: history`` (a table with one row for
    each epoch, as metrics by step), ``metrics`` (nested numbers), ``artifact`` (its files),
    ``trials`` (the files, and a child of the run for each trial of a comparison) or ``model`` (an
    exported student, as a model that MLflow can serve).
    """

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Read mlflow.yml; the path of an SQLite file is relative to the root of the project.

        The environment variable ``MLFLOW_TRACKING_URI`` takes precedence over its address.
        """
        self._enabled = Runtime.model_validate(
            context.config_loader["parameters"]["runtime"]
        ).tracking
        self.run_id = None
        self._continued: Run | None = None
        self._logged: set[str] = set()  # the parameters that the run of MLflow has
        if not self._enabled:
            return
        settings = context.config_loader["mlflow"]
        uri = os.environ.get(URI) or settings["server"]["mlflow_tracking_uri"]
        settings["server"]["mlflow_tracking_uri"] = uri
        # MLflow creates its folder of artifacts in the working folder.
        with self._disabling_on_error(), chdir(context.project_path), _keeping(URI):
            if uri and uri.startswith("sqlite:///"):
                file = context.project_path / uri.removeprefix("sqlite:///")
                settings["server"]["mlflow_tracking_uri"] = f"sqlite:///{file}"
                _check_database(file)
                move_artifacts(file, context.project_path / "mlruns")
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
        """Start an MLflow run, unless ``runtime.tracking`` is off or no output is tracked."""
        self._is_mlflow_enabled = False
        if self._enabled and not pipeline.all_outputs().isdisjoint(self._tracked):
            with self._disabling_on_error():
                self._identify(run_params["pipeline_names"] or ["distill"], catalog)
                super().before_pipeline_run(run_params, pipeline, catalog)
                if self._is_mlflow_enabled:
                    # The tags of a run that is continued are those of its first command.
                    own = self._continued.data.tags if self._continued else {}
                    own = {key: own[key] for key in own if not key.startswith("mlflow.")}
                    mlflow.set_tags({FOLDER: self.mlflow_config.tracking.run.name, **own})

    def _identify(self, pipelines: Sequence[str], catalog: DataCatalog) -> None:
        """Name the MLflow run by its folder.

        `diagnose` and `export` continue the run that they are about.
        """
        if not isinstance(catalog, ArtifactCatalog):
            return
        plan, run = catalog.plan, self.mlflow_config.tracking.run
        data = f"{run.name}/{plan.data_name}"
        labels = labels_in_path(plan.labelled, plan.labelled_validation)
        run.name = f"{data}/{plan.target}/seed-{plan.seed}{labels}/{plan.run}"
        if "compare" in pipelines:
            run.name = f"{data}/compare{labels}/{plan.run}"
        if "label_curve" in pipelines:
            run.name = f"{data}/label_curve/{plan.run}"
        if "aggregate" in pipelines:
            run.name = f"aggregate/{plan.run}"
        if set(pipelines) <= {"diagnose", "export"} and run.id is None:
            experiment = self.mlflow_config.tracking.experiment._experiment.experiment_id
            found = MlflowClient().search_runs(
                [experiment],
                f"tags.{FOLDER} = '{run.name}' and tags.verdict LIKE '%'",
                max_results=1,
                order_by=["attributes.start_time DESC"],
            )
            if found:
                self._continued = found[0]
                self._logged = set(found[0].data.params)
                run.id = self._continued.info.run_id

    @hook_impl
    def on_pipeline_error(
        self,
        error: Exception,
        run_params: dict[str, Any],
        pipeline: Pipeline,
        catalog: DataCatalog,
    ) -> None:
        """End the MLflow run, if any: as KILLED after a signal, else as FAILED.

        A run that is continued stays FINISHED: its results are complete.
        """
        with self._disabling_on_error():
            while self._continued and mlflow.active_run():
                mlflow.end_run()
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
            # The plugin may have started the run again at a node, once more on top of itself.
            while self._enabled and not self._already_active_mlflow and mlflow.active_run():
                mlflow.end_run()

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
                self._log_files(dataset_name)
                if "verdict" in data:
                    mlflow.set_tag("verdict", data["verdict"])
            case "artifact":
                self._log_files(dataset_name)
            case "trials":
                self._log_files(dataset_name)
                if isinstance(self._catalog, ArtifactCatalog):
                    log_trials(data, self._catalog.plan.selection)
            case "model":
                self._log_model(dataset_name)

    def _log_files(self, dataset_name: str) -> None:
        path = Path(self._catalog[dataset_name]._describe()["filepath"])
        for file in path.parent.glob(f"{path.stem}.*"):
            mlflow.log_artifact(str(file), dataset_name)

    def _log_model(self, dataset_name: str) -> None:
        from mst_distill.hooks.logged_model import log_student

        catalog = self._catalog
        if not isinstance(catalog, ArtifactCatalog):
            return
        metrics = {}
        if catalog.exists("metrics"):
            student = catalog.load("metrics")["models"]["student"]
            metrics = {key: value for key, value in student.items() if isinstance(value, float)}
        folder = Path(catalog[dataset_name]._describe()["path"])
        model = log_student(folder, catalog.plan.benchmark.type, metrics)
        log.info("MLflow has the student as models:/%s", model)

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
            if key not in self._logged:
                super()._log_param(key, leaf)
                self._logged.add(key)


@contextmanager
def _keeping(variable: str) -> Iterator[None]:
    """Restore an environment variable after the block; MLflow sets it to the address in use.

    The next session of this process could not tell that address from one that the user has set.
    """
    before = os.environ.get(variable)
    try:
        yield
    finally:
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before


def move_artifacts(database: Path, folder: Path) -> None:
    """Let a database that was moved together with its folder of artifacts refer to that folder.

    MLflow stores absolute paths, and would write to the old place, or create it again. Only
    experiments are updated whose own folder lies in `folder` and whose stored path differs.

    Args:
        database: The SQLite file.
        folder: The folder ``mlruns``. Nothing is changed if it is not next to the database, which
            then belongs to more than this project.
    """
    if database.parent != folder.parent:
        return
    columns = {
        "experiments": "artifact_location",
        "runs": "artifact_uri",
        "logged_models": "artifact_location",
    }
    with closing(sqlite3.connect(database)) as connection, connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "experiments" not in tables:
            return
        stored = connection.execute("SELECT experiment_id, artifact_location FROM experiments")
        for experiment, old in stored.fetchall():
            new = folder / str(experiment)
            if not new.is_dir() or not _is_elsewhere(old, new):
                continue
            log.info("The artifacts of MLflow were moved from %s to %s", old, new)
            place = new.as_uri() if old.startswith("file:") else str(new)
            for table in columns.keys() & tables:
                column = columns[table]
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE experiment_id = ? AND substr({column}, 1, ?) = ?",
                    (place, len(old) + 1, experiment, len(old), old),
                )


def _is_elsewhere(old: str, new: Path) -> bool:
    """Whether the location of an experiment is the folder of its number in another ``mlruns``."""
    if "://" in old and not old.startswith("file:"):
        return False  # for example S3
    path = Path(local_file_uri_to_path(old))
    return path.parts[-2:] == new.parts[-2:] and path != new


def _check_database(database: Path) -> None:
    """Open and close an SQLite file, creating it if needed; MLflow would retry for 100 seconds.

    SQLite itself would create a file that only its owner may write, whatever the umask.

    Raises:
        OSError, sqlite3.Error: The file cannot be opened or created, or is not a database.
    """
    database.touch()
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
