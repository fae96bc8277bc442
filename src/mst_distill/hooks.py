"""Hooks: parameters are checked before anything runs, and MLflow is told what the catalog saves."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from pydantic import BaseModel

from mst_distill.parameters import Members, Route, Runtime, unknown
from mst_distill.run_lock import RunLock

with warnings.catch_warnings(record=True):
    # It defines an MLflow model without type hints, and MLflow would tell every user so.
    from kedro_mlflow.framework.hooks import MlflowHook


class ParameterHooks:
    """Refuses what no single block of parameters can see is wrong."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Refuse unknown top-level parameters.

        Raises:
            ValueError: A parameter is used by no pipeline; the message names the nearest that is.
        """
        used = {
            name.removeprefix("params:").split(".")[0]
            for pipeline in pipelines.values()
            for name in pipeline.inputs()
            if name.startswith("params:")
        }
        known = sorted(used | set(context.config_loader["globals"]))
        for name in context.config_loader["parameters"]:
            if name not in known:
                raise ValueError(unknown("parameter", name, known))

    @hook_impl
    def after_catalog_created(self, parameters: dict[str, Any]) -> None:
        """Refuse, before the raw files are read, what a run would come to only after its stages.

        Raises:
            ValueError: The target is no modality, no teacher has a masked layer, fewer specialists
                than are to be chosen, or the seed is no number from 0 on.
        """
        # A pipeline that does not use a block leaves it a plain dict.
        members = Members.model_validate(parameters["params:members"])
        route = Route.model_validate(parameters["params:route"])
        seed, target = parameters["params:seed"], parameters["params:target"]
        teachers = members.teachers_of(target)
        specialists = sum(len(teacher.masked_layers) for teacher in teachers.values())
        if not specialists:
            raise ValueError(
                f"no teacher of {target!r} has masked layers: name some in the masked_layers of "
                f"one of {', '.join(teachers)}"
            )
        if route.chosen > specialists:
            raise ValueError(
                f"route.chosen is {route.chosen}, but the teachers of {target!r} have only "
                f"{specialists} masked layers, and so specialists"
            )
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed is {seed!r}; it must be a whole number from 0 on")


class LockHooks:
    """Lets one process at a time make a run: it holds the folders of the models that it makes."""

    def __init__(self) -> None:
        self._locks: list[RunLock] = []

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Take the locks.

        Raises:
            BlockingIOError: Another process makes this run; the message names it.
        """
        models = filter(_is_model, (catalog[name] for name in pipeline.all_outputs()))
        places = [entry._describe() for entry in models]
        folders = {Path(place.get("filepath") or place["path"]).parent for place in places}
        self._locks += [RunLock(folder) for folder in sorted(folders)]

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Let go, and forget from where stages would have gone on."""
        if "checkpoints" in pipeline.inputs():
            catalog["checkpoints"].load().clear()
        self._release()

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Let go."""
        self._release()

    def _release(self) -> None:
        while self._locks:
            self._locks.pop().release()


def _is_model(entry: Any) -> bool:
    metadata = getattr(entry, "metadata", None) or {}
    return metadata.get("kedro-viz", {}).get("layer") == "models"


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
        if uri and uri.startswith("sqlite:///"):
            file = context.project_path / uri.removeprefix("sqlite:///")
            settings["server"]["mlflow_tracking_uri"] = f"sqlite:///{file}"
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
        self._is_mlflow_enabled = self._on
        if self._on:
            super().before_pipeline_run(run_params, pipeline, catalog)

    @hook_impl
    def on_pipeline_error(
        self,
        error: Exception,
        run_params: dict[str, Any],
        pipeline: Pipeline,
        catalog: DataCatalog,
    ) -> None:
        """Close the run as FAILED, if one was opened before the error came."""
        if mlflow.active_run():
            super().on_pipeline_error(error, run_params, pipeline, catalog)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Tell MLflow of an entry that was saved."""
        if not self._is_mlflow_enabled:
            return
        match self._tracked.get(dataset_name):
            case "history":
                _log_history(dataset_name, data)
            case "metrics":
                mlflow.log_metrics(dict(_flatten("", data, float)))
            case "artifact":
                path = Path(self._catalog[dataset_name]._describe()["filepath"])
                for file in path.parent.glob(f"{path.stem}.*"):
                    mlflow.log_artifact(str(file), dataset_name)

    def _log_param(self, name: str, value: Any) -> None:
        for key, leaf in _flatten(name, value, object):
            super()._log_param(key, leaf)


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
