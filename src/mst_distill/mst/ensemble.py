"""The ensemble: all specialists of a run, and the table of their logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.data.samples import SPLITS
from mst_distill.mst.losses import at_least_float32
from mst_distill.mst.networks import modalities_of
from mst_distill.mst.split_teacher import SpecialisedTeacher, specialise, unspecialised
from mst_distill.parameters import Members
from mst_distill.plan import Plan
from mst_distill.training.batches import Batch, Frozen, Inputs
from mst_distill.training.device import wide_products
from mst_distill.training.memory import fits
from mst_distill.training.run import Run

SPECIALISTS = "specialists"
"""The name under which a batch carries the logits of all specialists, ``(B, E, C, ...)``."""

KEYS = ["id", "split", "specialist"]
"""The first columns of a table of specialists' logits; a column for each class follows."""


@dataclass(frozen=True)
class SpecialistEnsemble:
    """All specialists, ordered by teacher and by depth of the mask.

    The multimodal teacher is first, and given teachers are last.

    Attributes:
        teachers: Teacher name to its trunk and tails.
    """

    teachers: dict[str, SpecialisedTeacher]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the specialists, ``TEACHER/LAYER``, in order."""
        return tuple(
            specialist_name(teacher, layer)
            for teacher, specialised in self.teachers.items()
            for layer in specialised.tails
        )

    @property
    def reads(self) -> tuple[tuple[str, ...], ...]:
        """The modalities that each specialist reads, in order."""
        return tuple(one.trunk.modalities for one in self.teachers.values() for _ in one.tails)

    def logits(self, inputs: Inputs) -> Tensor:
        """Logits ``(B, E, C, ...)``, from one pass through each trunk and each tail."""
        of_all = [of for one in self.teachers.values() for of in _logits_of(one, inputs)]
        return torch.stack(of_all, dim=1)

    def frozen(self, apart: bool) -> dict[str, Frozen]:
        """The logits as frozen computations, because no step of stage 3 changes them.

        Args:
            apart: Whether the specialists of each teacher are computed apart, ``(B, e, C, ...)``,
                because samples lack modalities; otherwise all together, ``(B, E, C, ...)``.
        """
        if apart:
            return {
                name: Frozen(one.trunk.modalities, partial(_stacked_logits_of, one))
                for name, one in self.teachers.items()
                if one.tails
            }
        reads = dict.fromkeys(m for one in self.teachers.values() for m in one.trunk.modalities)
        return {SPECIALISTS: Frozen(tuple(reads), lambda inputs: (self.logits(inputs),))}

    def logits_in(self, batch: Batch) -> Tensor:
        """The logits that a batch carries from `frozen`, or as one table: ``(B, E, C, ...)``."""
        if SPECIALISTS in batch.frozen:
            return batch.frozen[SPECIALISTS][0]
        return torch.cat([batch.frozen[t][0] for t in self.teachers if t in batch.frozen], dim=1)

    def seen_in(self, batch: Batch) -> Tensor | None:
        """Whether each specialist can see a sample, ``(B, E)``; None if all can see all."""
        seen = [batch.seen(modalities) for modalities in self.reads]
        known = [of for of in seen if of is not None]
        if not known:
            return None
        every = torch.ones_like(known[0])
        return torch.stack([every if of is None else of for of in seen], dim=1)


def _logits_of(teacher: SpecialisedTeacher, inputs: Inputs) -> list[Tensor]:
    """The logits of one teacher's specialists, from one pass through its trunk."""
    values = teacher.trunk(inputs) if teacher.tails else ()
    logits = []
    for tail in teacher.tails.values():
        with wide_products(values[0].device, tail):
            logits.append(tail(*values))
    return logits


def _stacked_logits_of(teacher: SpecialisedTeacher, inputs: Inputs) -> tuple[Tensor, ...]:
    return (torch.stack(_logits_of(teacher, inputs), dim=1),)


def assemble_ensemble(
    run: Run, plan: Plan, nets: Mapping[str, nn.Module], masks: Mapping[str, nn.Module]
) -> SpecialistEnsemble:
    """Build the specialists of stage 3 from the teachers and their masks.

    Args:
        run: Target, device and modalities.
        plan: All parameters; ``route.stacked_masks`` and ``route.masked`` decide on the masks.
        nets: Member name to its network after stage 1; the teachers are frozen here.
        masks: Specialist name to its mask after stage 2.

    Raises:
        ValueError: There is no mask for a masked layer.
    """
    route = plan.route
    return build_ensemble(run, plan.members, nets, masks, route.stacked_masks, route.masked)


def build_ensemble(
    run: Run,
    members: Members,
    nets: Mapping[str, nn.Module],
    masks: Mapping[str, nn.Module],
    stacked: bool = False,
    masked: bool = True,
) -> SpecialistEnsemble:
    """Apply masks to frozen teachers; a given teacher without masks is used as it is.

    Args:
        run: Target, device, modalities and given teachers.
        members: The masked layers of each teacher, in the order in which the net calls them.
        nets: Member name to its network.
        masks: Specialist name to its mask.
        stacked: As in `specialise`.
        masked: If False, no mask is applied, and every specialist equals its teacher.

    Raises:
        ValueError: There is no mask for a masked layer.
    """
    no_mask = nn.Identity()

    def mask_of(name: str, layer: str) -> nn.Module:
        if masked and specialist_name(name, layer) not in masks:
            raise ValueError(
                f"there is no mask for layer {layer!r} of member {name!r}, only for "
                f"{list(masks)}: run the pipeline `masks` first"
            )
        return run.place(masks[specialist_name(name, layer)] if masked else no_mask)

    def build(name: str, net: nn.Module, layers: Sequence[str]) -> SpecialisedTeacher:
        member = run.member_of(name)
        if name in run.given and not layers:
            return unspecialised(run.place(net), member, modalities_of(member, run.modalities))
        of_layers = {layer: mask_of(name, layer) for layer in layers}
        return specialise(name, run.place(net), of_layers, run.samples, stacked, member)

    trained = members.teachers_of(run.target).items()
    return SpecialistEnsemble(
        {
            **{name: build(name, nets[name], member.masked_layers) for name, member in trained},
            **{name: build(name, of.net, of.masked_layers) for name, of in run.given.items()},
        }
    )


