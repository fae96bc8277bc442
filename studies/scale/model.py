"""A model of the time, memory and money of a run by its number of pairs, and its check.

From the root of the repository: ``python -m studies.scale.model``. It reads the tables of
`studies.scale.measure`, fits the parameters to the two smallest numbers of pairs, compares its
predictions for the others with the measurements, and prints what larger numbers of pairs would
need.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import pandas as pd

from studies.scale.pairs import BATCH_SIZE, CLASSES, SHAPES, SHARES, TARGET

FOLDER = Path(__file__).parent
STAGES = ("teachers", "masks", "route")
ONCE = {"teachers": "teachers_once_core_s", "masks": "masks_once_core_s", "table": "table_core_s"}
"""What is done once before the epochs, and its column of the measurements."""

READ = {
    "teachers": 1.0,
    "masks": 1.0,
    "route": np.prod(SHAPES[TARGET]) / sum(np.prod(shape) for shape in SHAPES.values()),
}
"""The share of a pair's bytes that a stage reads if they are not in memory."""

GIB = 2**30

UNDISTURBED = 0.1
"""The number of cores busy with other work above which only core seconds are compared."""

LARGE = (10**5, 10**6, 10**7)
"""The numbers of pairs for which nothing was measured."""


@dataclass(frozen=True)
class Line:
    """A quantity that is `fixed` for any number of pairs, and grows by `each` with a pair."""

    fixed: float
    each: float

    def at(self, pairs: float) -> float:
        """The quantity for a number of pairs."""
        return self.fixed + self.each * pairs

    @classmethod
    def through(cls, pairs: Sequence[float], values: Sequence[float]) -> Line:
        """The line through two points; through the origin and their sums if it were below 0."""
        each = (values[1] - values[0]) / (pairs[1] - pairs[0])
        fixed = values[0] - each * pairs[0]
        if fixed < 0 or each < 0:
            return cls(0.0, sum(values) / sum(pairs))
        return cls(fixed, each)


@dataclass(frozen=True)
class Machine:
    """What computes.

    Attributes:
        name: In the tables.
        cores: The number of cores, if it is a CPU whose core seconds were measured; else None.
        operations_per_s: The operations of products and convolutions in a second, where
            core seconds are not known.
        step_s: The shortest time of a step, where core seconds are not known.
        memory: Bytes of memory that are free when a stage begins.
        random_bytes_per_s: Rate at which pairs in random order are read from the disk.
        in_order_bytes_per_s: The same in the order of the store.
        digest_bytes_per_s: Rate at which the store's files are read and digested when it is opened.
        price: Of an hour, in dollars.
        overlaps: Whether reading overlaps with computing, as `Batches` does on a GPU alone.
    """

    name: str
    cores: int | None
    operations_per_s: float
    step_s: float
    memory: float
    random_bytes_per_s: float
    in_order_bytes_per_s: float
    digest_bytes_per_s: float
    price: float
    overlaps: bool


