"""The training in a trial: of a teacher on labels only, or of a student by a method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter, signature

import torch

from mst_distill.compare.context import CROSSMODAL, GIVEN, MethodResult, TrialContext
from mst_distill.compare.method import Method
from mst_distill.compare.methods.baseline import Baseline
from mst_distill.compare.teacher_cache import TeacherPool
from mst_distill.errors import did_you_mean
from mst_distill.import_path import resolve
from mst_distill.mst.baseline import Supervised
from mst_distill.mst.networks import build_members
from mst_distill.mst.supervision import supervision_of
from mst_distill.parameters import MULTIMODAL, Compare
from mst_distill.plan import Plan
from mst_distill.training.loop import Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.seeding import Stream, derive_seed
from mst_distill.training.selection import criteria


def resolve_methods(compare: Compare) -> dict[str, type[Method]]:
    """Import the classes of the methods, by their names in the parameters.

    Raises:
        ValueError, TypeError: A class does not exist, is not a method, has no such argument, or a
            value is not allowed.
    """
    base: type[Method] = Method
    methods = {name: resolve(method.type, base) for name, method in compare.methods.items()}
    for name, kind in methods.items():
        known = _arguments_of(kind)
        for argument in (key for choice in compare.methods[name].choices for key in choice):
            if known is not None and argument not in known:
                raise ValueError(
                    did_you_mean(f"argument of compare.methods.{name}", argument, known)
                )
        for choice in compare.methods[name].choices:
            try:
                kind.check_arguments(choice)
            except ValueError as error:
                raise ValueError(f"compare.methods.{name}: {error}") from None
    return methods


def _arguments_of(method: type[Method]) -> list[str] | None:
    """The names of the arguments of a method's ``teach``, and of its class if it passes others on.

    None if the class accepts any.
    """
    found = [*signature(method.teach).parameters.values()]
    if any(each.kind is Parameter.VAR_KEYWORD for each in found):
        of_class = signature(method).parameters.values()
        if any(each.kind is Parameter.VAR_KEYWORD for each in of_class):
            return None
        found += of_class
    variable = (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
    return [each.name for each in found if each.name != "context" and each.kind not in variable]


def baseline_of(compare: Compare) -> str | None:
    """Find the name of the method whose class is `Baseline`; None if there is no such method."""
    return next((n for n, method in resolve_methods(compare).items() if method is Baseline), None)


def controls_of(compare: Compare) -> list[str]:
    """List the names of the methods without another modality, see `Method.control`."""
    return [name for name, method in resolve_methods(compare).items() if method.control]


def teachers_for(method: type[Method], plan: Plan, target: str) -> Iterator[str]:
    """Yield the teachers with each of which a method has a trial; the empty name for no teacher."""
    if not method.teachers:
        yield ""
    for name in plan.members.teachers_of(target):
        if (MULTIMODAL if name == MULTIMODAL else CROSSMODAL) in method.teachers:
            yield name
    if GIVEN in method.teachers and method.teacher_inputs == "logits":
        yield from plan.given


def train_teacher(run: Run, plan: Plan, name: str) -> MethodResult:
    """Train a teacher by cross-entropy for the epochs of stage 1.

    The result does not depend on the student's modality: start weights and batch order depend on
    the seed and the teacher's name only.

    Returns:
        The net of the epoch that the run's criterion selects, under the name of the criterion.
    """
    net = run.place(build_members(run, plan)[name])
    modalities = run.modalities if name == MULTIMODAL else (name,)
    task = Supervised(net, name, supervision_of(run, modalities))
    stream = f"{Stream.TEACHER} {name}"
    batches = run.train_and_valid(stream, plan.teachers, modalities, labelled_share=1)
    run.seed_noise(stream)
    selection = plan.selection
    selections = {selection: criteria(run.metric.name)[selection]}
    stage = Stage(stream, task, *batches, plan.teachers, selections)
    done = fit(stage, run.runtime, run.checkpoint(stream), run.recipe)
    best = done.best[selection]
    net.load_state_dict(best.state)
    return MethodResult({selection: net.eval()}, {selection: best.row}, done.history, 0, 0)


def teach(
    run: Run,
    plan: Plan,
    pool: TeacherPool,
    method: type[Method],
    teacher: str,
    arguments: Mapping[str, object],
) -> MethodResult:
    """Train the target's net with a method.

    Args:
        run: Data, target, seed and device.
        plan: All parameters.
        pool: The trained teachers.
        method: The class of the method.
        teacher: Name of the teacher, or empty for no teacher.
        arguments: Keyword arguments of the method's ``teach``, from the parameters.
    """
    # Seeds the weights of a method's own modules, which must not depend on what ran before.
    torch.manual_seed(derive_seed(run.seed, Stream.COMPARE, method.stream(), teacher))
    call: Callable[..., MethodResult] = method.teach
    return call(TrialContext(run, plan, pool, teacher, method.teacher_inputs), **arguments)
