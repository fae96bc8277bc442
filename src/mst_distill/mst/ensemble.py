"""The panel: all specialists of a run, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.data.samples import SPLITS, rows_of
from mst_distill.mst.losses import at_least_float32
from mst_distill.mst.split_teacher import SpecialisedTeacher, specialise
from mst_distill.parameters import Members
from mst_distill.training.batches import Frozen, Inputs
from mst_distill.training.device import wide_products
from mst_distill.training.memory import fits
from mst_distill.training.run import Run

KEYS = ["id", "split", "specialist"]
"""The columns of a table of specialists' logits before those of the classes."""


@dataclass(frozen=True)
class Panel:
    """The specialists in order: the multimodal teacher's first, a teacher's by depth of the mask.

    Attributes:
        teachers: Teacher name to its trunk and tails.
    """

    teachers: dict[str, SpecialisedTeacher]

    @property
    def names(self) -> tuple[str, ...]:
        """``TEACHER/LAYER`` a specialist."""
        return tuple(
            specialist_name(teacher, layer)
            for teacher, specialised in self.teachers.items()
            for layer in specialised.tails
        )

    def logits(self, inputs: Inputs) -> Tensor:
        """``(B, E, C, ...)``: one trunk pass a teacher, one tail a specialist."""
        logits = []
        for specialised in self.teachers.values():
            values = specialised.trunk.compute(inputs)
            for tail in specialised.tails.values():
                with wide_products(values[0].device, tail):
                    logits.append(tail(*values))
        return torch.stack(logits, dim=1)

    def frozen(self) -> Frozen:
        """The panel's logits as something that no step of stage 3 changes."""
        reads = dict.fromkeys(m for one in self.teachers.values() for m in one.trunk.modalities)
        return Frozen(tuple(reads), lambda inputs: (self.logits(inputs),))


def assemble_panel(
    run: Run,
    teachers: Mapping[str, nn.Module],
    masks: Mapping[str, nn.Module],
    members: Members,
    stacked: bool = False,
    masked: bool = True,
) -> Panel:
    """Put masks on frozen teachers.

    Args:
        run: Says target, device and modalities.
        teachers: Teacher name to its net.
        masks: Specialist name to its mask.
        members: Says which layers are masked, and in what order.
        stacked: As in `specialise`.
        masked: Without it the masks stay off, and all specialists of a teacher are the teacher.

    Raises:
        ValueError: There is no mask for a masked layer.
    """
    for name, member in members.teachers_of(run.target).items():
        for layer in member.masked_layers:
            if masked and specialist_name(name, layer) not in masks:
                raise ValueError(
                    f"there is no mask for layer {layer!r} of member {name!r}, only for "
                    f"{list(masks)}: run the pipeline `masks` first"
                )
    off = nn.Identity()
    return Panel(
        {
            name: specialise(
                name,
                run.place(teachers[name]),
                {
                    layer: run.place(masks[specialist_name(name, layer)] if masked else off)
                    for layer in member.masked_layers
                },
                run.samples,
                stacked,
            )
            for name, member in members.teachers_of(run.target).items()
        }
    )


def tabulate_logits(run: Run, panel: Panel, batch_size: int) -> pd.DataFrame:
    """What every specialist says of every sample, computed once.

    Returns:
        A row a sample and specialist, samples in store order: `KEYS` and a column a class, float32
        where the nets compute in no more.
        It has no rows where logits are dense, where they do not fit in memory, or where
        ``runtime.frozen`` is ``online``: then stage 3 asks the panel at every step.
    """
    samples = run.samples
    columns = list(samples.classes)
    shape = (len(samples), len(panel.names), len(columns))
    wanted = run.runtime.frozen != "online" and not samples.dense
    if not wanted or not fits(4 * int(np.prod(shape)), torch.device("cpu")):
        return pd.DataFrame(columns=[*KEYS, *columns])
    said = [
        at_least_float32(batch.frozen["specialists"][0]).cpu()
        for split in SPLITS
        for batch in run.batches(split, (), batch_size, frozen={"specialists": panel.frozen()})
    ]
    rows = np.concatenate([rows_of(run.splits, split) for split in SPLITS])
    logits = torch.cat(said).numpy()[np.argsort(rows)]
    table = pd.DataFrame(logits.reshape(-1, len(columns)), columns=columns)
    ids, specialists = _keys(run, panel)
    table.insert(0, "id", ids)
    table.insert(1, "split", np.repeat(run.splits["split"].to_numpy(), len(panel.names)))
    table.insert(2, "specialist", specialists)
    return table


def logits_of_split(run: Run, panel: Panel, table: pd.DataFrame, split: str) -> Tensor:
    """The table's logits of one split, ``(n, E, C)`` in the split's order.

    Raises:
        ValueError: The table is of other samples or specialists than this run's.
    """
    said = table["id"].to_numpy(), table["specialist"].to_numpy()
    for found, expected in zip(said, _keys(run, panel), strict=True):
        if not np.array_equal(found, expected):
            raise ValueError(
                "specialist_logits are of other samples or specialists than this run's: run again "
                "from the node compute_specialist_logits"
            )
    classes = table.columns.drop(KEYS)
    logits = table[classes].to_numpy().reshape(len(run.samples), -1, len(classes))
    return torch.from_numpy(logits[rows_of(run.splits, split)])


def _keys(run: Run, panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Sample id and specialist of every row of a table."""
    ids = np.repeat(run.splits["id"].to_numpy(), len(panel.names))
    return ids, np.tile(np.array(panel.names, dtype=object), len(run.samples))


def specialist_name(teacher: str, layer: str) -> str:
    """A specialist is named for its teacher and the layer that its mask sits on."""
    return f"{teacher}/{layer}"