@dataclass(frozen=True)
class Parameters:
    """What was fitted to the measurements; times are core seconds on the CPU.

    Attributes:
        store_bytes: The store.
        write: Writing it.
        opening: Opening it in a new process when the system holds its files in memory.
        epochs: Stage to the core seconds of an epoch with its validation.
        once: What is done once before the first epoch: the copy of the data into memory in stage 1
            (`teachers`), the frozen outputs of stage 2 (`masks`), and the logits of stage 3
            (`table`).
        frozen_bytes: The frozen outputs that stage 2 holds in memory.
        logits_bytes: The logits of stage 3.
        table_bytes: The table in which stage 3 gets them.
        peaks: Stage to the peak memory of its process.
        operations: Stage to the operations of a training step for one pair; they are counted, not
            fitted.
        usable: The share of the cores that a stage uses.
    """

    store_bytes: Line
    write: Line
    opening: Line
    epochs: Mapping[str, Line]
    once: Mapping[str, Line]
    frozen_bytes: Line
    logits_bytes: Line
    table_bytes: Line
    peaks: Mapping[str, Line]
    operations: Mapping[str, float]
    usable: float

    @classmethod
    def fit(cls, measured: pd.DataFrame) -> Parameters:
        """Fit the parameters to the first two rows of the measurements."""
        two = measured.iloc[:2]
        pairs = [float(number) for number in two.index]

        def line(column: str) -> Line:
            return Line.through(pairs, two[column].astype(float).tolist())

        def per_pair(column: str) -> Line:
            return Line(0.0, float(two[column].sum()) / sum(pairs))

        busy = sum(float(two[f"{stage}_epoch_core_s"].sum()) for stage in STAGES)
        wall = sum(float(two[f"{stage}_epoch_s"].sum()) for stage in STAGES)
        return cls(
            store_bytes=line("store_bytes"),
            write=line("write_core_s"),
            opening=line("open_warm_core_s"),
            epochs={stage: per_pair(f"{stage}_epoch_core_s") for stage in STAGES},
            once={name: per_pair(column) for name, column in ONCE.items()},
            frozen_bytes=line("masks_frozen_bytes"),
            logits_bytes=line("logits_bytes"),
            table_bytes=line("table_bytes"),
            peaks={stage: line(f"{stage}_peak_bytes") for stage in STAGES},
            operations={stage: float(two[f"{stage}_operations"].iloc[0]) for stage in STAGES},
            usable=busy / wall / 2,
        )

    def predictions(self, pairs: int) -> dict[str, float]:
        """What the model says of the columns of the measurements."""
        return {
            "store_bytes": self.store_bytes.at(pairs),
            "write_core_s": self.write.at(pairs),
            "open_warm_core_s": self.opening.at(pairs),
            **{f"{name}_epoch_core_s": line.at(pairs) for name, line in self.epochs.items()},
            **{
                f"{name}_epoch_s": line.at(pairs) / self.usable / 2
                for name, line in self.epochs.items()
            },
            **{ONCE[name]: line.at(pairs) for name, line in self.once.items()},
            "masks_frozen_bytes": self.frozen_bytes.at(pairs),
            "logits_bytes": self.logits_bytes.at(pairs),
            "table_bytes": self.table_bytes.at(pairs),
            **{f"{name}_peak_bytes": line.at(pairs) for name, line in self.peaks.items()},
        }


@dataclass(frozen=True)
class Trial:
    """One trial: all three stages, without the baseline and the evaluation.

    Attributes:
        pairs: The number of pairs.
        epochs: Stage to its number of epochs.
        parameters: What was fitted.
        machine: What computes.
    """

    pairs: int
    epochs: Mapping[str, int]
    parameters: Parameters
    machine: Machine

    @property
    def size(self) -> float:
        """The bytes of the store."""
        return self.parameters.store_bytes.at(self.pairs)

    @property
    def seen(self) -> float:
        """The share of the pairs that an epoch passes: those for training and for validation."""
        return SHARES["train"] + SHARES["valid"]

    @property
    def shards(self) -> int:
        """The number of shards of 1 GiB."""
        return ceil(self.size / GIB)

    def resident(self, stage: str) -> bool:
        """Whether what the training of a stage reads takes at most half of the free memory.

        Stage 1 reads both modalities, stage 2 the frozen outputs and stage 3 the student's
        modality; see `training.memory.fits`.
        """
        if stage == "masks":
            size = self.parameters.frozen_bytes.at(self.pairs) * SHARES["train"] / self.seen
        else:
            size = self.size * SHARES["train"] * READ[stage]
        return size <= self.machine.memory / 2

    @property
    def open_s(self) -> float:
        """Seconds to open the store once in a process, which digests all of its files."""
        return self.size / self.machine.digest_bytes_per_s

    def once_s(self, name: str) -> float:
        """Seconds of a part of `ONCE`: both modalities are read in the order of the store."""
        reading = self.size * self.seen / self.machine.in_order_bytes_per_s
        if name == "teachers":
            return reading if self.resident(name) else 0.0
        return self._together(self._forward_s(name), reading)

    def epoch_s(self, stage: str) -> float:
        """Seconds of an epoch of a stage with its validation."""
        if self.machine.cores is not None:
            used = self.machine.cores * self.parameters.usable
            computing = self.parameters.epochs[stage].at(self.pairs) / used
        else:
            computing = self._steps_s(self.parameters.operations[stage])
        if self.resident(stage):
            return computing
        if stage == "masks":  # the frozen outputs are computed at every step
            computing += self._forward_s(stage)
        reading = self.size * self.seen * READ[stage] / self.machine.random_bytes_per_s
        return self._together(computing, reading)

    @property
    def hours(self) -> float:
        """Hours of a trial whose stages are processes of their own, each of which opens the store.

        If the frozen outputs of stage 2 do not fit, they are not computed once before it.
        """
        once = sum(self.once_s(name) for name in ONCE if name != "masks" or self.resident(name))
        epochs = sum(number * self.epoch_s(stage) for stage, number in self.epochs.items())
        return (once + epochs + len(STAGES) * self.open_s) / 3600

    def row(self) -> dict[str, object]:
        """A row of the table for larger numbers of pairs."""
        fitted = self.parameters
        return {
            "machine": self.machine.name,
            "pairs": self.pairs,
            "store_GB": self.size / 1e9,
            "shards": self.shards,
            "in_memory": " ".join(stage for stage in STAGES if self.resident(stage)),
            "open_min": self.open_s / 60,
            "once_h": sum(map(self.once_s, ONCE)) / 3600,
            **{f"{stage}_h": self.epoch_s(stage) / 3600 for stage in STAGES},
            "frozen_GB": fitted.frozen_bytes.at(self.pairs) / 1e9,
            "logits_GB": fitted.logits_bytes.at(self.pairs) / 1e9,
            "table_GB": fitted.table_bytes.at(self.pairs) / 1e9,
            "trial_h": self.hours,
            "dollars": self.hours * self.machine.price,
        }

    def _forward_s(self, name: str) -> float:
        """Seconds in which the frozen nets compute once for all pairs that are seen."""
        if self.machine.cores is not None:
            used = self.machine.cores * self.parameters.usable
            return self.parameters.once[name].at(self.pairs) / used
        # A forward pass has about a third of the operations of a step of stage 1.
        return self._steps_s(self.parameters.operations["teachers"] / 3)

    def _steps_s(self, operations: float) -> float:
        """Seconds of all steps of a pass on a machine of which nothing was measured."""
        steps = ceil(self.pairs * self.seen / BATCH_SIZE)
        step_s = BATCH_SIZE * operations / self.machine.operations_per_s
        return steps * max(step_s, self.machine.step_s)

    def _together(self, computing: float, reading: float) -> float:
        return max(computing, reading) if self.machine.overlaps else computing + reading


