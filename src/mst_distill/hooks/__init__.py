"""Kedro hooks: they validate parameters, lock the folders of a run, and track it in MLflow."""

from mst_distill.hooks.plan import PlanHooks
from mst_distill.hooks.running import RunHooks
from mst_distill.hooks.tracking import TrackingHooks

__all__ = ["PlanHooks", "RunHooks", "TrackingHooks"]
