"""The cases that are timed: networks and settings of the project on data of a benchmark's shape."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.benchmarks.opening import open_source
from mst_distill.benchmarks.splits import assign_splits
from mst_distill.config_loader import ConfigLoader
from mst_distill.data.samples import SPLITS, Samples
from mst_distill.data.store import open_store, write_store
from mst_distill.parameters import Members, Runtime, TrainingRecipe
from mst_distill.plan import Plan, read_plan
from mst_distill.training.loop import PUBLISHED
from mst_distill.training.run import Run

CONF = Path(__file__).parents[1] / "conf"


@dataclass(frozen=True)
class Case:
    """One run to be timed.

    Attributes:
        run: Data, target, seed and device.
        plan: The parameters for the schedule of the project.
        plain_plan: The parameters for the plain schedule; its networks are not optimised for speed.
    """

    run: Run
    plan: Plan
    plain_plan: Plan


VIEWS = TrainingRecipe.model_validate(
    {
        "views": 4,
        "transforms": {
            "image": [
                {"type": "torchvision.transforms.v2.RandomAffine", "arguments": {"degrees": 12}}
            ],
            "audio": [
                {"type": "torchaudio.transforms.TimeMasking", "arguments": {"time_mask_param": 8}}
            ],
        },
    }
)
"""Views of the digits; the plain schedule has the samples alone."""


def digits(target: str, runtime: Runtime, recipe: TrainingRecipe = PUBLISHED) -> Case:
    """The embedded benchmark, with its own data."""
    plan = _plan("base", target, runtime)
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(plan.benchmark, plan.protocol, plan.limit, plan.seed)
        write_store(source, Path(folder) / "samples")
        samples = open_store(Path(folder) / "samples")
        arrays = {name: np.array(array) for name, array in samples.modalities.items()}
    samples = Samples(
        samples.index, arrays, samples.labels, samples.classes, samples.ignored_label, ""
    )
    splits = assign_splits(samples.index, plan.protocol, plan.seed)
    return Case(Run(samples, splits, target, plan.seed, runtime, recipe=recipe), plan, plan)


def avmnist(
    target: str,
    runtime: Runtime,
    sizes: tuple[int, int, int] = (384, 128, 2),
    batch_size: int = 64,
) -> Case:
    """The networks and shapes of AV-MNIST, with random data."""
    shapes = {"image": (1, 28, 28), "audio": (1, 112, 112)}
    run = _random_run(shapes, target, runtime, sizes, classes=10)
    plan = _plan("avmnist", target, runtime, batch_size=batch_size)
    members = plan.members.model_dump()
    members["multimodal"]["type"] = "bench.nets.FusionCNN"
    members["modalities"]["audio"]["type"] = "bench.nets.ThreeLayerCNN"
    plain = plan.model_copy(update={"members": Members.model_validate(members)})
    return Case(run, plan, plain)


def nyudepthv2(
    target: str,
    runtime: Runtime,
    sizes: tuple[int, int, int] = (12, 6, 2),
    pixels: tuple[int, int] = (64, 96),
) -> Case:
    """The networks, classes and batch size of NYU-Depth-V2 on random maps.

    There is no dropout, since its draws depend on the memory layout of a map.
    """
    shapes = {"image": (3, *pixels), "depth": (1, *pixels)}
    run = _random_run(shapes, target, runtime, sizes, classes=41, dense=pixels)
    nets = "mst_distill.nets.nyudepthv2"
    net = {
        "type": f"{nets}.FuseNet",
        "masked_layers": ["encoder.stages.4", "decoder.stages.0"],
    }
    members = {
        "multimodal": {
            "type": f"{nets}.FusionFuseNet",
            "arguments": {"dropout": 0.0},
            "masked_layers": ["image.dropouts.4", "decoder.stages.0"],
        },
        "modalities": {
            "image": {**net, "arguments": {"channels": 3, "dropout": 0.0}},
            "depth": {**net, "arguments": {"channels": 1, "dropout": 0.0}},
        },
    }
    plan = _plan("avmnist", target, runtime, members, batch_size=6)
    return Case(run, plan, plan)


CASES: dict[str, Callable[[Runtime], Case]] = {
    "digits-image": partial(digits, "image"),
    "digits-audio": partial(digits, "audio"),
    "digits-image-views": partial(digits, "image", recipe=VIEWS),
    "avmnist-image": partial(avmnist, "image"),
    "avmnist-audio": partial(avmnist, "audio"),
    "nyudepthv2-image": partial(nyudepthv2, "image"),
}
"""The cases for any machine."""

WHOLE: dict[str, Callable[[Runtime], Case]] = {
    "avmnist-whole": partial(avmnist, "image", sizes=(48_000, 12_000, 10_000), batch_size=512),
    "nyudepthv2-whole": partial(nyudepthv2, "image", sizes=(636, 159, 654), pixels=(256, 320)),
}
"""The cases for a GPU, with the numbers of samples and the batch sizes of the benchmarks."""

ALL = {**CASES, **WHOLE}


def _plan(
    environment: str,
    target: str,
    runtime: Runtime,
    members: dict[str, Any] | None = None,
    batch_size: int = 64,
) -> Plan:
    """The parameters of an environment, with a few of them replaced."""
    loader = ConfigLoader(str(CONF), environment, base_env="base", default_run_env="base")
    blocks: dict[str, Any] = loader["parameters"]
    blocks |= {"target": target, "protocol": "heldout", "limit": "all", "seed": 0, "run": "bench"}
    blocks |= {"runtime": runtime.model_dump()}
    if members:
        blocks["members"] = members
    for stage in ("teachers", "masks", "route"):
        blocks[stage] = {**blocks[stage], "batch_size": batch_size}
    return read_plan(blocks)


def _random_run(
    shapes: Mapping[str, tuple[int, ...]],
    target: str,
    runtime: Runtime,
    sizes: tuple[int, int, int],
    classes: int,
    dense: tuple[int, int] | None = None,
) -> Run:
    rng = np.random.default_rng(0)
    count = sum(sizes)
    arrays = {name: rng.random((count, *shape), dtype=np.float32) for name, shape in shapes.items()}
    labels = rng.integers(0, classes, (count, *(dense or ())))
    ids = [f"{row:04d}" for row in range(count)]
    index = pd.DataFrame({"id": ids, "group": ids, "split": np.repeat(SPLITS, sizes)})
    index["label"] = -1 if dense else labels
    names = tuple(str(label) for label in range(classes))
    samples = Samples(index, arrays, labels, names, 0 if dense else None, "")
    return Run(samples, index, target, 0, runtime)