def largest_resident(parameters: Parameters, machine: Machine) -> int:
    """The number of pairs from which on the training split does not fit into memory."""
    return int(machine.memory / 2 / (parameters.store_bytes.each * SHARES["train"]))


def compare(parameters: Parameters, measured: pd.DataFrame) -> pd.DataFrame:
    """Predictions and measurements of the rows that were not fitted, with the relative error."""
    rows = [
        {"pairs": pairs, "quantity": name, "predicted": value, "measured": row[name]}
        for pairs, row in measured.iloc[2:].iterrows()
        for name, value in parameters.predictions(int(str(pairs))).items()
        if name in row and not np.isnan(row[name]) and _counts(row, name)
    ]
    table = pd.DataFrame(rows)
    return table.assign(error=table["predicted"] / table["measured"] - 1)


def _counts(row: pd.Series[float], name: str) -> bool:
    """Whether no other work has lengthened a quantity of a row."""
    if not name.endswith("_s") or name.endswith("_core_s"):
        return True
    return row[f"{name.removesuffix('_s')}_others"] <= UNDISTURBED


def spread_of_windows(shards: int, window: int, classes: int = CLASSES) -> float:
    """The standard deviation of a class's share of a batch, by calculation.

    Every shard has samples of one class alone, all classes have as many, and a window of shards is
    drawn without replacement, mixed, and dealt into batches.

    Args:
        shards: The number of shards.
        window: The number of shards in a window.
        classes: The number of classes.
    """
    share = 1 / classes
    one = share * (1 - share)
    of_window = one / window * (shards - window) / (shards - 1)
    return sqrt(of_window + (one - of_window) / BATCH_SIZE)


