"""How a trial is run: a teacher learns from labels alone, or a method teaches a student."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from mst_distill.compare.context import CROSSMODAL, Recipe, Setup, Taught
from mst_distill.compare.method import Method
from mst_distill.compare.methods.alone import Alone
from mst_distill.compare.teacher_cache import TeacherPool
from mst_distill.import_path import resolve
from mst_distill.mst.baseline import Supervised
from mst_distill.mst.networks import build_members
from mst_distill.parameters import MULTIMODAL, Compare
from mst_distill.training.loop import Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed
from mst_distill.training.selection import SELECTION


def resolve_methods(compare: Compare) -> dict[str, type[Method]]:
    """The methods' classes by their names in the parameters.

    Raises:
        ValueError, TypeError: One does not exist, or is no method.
    """
    base: type[Method] = Method
    return {name: resolve(method.type, base) for name, method in compare.methods.items()}


def baseline_of(compare: Compare) -> str | None:
    """The name of the method that is the student alone, if it is among them."""
    return next((n for n, method in resolve_methods(compare).items() if method is Alone), None)


def teachers_for(method: type[Method], recipe: Recipe, target: str) -> Iterator[str]:
    """The teachers that a method has a trial with; the empty name if it is given none."""
    if not method.teachers:
        yield ""
    for name in recipe.members.teachers_of(target):
        if (MULTIMODAL if name == MULTIMODAL else CROSSMODAL) in method.teachers:
            yield name


def train_teacher(run: Run, recipe: Recipe, name: str) -> Taught:
    """Train a teacher by cross-entropy for the epochs of stage 1.

    It is the same net whatever modality the student has: start weights and order depend on the seed
    and its name.

    Returns:
        The net of the smallest validation cross-entropy, under ``ce``.
    """
    net = run.place(build_members(run, recipe.members, recipe.masks)[name])
    task = Supervised(net, name, run.samples.ignored_label)
    stage = f"teacher {name}"
    sees = run.modalities if name == MULTIMODAL else (name,)
    batches = run.train_and_valid(stage, recipe.teachers, sees)
    run.seed_noise(stage)
    rules = {"ce": SELECTION["ce"]}
    ready = Stage(stage, task, *batches, recipe.teachers, rules)
    done = fit(ready, run.runtime, run.checkpoint(stage))
    kept = done.kept["ce"]
    net.load_state_dict(kept.state)
    return Taught({"ce": net.eval()}, {"ce": kept.row}, done.history, 0, 0)


def teach(
    run: Run,
    recipe: Recipe,
    pool: TeacherPool,
    method: type[Method],
    teacher: str,
    arguments: Mapping[str, object],
) -> Taught:
    """Let a method teach the target's net.

    Args:
        run: The run.
        recipe: The parameters.
        pool: The trained teachers.
        method: The method.
        teacher: From whom, or empty.
        arguments: What the parameters say beside the method's name.
    """
    # Before the weights that a method makes for itself, which must not hang on what ran before.
    torch.manual_seed(derive_seed(run.seed, "compare", method.__qualname__, teacher))
    call: Callable[..., Taught] = method.teach
    return call(Setup(run, recipe, pool, teacher, method.hears), **arguments)
