"""Project settings: https://docs.kedro.org/en/stable/kedro_project_setup/settings.html."""

from mst_distill.config_loader import ConfigLoader
from mst_distill.datasets.catalog import ArtifactCatalog
from mst_distill.hooks import ParameterHooks, RunHooks, TrackingHooks

HOOKS = (ParameterHooks(), TrackingHooks(), RunHooks())  # the last one is asked first

# `TrackingHooks` is kedro-mlflow's hook and a little more, so that must not run beside it; nobody
# asked for telemetry. Kedro goes by the names that the packages give themselves.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow", "kedro-mlflow", "kedro-telemetry")

DATA_CATALOG_CLASS = ArtifactCatalog

CONFIG_LOADER_CLASS = ConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {"mlflow": ["mlflow*"]},
}
