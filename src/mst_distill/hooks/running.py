"""The folders of a run: its working folder, exclusive access, verified inputs; and signals."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack, chdir
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import LOGGING
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from mst_distill.artifacts.lock import holding
from mst_distill.artifacts.signals import check, interruption_of, listening
from mst_distill.datasets.catalog import ArtifactCatalog
from mst_distill.hooks.terminal import show_errors_as_messages

CHECKPOINTS, TRIALS = "checkpoints", "trial_log"
"""Catalog entries that are inputs of nodes, and that the nodes write to while they run."""

VERDICT = "metrics"
"""The catalog entry with the verdict of a run."""

REPORTS = ("report", "diagnosed_report", "methods_web_page", "label_curve_web_page")
"""Catalog entries of pages that a person opens."""

SHARED = "model_input"
"""The layer of the entries that several runs share. Their folders are not locked: samples have a
lock of their own, and splits are the same for all these runs."""

log = logging.getLogger(__name__)


class RunHooks:
    """Locks the folders that a run writes to, verifies its inputs, and handles signals."""

    def __init__(self) -> None:
        self._acquired = ExitStack()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Configure errors, imports, and logging, which Kedro does only in the project root."""
        show_errors_as_messages()
        root = Path(context.project_path)
        _import_from(root)
        file = root / "conf" / "logging.yml"
        elsewhere = "KEDRO_LOGGING_CONFIG" not in os.environ and Path.cwd() != root
        if elsewhere and file.is_file():
            LOGGING.configure(yaml.safe_load(file.read_text(encoding="utf-8")))

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Enter the root of the project, lock the folders and verify the inputs.

        Relative paths, for example in the arguments of a benchmark, are relative to the root.

        Raises:
            BlockingIOError: Another process writes to one of the folders; the message names it.
            ValueError: An input of the run is missing or stale.
        """
        with ExitStack() as acquired:
            acquired.enter_context(chdir(run_params["project_path"]))
            # In a fixed order, so that one of two runs that start together gets all locks.
            for folder in sorted(_output_folders(pipeline, catalog)):
                acquired.enter_context(holding(folder))
            if isinstance(catalog, ArtifactCatalog):
                catalog.begin_run(pipeline.inputs(), pipeline.all_outputs())
            acquired.enter_context(listening())
            # If an error is raised above, the locks are released at once.
            self._acquired = acquired.pop_all()

    @hook_impl
    def before_node_run(
        self, node: Node, catalog: DataCatalog, inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """Bind the checkpoints of a node to the origin of its results.

        A stage continues only from checkpoints of the same parameters, inputs and code.

        Raises:
            Interrupted: A signal asked the run to end while a node ran that does not look for it.
        """
        check()
        if CHECKPOINTS in inputs and isinstance(catalog, ArtifactCatalog):
            origin = catalog.origin_of(node).digest
            return {CHECKPOINTS: inputs[CHECKPOINTS].on(origin, below=node.name)}
        return {}

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Delete the checkpoints of the nodes that have ended, and release the locks."""
        for node in pipeline.nodes:
            if CHECKPOINTS in node.inputs:
                catalog[CHECKPOINTS].load().on("", below=node.name).clear()
        self._acquired.close()

    @hook_impl(trylast=True, specname="after_pipeline_run")
    def name_reports(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Log the verdict, if the run has one, and as the last line the path of its report."""
        written = pipeline.all_outputs()
        if VERDICT in written:
            log.info("%s", catalog[VERDICT].load()["verdict"])
        for name in REPORTS:
            if name in written:
                path = Path(str(catalog[name]._describe()["filepath"]))
                here = path.is_relative_to(Path.cwd())
                log.info("Report: %s", path.relative_to(Path.cwd()) if here else path)

    @hook_impl(trylast=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """Release the locks.

        Raises:
            SystemExit: A signal ended the run; the status is 128 plus its number, as in shells.
        """
        self._acquired.close()
        if interruption := interruption_of(error):
            raise SystemExit(128 + interruption.signum) from error


def _import_from(root: Path) -> None:
    """Let relative folders in ``PYTHONPATH`` be relative to the root of the project as well.

    A notebook starts in its own folder, and Python made them relative to that one.
    """
    for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        folder = root / entry
        if entry and not Path(entry).is_absolute() and str(folder) not in sys.path:
            sys.path.append(str(folder))


def _output_folders(pipeline: Pipeline, catalog: DataCatalog) -> set[Path]:
    """The folders of a run's outputs and of the entries that its nodes write to."""
    written = {name for name in pipeline.all_outputs() if _layer(catalog, name) != SHARED}
    written |= {CHECKPOINTS, TRIALS} & pipeline.inputs()
    descriptions = [catalog[name]._describe() for name in written]
    paths = (entry.get("filepath") or entry.get("path") for entry in descriptions)
    return {Path(str(path)).parent for path in paths if path}


def _layer(catalog: DataCatalog, name: str) -> str | None:
    metadata = getattr(catalog[name], "metadata", None) or {}
    layer: str | None = metadata.get("kedro-viz", {}).get("layer")
    return layer