def tabulate_logits(run: Run, ensemble: SpecialistEnsemble, batch_size: int) -> pd.DataFrame:
    """Compute the logits of every specialist for every sample of the run.

    Returns:
        One row for each sample that is in use and each specialist, in store order. The columns are
        `KEYS` and one for each class, at least float32. If a specialist cannot see a sample, there
        is no row. The table has no rows at all if the logits are dense or do not fit in memory, or
        if ``runtime.frozen`` is ``online``. In these cases stage 3 evaluates the ensemble at every
        step.
    """
    samples = run.samples
    columns = list(samples.classes)
    shape = (len(samples), len(ensemble.names), len(columns))
    wanted = run.runtime.frozen != "online" and not samples.dense
    if not wanted or not fits(4 * int(np.prod(shape)), torch.device("cpu")):
        return pd.DataFrame(columns=[*KEYS, *columns])
    frozen = ensemble.frozen(apart=bool(samples.present))
    logits_of_batches = [
        at_least_float32(ensemble.logits_in(batch)).cpu()
        for split in SPLITS
        for batch in run.batches(split, (), batch_size, frozen=frozen, needed=[run.target])
    ]
    # The batches come split after split; argsort of their store rows restores the store order.
    rows = np.concatenate([run.rows(split, [run.target]) for split in SPLITS])
    logits = torch.cat(logits_of_batches).numpy()[np.argsort(rows)]
    table = pd.DataFrame(logits.reshape(-1, len(columns)), columns=columns)
    ids, specialists = _keys(run, ensemble)
    table.insert(0, "id", ids)
    splits = run.splits["split"].to_numpy()[_rows_in_use(run)]
    table.insert(1, "split", np.repeat(splits, len(ensemble.names)))
    table.insert(2, "specialist", specialists)
    return table[_seen(run, ensemble).ravel()] if samples.present else table


def logits_of_split(
    run: Run, ensemble: SpecialistEnsemble, table: pd.DataFrame, split: str
) -> Tensor:
    """The logits of one split in a table, ``(n, E, C)`` in the order of the split.

    They are NaN where a specialist cannot see a sample.

    Raises:
        ValueError: The table belongs to other samples or specialists than those of this run.
    """
    keys = table["id"].to_numpy(), table["specialist"].to_numpy()
    seen = _seen(run, ensemble)
    for found, expected in zip(keys, _keys(run, ensemble), strict=True):
        if not np.array_equal(found, expected[seen.ravel()]):
            raise ValueError(
                "specialist_logits belongs to other samples or specialists than those of this run. "
                "Run again with --from-nodes=route.compute_specialist_logits"
            )
    classes = table.columns.drop(KEYS)
    rows = _rows_in_use(run)
    of_seen = table[classes].to_numpy()
    shape = (*seen.shape, len(classes))
    if seen.all():
        logits = of_seen.reshape(shape)
    else:
        logits = np.full(shape, np.nan, of_seen.dtype)
        logits[seen] = of_seen
    return torch.from_numpy(logits[np.searchsorted(rows, run.rows(split, [run.target]))])


def logits_for_training(
    run: Run, ensemble: SpecialistEnsemble, table: pd.DataFrame
) -> Tensor | None:
    """The logits of the training split in a table; None if they have to be computed.

    That is if the table has no rows, or if training samples have views, of which it has no logits.

    Raises:
        ValueError: As `logits_of_split`.
    """
    if not len(table) or run.views is not None:
        return None
    return logits_of_split(run, ensemble, table, "train")


def _seen(run: Run, ensemble: SpecialistEnsemble) -> np.ndarray:
    """Whether each specialist can see each sample of a table, ``(n, E)``."""
    rows = _rows_in_use(run)
    columns = [run.samples.have(modalities)[rows] for modalities in ensemble.reads]
    return np.stack(columns, axis=1)


def _keys(run: Run, ensemble: SpecialistEnsemble) -> tuple[np.ndarray, np.ndarray]:
    """The expected sample id and specialist of every row of a table."""
    used = run.splits["id"].to_numpy()[_rows_in_use(run)]
    names = np.array(ensemble.names, dtype=object)
    return np.repeat(used, len(names)), np.tile(names, len(used))


def _rows_in_use(run: Run) -> np.ndarray:
    """The store rows of the samples that the student can see, ascending.

    Held-out samples with hidden labels are not among them.
    """
    return np.sort(np.concatenate([run.rows(split, [run.target]) for split in SPLITS]))


def specialist_name(teacher: str, layer: str) -> str:
    """The name of a specialist: its teacher, and the layer whose output its mask changes."""
    return f"{teacher}/{layer}"
