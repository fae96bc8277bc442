"""Synthetic pairs of an image and a spectrogram, and a run of the method on them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from mst_distill.benchmarks.source import SampleSource
from mst_distill.data.samples import Samples
from mst_distill.data.store import open_store, write_store
from mst_distill.from_python import make_plan
from mst_distill.nets.simple import LateFusionNet, MapBranch, MapNet
from mst_distill.plan import Plan
from mst_distill.training.run import Run

SHAPES = {"image": (3, 64, 64), "audio": (1, 64, 64)}
"""The shape of a sample of each modality."""

CLASSES = 10
"""The number of classes."""

BATCH_SIZE = 128
"""The number of pairs in a batch, in all stages."""

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
"""The shares of the splits."""

TARGET = "audio"
"""The modality of the student."""

LEVELS = 256
"""The number of different values, as in an image of 8 bits."""


class CoarseMapNet(MapNet):
    """The default net of a map, at half of the resolution."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        _halve(self.branch)


class CoarseFusionNet(LateFusionNet):
    """The default multimodal teacher of two maps, at half of the resolution."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, dict.fromkeys(SHAPES, "map"))
        for branch in self.branches.values():
            _halve(branch)


def _halve(branch: nn.Module) -> None:
    """Let a branch average squares of four positions first."""
    assert isinstance(branch, MapBranch)
    branch.convolutions.insert(0, nn.AvgPool2d(2))


def make_index(pairs: int) -> pd.DataFrame:
    """Make the index of some pairs, in which each pair is a group of its own."""
    rows = np.arange(pairs)
    ids = pd.Series(rows).map("{:08d}".format)
    order = np.random.default_rng(0).permutation(pairs)
    ends = np.round(np.cumsum(list(SHARES.values())) * pairs).astype(int)
    split = np.array(list(SHARES), dtype=object)[np.searchsorted(ends, order, side="right")]
    return pd.DataFrame(
        {"id": ids, "group": ids, "split": split, "label": rows % CLASSES, "row": rows}
    )


class Pairs(SampleSource):
    """Noise of 8 bits above a level that depends on the class, made when it is read.

    Args:
        pairs: The number of pairs.

    Attributes:
        seconds: The seconds that `read` has taken so far, which are not those of the store.
        core_seconds: The same in core seconds.
    """

    def __init__(self, pairs: int) -> None:
        self.classes = tuple(f"class {number}" for number in range(CLASSES))
        self.files = ()
        self.modalities = tuple(SHAPES)
        self.index = make_index(pairs)
        self.opened_with = {"pairs": pairs}
        self.seconds = self.core_seconds = 0.0

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Make the pairs of some rows."""
        began, core_began = time.perf_counter(), time.process_time()
        rng = np.random.default_rng(int(part["row"].iloc[0]))
        level = (part["label"].to_numpy() * 8).astype(np.uint8).reshape(-1, 1, 1, 1)
        made = {}
        for name, shape in SHAPES.items():
            noise = rng.integers(0, LEVELS // 2, (len(part), *shape), dtype=np.uint8)
            made[name] = (noise + level).astype(np.float32) / (LEVELS - 1)
        self.seconds += time.perf_counter() - began
        self.core_seconds += time.process_time() - core_began
        return made


def write_pairs(pairs: int, folder: Path) -> tuple[float, float]:
    """Write the store of some pairs, and return the seconds and core seconds of making them."""
    source = Pairs(pairs)
    write_store(source, folder)
    return source.seconds, source.core_seconds


def open_run(folder: Path, frozen: str = "auto") -> tuple[Run, Plan]:
    """Open a store, and make a run of one epoch in each stage with small nets.

    Args:
        folder: The store.
        frozen: ``runtime.frozen``.
    """
    samples = open_store(folder)
    stage = {"epochs": 1, "batch_size": BATCH_SIZE, "learning_rate": 0.001}
    net = {"type": CoarseMapNet, "masked_layers": ["hidden"]}
    multimodal = {
        "type": CoarseFusionNet,
        "masked_layers": ["fusion", "hidden"],
    }
    plan = make_plan(
        samples,
        TARGET,
        dict.fromkeys(SHAPES, net),
        multimodal,
        teachers=stage,
        masks=stage,
        route=stage,
        runtime={"device": "cpu", "frozen": frozen},
    )
    return make_run(samples, plan), plan


def make_run(samples: Samples, plan: Plan) -> Run:
    """Make the run of a plan on the splits of the store."""
    splits = samples.index[["id", "group", "label", "split"]]
    return Run(samples, splits, plan.target, plan.seed, plan.runtime, recipe=plan.training)