def simulate_windows(
    shards: int, window: int, rng: np.random.Generator, classes: int = CLASSES, batches: int = 4000
) -> float:
    """The same by simulation: the root of the mean square distance from the share of all pairs."""
    labels = np.arange(shards) * classes // shards
    squares = []
    for _ in range(batches // 8):
        chosen = labels[rng.choice(shards, window, replace=False)]
        # A shard has so many more pairs than a batch that a pair is drawn as if with replacement.
        drawn = chosen[rng.integers(0, window, (8, BATCH_SIZE))]
        shares = (drawn[:, :, None] == np.arange(classes)).mean(axis=1)
        squares.append(((shares - 1 / classes) ** 2).mean())
    return sqrt(float(np.mean(squares)))


def main() -> None:
    """Fit, compare, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu-price", type=float, default=0.10, help="dollars an hour, 2 cores")
    parser.add_argument("--gpu-price", type=float, default=3.0, help="dollars an hour, one H100")
    parser.add_argument("--gpu-operations", type=float, default=20e12, help="reached in a second")
    parser.add_argument("--gpu-step", type=float, default=0.005, help="least seconds of a step")
    parser.add_argument("--gpu-disk", type=float, default=2e9, help="bytes a second")
    parser.add_argument("--epochs", type=int, nargs=3, default=[10, 5, 10], help="of the stages")
    wanted = parser.parse_args()
    measured = pd.read_csv(FOLDER / "measured.csv", index_col="pairs")
    parameters = Parameters.fit(measured)
    print(f"fitted to {measured.index[0]} and {measured.index[1]} pairs:\n{parameters}\n")
    compared = compare(parameters, measured)
    compared.to_csv(FOLDER / "predicted.csv", index=False, float_format="%.4g")
    _show(compared)
    for machine in machines(measured, wanted):
        print(f"{machine}\nresident up to {largest_resident(parameters, machine):,} pairs")
    epochs = dict(zip(STAGES, wanted.epochs, strict=True))
    trials = [
        Trial(pairs, epochs, parameters, machine).row()
        for machine in machines(measured, wanted)
        for pairs in LARGE
    ]
    _show(pd.DataFrame(trials))
    shards = Trial(10**7, epochs, parameters, machines(measured, wanted)[0]).shards
    _show(windows(shards, 10**7 / shards, (1, 2, 4, 8, 16, 32, 64, 128, shards)))


def machines(measured: pd.DataFrame, wanted: argparse.Namespace) -> list[Machine]:
    """The CPU with the fastest and the slowest disk measured, and a GPU that was not measured."""
    cold = measured.dropna(subset=["open_cold_s", "read_random_cold_s"])
    training = cold["store_bytes"] * SHARES["train"]
    random = training / cold["read_random_cold_s"]
    in_order = training / cold["read_in_order_cold_s"]
    digest = cold["store_bytes"] / cold["open_cold_s"]
    cpu = Machine(
        name="2 cores",
        cores=2,
        operations_per_s=0.0,
        step_s=0.0,
        memory=20e9,
        random_bytes_per_s=float(random.max()),
        in_order_bytes_per_s=float(in_order.max()),
        digest_bytes_per_s=float(digest.max()),
        price=wanted.cpu_price,
        overlaps=False,
    )
    slow = replace(
        cpu,
        name="slow disk",
        random_bytes_per_s=float(min(random.min(), in_order.min())),
        in_order_bytes_per_s=float(in_order.min()),
        digest_bytes_per_s=float(digest.min()),
    )
    gpu = replace(
        cpu,
        name="H100, assumed",
        cores=None,
        operations_per_s=wanted.gpu_operations,
        step_s=wanted.gpu_step,
        memory=76e9,
        random_bytes_per_s=wanted.gpu_disk,
        in_order_bytes_per_s=wanted.gpu_disk,
        digest_bytes_per_s=min(wanted.gpu_disk, cpu.digest_bytes_per_s),
        price=wanted.gpu_price,
        overlaps=True,
    )
    return [cpu, slow, gpu]


def windows(shards: int, pairs_of_shard: float, sizes: Iterable[int]) -> pd.DataFrame:
    """How far shuffling in windows of shards is from shuffling all pairs."""
    rng = np.random.default_rng(0)
    one = (1 - 1 / CLASSES) / CLASSES
    return pd.DataFrame(
        {
            "shards in a window": size,
            "sorted, calculated": spread_of_windows(shards, size),
            "sorted, simulated": simulate_windows(shards, size, rng),
            "mixed when written": sqrt(one / (size * pairs_of_shard) + one / BATCH_SIZE),
        }
        for size in sizes
    )


def _show(table: pd.DataFrame) -> None:
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"), "\n")


if __name__ == "__main__":
    main()
