"""Hooks: parameters are checked, a run has its folder alone, MLflow is told of it."""

from mst_distill.hooks.checking import ParameterHooks
from mst_distill.hooks.running import RunHooks
from mst_distill.hooks.tracking import TrackingHooks

__all__ = ["ParameterHooks", "RunHooks", "TrackingHooks"]
