"""Out-of-fold logits: what teachers say of samples that they have not learned from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from mst_distill.distillation.collaboration import train_members
from mst_distill.distillation.losses import at_least_float32
from mst_distill.distillation.members import forward, freeze
from mst_distill.distillation.panel import Panel
from mst_distill.parameters import Masks, Members, Teachers
from mst_distill.samples import rows_of
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed

KEYS = ["id", "teacher"]
"""The columns of a table of out-of-fold logits before those of the classes."""


def out_of_fold_logits(
    run: Run, members: Members, teachers: Teachers, masks: Masks, folds: int
) -> pd.DataFrame:
    """Cross-fit the teachers: stage 1 on all but one part of the training split, for every part.

    A part never shares a group (an actor, a speaker, a room) with the others, and the classes are
    spread over them.

    Returns:
        A row a training sample and teacher, samples in the split's order: `KEYS` and a column a
        class, float32 where the nets compute in no more; no rows if `folds` is 1.

    Raises:
        ValueError: Labels are dense, or there are fewer groups than folds.
    """
    samples, names = run.samples, list(members.teachers_of(run.target))
    classes = list(samples.classes)
    if folds == 1:
        return pd.DataFrame(columns=[*KEYS, *classes])
    if samples.dense:
        raise ValueError("route.folds above 1 needs one label a sample; here labels are dense")
    rows = rows_of(run.splits, "train")
    parts = list(_parts(run, rows, folds))
    said = [
        _logits_of_part(run, rows[part], members, teachers, masks, fold)
        for fold, part in enumerate(parts)
    ]
    logits = np.concatenate(said)[np.argsort(np.concatenate(parts))]
    table = pd.DataFrame(logits.reshape(-1, len(classes)), columns=classes)
    table.insert(0, "id", np.repeat(run.splits["id"].to_numpy()[rows], len(names)))
    table.insert(1, "teacher", np.tile(np.array(names, dtype=object), len(rows)))
    return table


def _parts(run: Run, rows: np.ndarray, folds: int) -> Iterator[np.ndarray]:
    """The places of every part's samples in the training split."""
    index = run.samples.index.iloc[rows]
    if (groups := index["group"].nunique()) < folds:
        raise ValueError(f"route.folds is {folds}; the training split has only {groups} groups")
    seed = derive_seed(run.seed, "folds") % 2**32
    deal = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for _, part in deal.split(rows, index["label"], index["group"]):
        yield part


def _logits_of_part(
    run: Run, part: np.ndarray, members: Members, teachers: Teachers, masks: Masks, fold: int
) -> np.ndarray:
    split = run.splits["split"].to_numpy(dtype=object).copy()
    split[part] = "left out"
    kept = run.checkpoints.below(f"fold-{fold}") if run.checkpoints else None
    others = replace(run, splits=run.splits.assign(split=split), checkpoints=kept)
    nets, _ = train_members(others, members, teachers, masks)
    del nets[run.target]
    freeze(nets.values())
    said = [
        torch.stack([forward(net, name, batch.inputs) for name, net in nets.items()], dim=1)
        for batch in others.batches("left out", run.modalities, teachers.batch_size)
    ]
    return at_least_float32(torch.cat(said)).cpu().numpy()


def of_specialists(run: Run, panel: Panel, table: pd.DataFrame) -> Tensor:
    """A table's logits for every specialist, those of its teacher: ``(n, E, C)`` in split order.

    Raises:
        ValueError: The table is of other samples or teachers.
    """
    teachers = list(panel.teachers)
    ids = run.splits["id"].to_numpy()[rows_of(run.splits, "train")]
    wanted = np.repeat(ids, len(teachers)), np.tile(np.array(teachers, dtype=object), len(ids))
    for key, expected in zip(KEYS, wanted, strict=True):
        if not np.array_equal(table[key].to_numpy(), expected):
            raise ValueError(
                "out_of_fold_logits are of other samples or teachers than this run's: run again "
                "from the node compute_out_of_fold_logits"
            )
    logits = table.drop(columns=KEYS).to_numpy().reshape(len(ids), len(teachers), -1)
    of_teacher = [teachers.index(name.split("/")[0]) for name in panel.names]
    return torch.from_numpy(logits[:, of_teacher])
