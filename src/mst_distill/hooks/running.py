"""A run as a process: it has its folder alone, and signals end it at its next step."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from mst_distill.interruption import Interrupted, listening
from mst_distill.run_lock import RunLock


class RunHooks:
    """Holds the folders of the models that a run makes, and listens for signals meanwhile."""

    def __init__(self) -> None:
        self._held = ExitStack()

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Take the folders.

        Raises:
            BlockingIOError: Another process makes this run; the message names it.
        """
        models = filter(_is_model, (catalog[name] for name in pipeline.all_outputs()))
        places = [entry._describe() for entry in models]
        folders = {Path(place.get("filepath") or place["path"]).parent for place in places}
        for folder in sorted(folders):
            self._held.callback(RunLock(folder).release)
        self._held.enter_context(listening())

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Let go, and forget from where stages would have gone on."""
        if "checkpoints" in pipeline.inputs():
            catalog["checkpoints"].load().clear()
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


def _is_model(entry: Any) -> bool:
    metadata = getattr(entry, "metadata", None) or {}
    return metadata.get("kedro-viz", {}).get("layer") == "models"
