"""Project settings: https://docs.kedro.org/en/stable/kedro_project_setup/settings.html."""

from mst_distill.config_loader import ConfigLoader
from mst_distill.context import ProjectContext
from mst_distill.datasets.catalog import ArtifactCatalog
from mst_distill.hooks import PlanHooks, RunHooks, TrackingHooks
from mst_distill.hooks.terminal import outlive_readers
from mst_distill.plan import labels_in_path, protocol_in_path
from mst_distill.threads import limit_spinning
from mst_distill.user import ensure_user_name

ensure_user_name()
outlive_readers()
limit_spinning()

HOOKS = (PlanHooks(), TrackingHooks(), RunHooks())  # Kedro calls the last one first

# `TrackingHooks` extends the hook of kedro-mlflow, which therefore must not run a second time, and
# telemetry is off by default. Kedro matches the names of distributions, hence both spellings.
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow", "kedro-mlflow", "kedro-telemetry")

DATA_CATALOG_CLASS = ArtifactCatalog
CONTEXT_CLASS = ProjectContext

CONFIG_LOADER_CLASS = ConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {"mlflow": ["mlflow*"]},
    "custom_resolvers": {
        "labels_in_path": labels_in_path,
        "protocol_in_path": protocol_in_path,
    },
}
