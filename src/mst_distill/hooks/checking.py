"""What no single block of parameters can see is wrong, found before anything runs."""

from __future__ import annotations

from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines

from mst_distill.errors import unknown
from mst_distill.parameters import Members, Route

CONCURRENT = ("ThreadRunner", "ParallelRunner")
"""Kedro's runners that run several nodes at a time."""


class ParameterHooks:
    """Refuses what no single block of parameters can see is wrong, and runners of several nodes."""

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Refuse runners that run nodes at the same time, before a folder is made.

        Threads draw dropout and the like from one generator, so that every run would have other
        results; processes do not see the hooks that lock a run's folder and end it on a signal.

        Raises:
            ValueError: The run has such a runner; the message names the one to use.
        """
        # Kedro tells a runner by its representation, <kedro.runner.thread_runner.ThreadRunner ...>.
        for runner in CONCURRENT:
            if runner in run_params["runner"]:
                raise ValueError(
                    f"--runner={runner} runs nodes at the same time, and nodes that train share "
                    f"one random generator, so that results would differ from run to run: use "
                    f"--runner=SequentialRunner, which is the default"
                )

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
