"""Measures what a run costs for several numbers of pairs, and what an index of many rows costs.

From the root of the repository: ``python -m studies.scale.measure --folder FOLDER``. Each part of
the measurement has a process of its own, so that its peak memory is that of no other part. A part
that is measured again replaces its columns of `MEASURED`.
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path

import pandas as pd
import psutil
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mst_distill.benchmarks.splits import assign_splits, check_splits
from mst_distill.data.samples import Samples
from mst_distill.data.store import open_store
from mst_distill.mst.ensemble import assemble_ensemble, tabulate_logits
from mst_distill.mst.networks import build_members
from mst_distill.mst.stage1_teachers import prepare_members
from mst_distill.mst.stage2_masks import build_masks, prepare_masks
from mst_distill.mst.stage3_route import prepare_student
from mst_distill.plan import Plan
from mst_distill.training.batches import Batches
from mst_distill.training.loop import Stage, fit
from mst_distill.training.memory import most_held, share_memory
from mst_distill.training.run import Run
from studies.scale.pairs import CLASSES, make_index, open_run, write_pairs

FOLDER = Path(__file__).parent
MEASURED = FOLDER / "measured.csv"
INDEX = FOLDER / "measured_index.csv"

WARM_UP = 8_000
"""Up to this number of pairs, an epoch is preceded by one that is not timed."""

NO_MEMORY = 10**9
"""So many processes share the memory that nothing fits, and batches are read from the store."""

Row = dict[str, float]


class Clock:
    """Measures what the code inside a context takes.

    Args:
        name: What is measured.

    Attributes:
        row: ``NAME_s``, seconds; ``NAME_core_s``, the seconds of all cores together that this
            process computed; ``NAME_others``, the number of cores that were busy with other work.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.row: Row = {}

    def __enter__(self) -> Clock:
        self._began = time.perf_counter(), time.process_time(), _busy_seconds()
        return self

    def __exit__(self, *_error: object) -> None:
        wall, own, busy = self._began
        wall, own = time.perf_counter() - wall, time.process_time() - own
        self.row[f"{self._name}_s"] = wall
        self.row[f"{self._name}_core_s"] = own
        self.row[f"{self._name}_others"] = max(0.0, (_busy_seconds() - busy - own) / wall)


def _busy_seconds() -> float:
    """The seconds that the cores of the machine have computed since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def measure_store(pairs: int, folder: Path) -> Row:
    """Write a store, apart from the time in which the pairs are made."""
    with Clock("write") as clock:
        making, core_making = write_pairs(pairs, folder)
    clock.row["write_s"] -= making
    clock.row["write_core_s"] -= core_making
    size = float(sum(file.stat().st_size for file in folder.iterdir()))
    return {**clock.row, "store_bytes": size, "store_peak_bytes": float(most_held())}


def measure_open_cold(_pairs: int, folder: Path) -> Row:
    """Open a store in a new process, from the disk."""
    drop_cached(folder)
    with Clock("open_cold") as clock:
        open_store(folder)
    return clock.row


def measure_open_warm(_pairs: int, folder: Path) -> Row:
    """Open a store in a new process, from the system's cache of files."""
    with Clock("open_warm") as clock:
        open_store(folder)
    return clock.row


def measure_reading(_pairs: int, folder: Path) -> Row:
    """Read the batches of an epoch from the store, as a run does whose data do not fit in memory.

    The order of stage 1 is random, that of an evaluation is the order of the store.
    """
    run, plan = open_run(folder)
    share_memory(NO_MEMORY)
    random = run.batches("train", run.modalities, plan.teachers.batch_size, shuffle="teachers")
    in_order = run.batches("train", run.modalities, plan.teachers.batch_size)
    row: Row = {}
    for name, batches in (("random", random), ("in_order", in_order)):
        drop_mapped(run.samples, folder)
        for state in ("cold", "warm"):
            with Clock(f"read_{name}_{state}") as clock:
                for _ in batches:
                    pass
            row |= clock.row
    return row


def measure_teachers(pairs: int, folder: Path) -> Row:
    """Time an epoch of stage 1."""
    run, plan = open_run(folder)
    return _time_stage("teachers", pairs, run, lambda: prepare_members(run, plan)[1])


def measure_masks(pairs: int, folder: Path) -> Row:
    """Time an epoch of stage 2 and, before it, the evaluation of what is frozen."""
    run, plan = open_run(folder)
    nets = build_members(run, plan)
    return _time_stage("masks", pairs, run, lambda: prepare_masks(run, plan, nets)[1])


def measure_route(pairs: int, folder: Path) -> Row:
    """Time an epoch of stage 3 and, before it, the table of the specialists' logits."""
    run, plan = open_run(folder)
    nets = build_members(run, plan)
    masks = build_masks(run, plan, nets)
    for mask in masks.values():
        mask.eval()
    table, row = _tabulate(run, plan, nets, masks)
    ensemble = assemble_ensemble(run, plan, nets, masks)
    student = nets[run.target]
    return row | _time_stage(
        "route", pairs, run, lambda: prepare_student(run, plan, student, ensemble, table)[1]
    )


