"""The parameters of a run: validated before the first node, and passed to each node as a plan."""

from __future__ import annotations

from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from mst_distill.artifacts.provenance import parameters_read
from mst_distill.datasets.catalog import PARAMETERS, ArtifactCatalog

CONCURRENT = ("ThreadRunner", "ParallelRunner")
"""The runners of Kedro that run several nodes at the same time."""

TRAINS = {
    "train_baseline": False,
    "train_members": False,
    "train_methods": True,
    "train_shares": True,
}
"""The nodes that first train a student, and whether they train all that `compare` has. A budget is
checked here because results do not depend on it, nor on the code that measures."""


class PlanHooks:
    """Validates all parameters, and passes each node those that it declares with `depends_on`."""

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Reject runners that run nodes at the same time, before any folder is created.

        Threads would draw from one random generator, for example for dropout, so that results would
        differ from run to run; processes lack the hooks that lock a run's folders and that end the
        run on a signal.

        Raises:
            ValueError: The run has such a runner; the message names the runner to use.
        """
        # Kedro passes a runner as its repr, <kedro.runner.thread_runner.ThreadRunner ...>.
        for runner in CONCURRENT:
            if runner in run_params["runner"]:
                raise ValueError(
                    f"--runner={runner} runs nodes at the same time, and nodes that train share "
                    f"one random generator, so results would differ from run to run: use "
                    f"--runner=SequentialRunner, which is the default"
                )

    @hook_impl(tryfirst=True, specname="before_pipeline_run")  # before folders are locked
    def check_definitions(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Check devices, networks and methods before the raw files are read.

        Raises:
            ValueError, TypeError: A class, an argument, a layer, a device or an executor does not
                exist; the message names it.
        """
        read = {name for node in pipeline.nodes for name in parameters_read(node.func)}
        if not isinstance(catalog, ArtifactCatalog) or "members" not in read:
            return
        from mst_distill.mst.given_teachers import check_given_definitions
        from mst_distill.mst.networks import check_definitions
        from mst_distill.training.device import prepare, resolve_device
        from mst_distill.training.optimisation import check_recipe
        from mst_distill.training.views import check_transforms

        # Before anything is computed, because threads inherit how they treat tiny numbers.
        prepare(resolve_device(catalog.plan.runtime.device), catalog.plan.runtime)
        check_recipe(catalog.plan.training)
        check_transforms(catalog.plan.training)
        check_definitions(catalog.plan.members, catalog.plan.masks)
        check_given_definitions(catalog.plan.given)
        if "compare" in read:
            from mst_distill.compare.executors.choose import check_available
            from mst_distill.compare.teaching import resolve_methods

            check_available(catalog.plan.runtime)
            resolve_methods(catalog.plan.compare)

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Validate all parameters before any raw file is read.

        Raises:
            ValueError: As `read_plan`.
        """
        if isinstance(catalog, ArtifactCatalog):
            _ = catalog.plan

    @hook_impl
    def before_node_run(
        self, node: Node, catalog: DataCatalog, inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """Replace all parameters with a plan of those that the node declares.

        Raises:
            ValueError: The node trains a student that costs more than ``budget`` allows.
        """
        if PARAMETERS not in inputs or not isinstance(catalog, ArtifactCatalog):
            return {}
        trains = node.func.__name__ in TRAINS
        if trains and catalog.plan.budget.is_set:
            from mst_distill.pipelines.student_costs import check_budgets

            check_budgets(inputs["samples"], catalog.plan, TRAINS[node.func.__name__])
        return {PARAMETERS: catalog.plan_of(node)}
