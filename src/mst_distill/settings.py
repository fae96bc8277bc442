"""Project settings: https://docs.kedro.org/en/stable/kedro_project_setup/settings.html."""

from mst_distill.hooks import ParameterHooks, TrackingHooks

HOOKS = (ParameterHooks(), TrackingHooks())

# `TrackingHooks` is that plugin's hook and a little more: it must not run twice.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-mlflow",)

CONFIG_LOADER_ARGS = {"base_env": "base", "default_run_env": "local"}
