"""Commands of the project, which Kedro adds to its own: ``layers``, ``init-data``, ``sweep``."""

from __future__ import annotations

import logging
from contextlib import chdir
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run
from kedro.framework.startup import ProjectMetadata

from mst_distill.sweep import Point, read_sweep

__all__ = ["cli", "run"]
"""Kedro looks for `cli`, and for `run`, which stays its own, when the package is run."""


log = logging.getLogger(__name__)


@click.group()
def cli() -> None:
    """Commands of mst-distill."""


@cli.command()
@click.option("--env", "-e", help="The environment, a folder of conf.")
@click.option("--member", help="Only this one: multimodal or a modality.")
@click.pass_obj
def layers(metadata: ProjectMetadata, /, env: str | None, member: str | None) -> None:
    """List the layers of the networks, their shapes, and the cost of a mask."""
    from kedro.framework.session import KedroSession

    from mst_distill.errors import did_you_mean
    from mst_distill.hooks.terminal import show_errors_as_messages
    from mst_distill.mst.layers import layer_table, layers_of
    from mst_distill.mst.networks import build_members
    from mst_distill.parameters import MULTIMODAL
    from mst_distill.pipelines.check.first_samples import first_samples
    from mst_distill.plan import read_plan
    from mst_distill.training.run import Run

    show_errors_as_messages()
    untracked = {"runtime": {"tracking": False}}
    root = Path(metadata.project_path)
    session: Any
    with chdir(root), KedroSession.create(root, env=env, runtime_params=untracked) as session:
        plan = read_plan(session.load_context().params)
        known = (MULTIMODAL, *plan.members.modalities)
        if member is not None and member not in known:
            raise ValueError(did_you_mean("member", member, known))
        with first_samples(plan) as samples:
            splits = samples.index[["id", "group", "label", "split"]]
            nets = build_members(Run(samples, splits, plan.target, plan.seed, plan.runtime), plan)
            for name in [member] if member else known:
                of = plan.members.all_of(plan.target)[name]
                found = layers_of(name, nets[name], samples, plan.masks)
                click.echo(f"\n{name}: {of.type}\n{layer_table(found, of.masked_layers)}")


@cli.command("init-data")
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--env", "-e", required=True, help="The new environment, a folder of conf.")
@click.option("--label", default="label", show_default=True, help="The column of classes.")
@click.pass_obj
def init_data(metadata: ProjectMetadata, /, table: Path, env: str, label: str) -> None:
    """Write an environment for TABLE, with guessed types of its columns, to be read and corrected.

    An existing environment is not overwritten.
    """
    from mst_distill.benchmarks.table_guess import write_parameters
    from mst_distill.hooks.terminal import show_errors_as_messages

    show_errors_as_messages()
    root = Path(metadata.project_path)
    path = table.absolute()
    inside = path.is_relative_to(root)
    written = path.relative_to(root).as_posix() if inside else str(path)
    for file in write_parameters(path, root / "conf", env, label, written):
        click.echo(f"{file.relative_to(root)} was written; the types are guesses: read it.")
    click.echo(f"Then: kedro run --env={env} --pipeline=check")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_obj
def sweep(metadata: ProjectMetadata, /, file: Path) -> None:
    """Run the comparisons that FILE lists, as far as they are missing or stale, and join them.

    One that fails does not stop the others.
    """
    from mst_distill.hooks.terminal import show_errors_as_messages
    from mst_distill.plan import read_plan

    show_errors_as_messages()
    points = read_sweep(file).points()
    root = Path(metadata.project_path)
    with chdir(root):
        for point in points:  # before the first of them trains for hours
            with _session(root, point) as session:
                read_plan(session.load_context().params)
        results = {}
        for number, point in enumerate(points, 1):
            click.echo(f"Comparison {number} of {len(points)}: {point.title}")
            results[point.title] = _run_pipeline(root, point, "compare")
        for run_name, point in {point.run: point for point in reversed(points)}.items():
            results[f"all comparisons of {run_name}"] = _run_pipeline(root, point, "aggregate")
    for title, result in results.items():
        click.echo(f"{title}: {result}")
    if failed := sum(result != FINISHED for result in results.values()):
        raise click.ClickException(
            f"{failed} of {len(results)} failed; the same command goes on with what is missing"
        )


FINISHED = "finished"


def _run_pipeline(root: Path, point: Point, pipeline: str) -> str:
    """Run a pipeline with the parameters of a point; return `FINISHED` or the error."""
    from mst_distill.artifacts.signals import interruption_of
    from mst_distill.errors import is_expected
    from mst_distill.hooks.terminal import KEDRO, cause_of

    try:
        with _session(root, point) as session:
            session.run(pipeline_names=[pipeline])
    except Exception as error:  # one comparison that fails must not stop the others
        if interruption_of(error):
            raise
        cause = cause_of(error)
        log.error("%s failed: %s", point.title, cause, exc_info=not is_expected(cause, KEDRO))
        return f"failed, {type(cause).__name__}: {cause}"
    return FINISHED


def _session(root: Path, point: Point) -> Any:
    from kedro.framework.session import KedroSession

    return KedroSession.create(root, env=point.env, runtime_params=point.parameters)
