"""What is timed: the project's own nets and settings on data of each benchmark's shape."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from mst_distill.data.samples import SPLITS, Samples
from mst_distill.data.store import open_store, write_store
from mst_distill.parameters import Benchmark, Masks, Members, Route, Runtime, Teachers
from mst_distill.pipelines.ingest.nodes import assign_splits, build_samples
from mst_distill.training.run import Run

CONF = Path(__file__).parents[1] / "conf"


@dataclass(frozen=True)
class Case:
    """One run to be timed.

    Attributes:
        run: Data, target, seed, device.
        members: Nets and masked layers.
        plain_members: The same nets as they would be written down first.
        teachers: Stage 1.
        masks: Stage 2.
        route: Stage 3.
    """

    run: Run
    members: Members
    plain_members: Members
    teachers: Teachers
    masks: Masks
    route: Route


def digits(target: str, runtime: Runtime) -> Case:
    """The embedded benchmark as it is."""
    conf = _parameters("base")
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark.model_validate(conf["benchmark"])
        write_store(build_samples(benchmark, "heldout", "all", 0), Path(folder) / "samples")
        samples = open_store(Path(folder) / "samples")
        arrays = {name: np.array(array) for name, array in samples.modalities.items()}
    samples = Samples(
        samples.index, arrays, samples.labels, samples.classes, samples.ignored_label, ""
    )
    run = Run(samples, assign_splits(samples, "heldout", 0), target, 0, runtime)
    return _case(run, conf, 64)


def avmnist(target: str, runtime: Runtime) -> Case:
    """AV-MNIST's nets and shapes, random numbers."""
    shapes = {"image": (1, 28, 28), "audio": (1, 112, 112)}
    run = _random_run(shapes, target, runtime, sizes=(384, 128, 2), classes=10)
    conf = _parameters("avmnist")
    plain = copy.deepcopy(conf["members"])
    plain["multimodal"]["type"] = "bench.nets.FusionCNN"
    plain["modalities"]["audio"]["type"] = "bench.nets.ThreeLayerCNN"
    return _case(run, conf, 64, plain)


def nyudepthv2(target: str, runtime: Runtime) -> Case:
    """NYU-Depth-V2's nets, classes and batch at a seventh of the width and height.

    Without dropout, whose draws depend on how a map lies in memory.
    """
    shapes = {"image": (3, 64, 96), "depth": (1, 64, 96)}
    run = _random_run(shapes, target, runtime, sizes=(12, 6, 2), classes=41, dense=(64, 96))
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
    conf = {**_parameters("avmnist"), "members": members}
    return _case(run, conf, 6)


CASES: dict[str, Callable[[Runtime], Case]] = {
    "digits-image": partial(digits, "image"),
    "digits-audio": partial(digits, "audio"),
    "avmnist-image": partial(avmnist, "image"),
    "avmnist-audio": partial(avmnist, "audio"),
    "nyudepthv2-image": partial(nyudepthv2, "image"),
}


def _parameters(environment: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / environment / "parameters.yml").read_text())


def _case(
    run: Run,
    conf: dict[str, Any],
    batch_size: int,
    plain_members: dict[str, Any] | None = None,
) -> Case:
    def settings(block: str) -> dict[str, Any]:
        return {**conf[block], "batch_size": batch_size}

    return Case(
        run,
        Members.model_validate(conf["members"]),
        Members.model_validate(plain_members or conf["members"]),
        Teachers.model_validate(settings("teachers")),
        Masks.model_validate(settings("masks")),
        Route.model_validate(settings("route")),
    )


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