def measure_index(rows: int) -> Row:
    """Measure the tables of an index, from which a run starts."""
    file = BytesIO()
    make_index(rows).drop(columns="row").to_parquet(file)
    row = {"parquet_bytes": float(file.tell())}
    file.seek(0)
    before = psutil.Process().memory_info().rss
    with Clock("read") as read:
        index = pd.read_parquet(file)
    row["read_bytes"] = float(psutil.Process().memory_info().rss - before)
    row["table_bytes"] = float(index.memory_usage(deep=True).sum())
    with Clock("digest") as digest:  # as `open_store` does
        csv = index.to_csv(index=False).encode()
    row["digest_bytes"] = float(len(csv))
    del csv
    with Clock("random") as random:
        splits = assign_splits(index, "random", 0)
    with Clock("check") as check:
        check_splits(splits, [f"class {number}" for number in range(CLASSES)], None)
    row["peak_bytes"] = float(most_held())
    return {**row, **read.row, **digest.row, **random.row, **check.row}


def measure_heldout(rows: int) -> Row:
    """Measure the check that no group is in two splits."""
    index = make_index(rows)
    with Clock("heldout") as clock:
        assign_splits(index, "heldout", 0)
    return {**clock.row, "heldout_peak_bytes": float(most_held())}


def drop_cached(folder: Path) -> None:
    """Drop the files of a folder from the system's cache, so that they are read from the disk."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def drop_mapped(samples: Samples, folder: Path) -> None:
    """Drop the files of a store from the cache, also those pages that this process has mapped."""
    for array in samples.modalities.values():
        if isinstance(array.base, mmap.mmap):
            array.base.madvise(mmap.MADV_DONTNEED)  # the pages leave this process
    drop_cached(folder)


def _tabulate(
    run: Run, plan: Plan, nets: dict[str, nn.Module], masks: dict[str, nn.Module]
) -> tuple[pd.DataFrame, Row]:
    with Clock("table") as clock:
        ensemble = assemble_ensemble(run, plan, nets, masks)
        table = tabulate_logits(run, ensemble, plan.route.batch_size)
    row = {**clock.row, "table_rows": float(len(table))}
    row["table_bytes"] = float(table.memory_usage(deep=True).sum())
    row["logits_bytes"] = float(len(table) * CLASSES * 4)
    return table, row


def _time_stage(name: str, pairs: int, run: Run, prepare: Callable[[], Stage]) -> Row:
    """Time an epoch with its validation, after what is computed once."""
    with Clock(f"{name}_once") as once:
        stage = prepare()
    if pairs <= WARM_UP:
        fit(stage, run.runtime)
    with Clock(f"{name}_epoch") as epoch:
        fit(stage, run.runtime)
    row = {**once.row, **epoch.row}
    row |= {"train": float(stage.train.count), f"{name}_steps": float(len(stage.train))}
    row[f"{name}_resident"] = float(stage.train.is_on_device)
    row[f"{name}_peak_bytes"] = float(most_held())
    held = psutil.Process().memory_info()
    row[f"{name}_held_bytes"] = float(held.rss - held.shared)
    row[f"{name}_frozen_bytes"] = float(_frozen_bytes(stage.train) + _frozen_bytes(stage.valid))
    batch = next(iter(stage.train))
    with FlopCounterMode(display=False) as counter:
        stage.task.descend(batch)
    row[f"{name}_operations"] = counter.get_total_flops() / len(batch.label)
    return row


def _frozen_bytes(batches: Batches) -> int:
    """The bytes of the results that the batches have in memory."""
    return sum(table.nbytes for tables in batches._cached.values() for table in tables)


PARTS: dict[str, Callable[[int, Path], Row]] = {
    "store": measure_store,
    "open_cold": measure_open_cold,
    "open_warm": measure_open_warm,
    "reading": measure_reading,
    "teachers": measure_teachers,
    "masks": measure_masks,
    "route": measure_route,
}
"""What is measured for a number of pairs."""


def main() -> None:
    """Measure the parts that the command line names, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the stores are written")
    parser.add_argument("--pairs", type=int, nargs="*", default=[2_000, 8_000, 32_000])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--index-rows", type=int, nargs="*", default=[])
    parser.add_argument("--heldout-rows", type=int, default=10**6)
    wanted = parser.parse_args()
    for rows in wanted.index_rows:
        _keep(INDEX, rows, "rows", _apart(measure_index, rows))
        if rows <= wanted.heldout_rows:
            _keep(INDEX, rows, "rows", _apart(measure_heldout, rows))
    for pairs in wanted.pairs:
        for part in wanted.parts:
            row = _apart(PARTS[part], pairs, wanted.folder / f"pairs-{pairs}")
            _keep(MEASURED, pairs, "pairs", row)


def _apart(function: Callable[..., Row], *arguments: object) -> Row:
    """Call a function in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def _keep(path: Path, number: int, name: str, row: Row) -> None:
    """Write the columns of a row of a table; the others stay as they are."""
    table = pd.read_csv(path, index_col=name) if path.exists() else pd.DataFrame()
    new = pd.DataFrame([row], index=pd.Index([number], name=name))
    table = new.combine_first(table).sort_index().sort_index(axis=1)
    table.index.name = name
    table.to_csv(path, float_format="%.6g")
    print(f"{number} {name}:", {key: float(f"{value:.4g}") for key, value in row.items()})


if __name__ == "__main__":
    main()
