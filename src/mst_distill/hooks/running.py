"""A run as a process: it alone writes to its folders, and signals end it at its next step."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from mst_distill.artifacts.lock import holding
from mst_distill.artifacts.signals import Interrupted, listening
from mst_distill.datasets.catalog import ArtifactCatalog

CHECKPOINTS, TRIALS = "checkpoints", "trial_log"
"""What nodes write as they go, and get as an input."""

SHARED = "model_input"
"""The layer of what several runs have in common: samples have a lock of their own, splits are the
same for all."""


class RunHooks:
    """Holds the folders that a run writes to, verifies what it begins with, hears signals."""

    def __init__(self) -> None:
        self._held = ExitStack()

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Take the folders and verify the inputs.

        Raises:
            BlockingIOError: Another process writes there; the message names it.
            ValueError: What the run begins with is missing or stale.
        """
        with ExitStack() as held:
            for folder in sorted(_folders(pipeline, catalog)):
                held.enter_context(holding(folder))
            if isinstance(catalog, ArtifactCatalog):
                catalog.begin_run(pipeline.inputs(), pipeline.all_outputs())
            held.enter_context(listening())
            self._held = held.pop_all()

    @hook_impl
    def before_node_run(
        self, node: Node, catalog: DataCatalog, inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """Tie the state of a node's stages to what its results will be made from."""
        if CHECKPOINTS in inputs and isinstance(catalog, ArtifactCatalog):
            return {CHECKPOINTS: inputs[CHECKPOINTS].on(catalog.origin_of(node).digest)}
        return {}

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Let go, and forget from where stages would have gone on."""
        if CHECKPOINTS in pipeline.inputs():
            catalog[CHECKPOINTS].load().clear()
        self._held.close()

    @hook_impl(trylast=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """Let go.

        Raises:
            SystemExit: A signal ended the run: 128 and its number, as shells have it.
        """
        self._held.close()
        if isinstance(error, Interrupted):
            raise SystemExit(128 + error.signum) from error


def _folders(pipeline: Pipeline, catalog: DataCatalog) -> set[Path]:
    """The folders of a run's outputs and of what its nodes write as they go."""
    written = {name for name in pipeline.all_outputs() if _layer(catalog, name) != SHARED}
    written |= {CHECKPOINTS, TRIALS} & pipeline.inputs()
    places = [catalog[name]._describe() for name in written]
    paths = (place.get("filepath") or place.get("path") for place in places)
    return {Path(str(path)).parent for path in paths if path}


def _layer(catalog: DataCatalog, name: str) -> str | None:
    metadata = getattr(catalog[name], "metadata", None) or {}
    layer: str | None = metadata.get("kedro-viz", {}).get("layer")
    return layer
