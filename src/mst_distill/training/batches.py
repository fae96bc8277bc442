"""Mini-batches of one split, with what frozen nets say of them computed once where that fits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mst_distill.artifacts.progress import progress
from mst_distill.data.samples import Samples
from mst_distill.parameters import Runtime
from mst_distill.training.device import autocast
from mst_distill.training.memory import fits
from mst_distill.training.micro_batches import Parts

Inputs = dict[str, Tensor]
"""Modality name to ``(B, *shape)``."""


@dataclass(frozen=True)
class Frozen:
    """Something that no step changes: the output of frozen nets in eval mode.

    Attributes:
        modalities: The modalities that `compute` reads.
        compute: Inputs to tensors with the batch in front.
    """

    modalities: tuple[str, ...]
    compute: Callable[[Inputs], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Batch:
    """Some samples of a split.

    Attributes:
        inputs: Modality name to ``(B, *shape)``.
        label: ``(B,)`` or ``(B, H, W)``, int64.
        frozen: What was asked to be computed of them without gradient, by name.
        place: ``(B,)``, where in their split the samples stand, from 0.
    """

    inputs: Inputs
    label: Tensor
    frozen: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    place: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def part(self, places: Tensor) -> Batch:
        """Some of its samples; the batch itself, if they are all."""
        if len(places) == len(self.label):
            return self
        here = places.to(self.label.device)
        return Batch(
            {name: of[here] for name, of in self.inputs.items()},
            self.label[here],
            {name: tuple(each[here] for each in of) for name, of in self.frozen.items()},
            self.place[here],
        )


class Batches:
    """One pass over a split for every iteration, shuffled when there is a generator.

    The split lies on the device when it fits there, and is read from the store batch by batch when
    it does not; the batches are the same. A last batch of a single sample joins the one before, for
    batch statistics of one sample do not exist.

    Args:
        samples: The store.
        rows: ``(n,)`` store rows of the split; the order of the split.
        modalities: The modalities that batches must carry.
        batch_size: Samples a batch.
        runtime: Device, precision, and whether frozen things are kept.
        device: Where batches are wanted.
        frozen: What to compute of every batch without gradient. It is computed once, over the whole
            split, when the result fits in memory, and at every batch when it does not.
        tables: Frozen things that were computed before: ``(n, ...)`` in the split's order.
        shuffle: Orders every pass anew; without it the order is that of `rows`.
    """

    def __init__(
        self,
        samples: Samples,
        rows: np.ndarray,
        modalities: Iterable[str],
        batch_size: int,
        runtime: Runtime,
        device: torch.device,
        frozen: Mapping[str, Frozen] | None = None,
        tables: Mapping[str, Tensor] | None = None,
        shuffle: torch.Generator | None = None,
    ) -> None:
        self.device = device
        self._samples = samples
        self._rows = torch.from_numpy(rows)
        self._batch_size = batch_size
        self._runtime = runtime
        self._shuffle = shuffle
        self._parts = Parts("frozen nets")
        self._kept: dict[str, tuple[Tensor, ...]] = {
            name: (table.to(device),) for name, table in (tables or {}).items()
        }
        self._online = dict(frozen or {})
        if worth := self._worth_keeping():
            self._kept |= self._compute_once(worth)
            self._online = {n: what for n, what in self._online.items() if n not in worth}
        self._open({*modalities, *(m for what in self._online.values() for m in what.modalities)})

    @property
    def count(self) -> int:
        """Samples in the split."""
        return len(self._rows)

    def __len__(self) -> int:
        """Batches in a pass."""
        return len(self._positions(torch.arange(self.count)))

    def __iter__(self) -> Iterator[Batch]:
        return self.start(0)

    @property
    def order(self) -> Tensor:
        """What the next pass's order will be drawn from; empty where there is nothing to draw."""
        return torch.empty(0) if self._shuffle is None else self._shuffle.get_state()

    @order.setter
    def order(self, state: Tensor) -> None:
        if self._shuffle is not None:
            self._shuffle.set_state(state)

    def start(self, step: int) -> Iterator[Batch]:
        """A pass from a step on; those before it are not read."""
        if self._shuffle is None:
            order = torch.arange(self.count)
        else:
            order = torch.randperm(self.count, generator=self._shuffle)
        positions = self._positions(order.to(self.device) if self._resident else order)[step:]
        if not positions:
            return
        ahead = self.device.type == "cuda" and not self._resident
        read = self._read_ahead(positions) if ahead else map(self._read, positions)
        for position, tensors in zip(positions, read, strict=True):
            yield self._complete(position, tensors)

    def ids(self, batch: Batch) -> list[str]:
        """The ids of a batch's samples."""
        rows = self._rows[batch.place.cpu()].numpy()
        return self._samples.index["id"].iloc[rows].tolist()

    def shuffled(self, shuffle: torch.Generator) -> Batches:
        """The same batches in the orders that `shuffle` draws; all that is kept is shared."""
        again = copy.copy(self)
        again._shuffle = shuffle
        return again

    def _open(self, modalities: Iterable[str]) -> None:
        """Bring the split to the device, or see it through the memory map."""
        arrays = {name: self._samples.modalities[name] for name in modalities}
        arrays["label"] = self._samples.labels
        rows = self._rows.numpy()
        per_sample = sum(array[:1].nbytes for array in arrays.values())
        self._resident = fits(per_sample * len(rows), self.device)
        self._tensors = {
            name: torch.from_numpy(array[rows]).to(self.device) if self._resident else _view(array)
            for name, array in arrays.items()
        }

    def _positions(self, order: Tensor) -> Sequence[Tensor]:
        """The places of every batch's samples in the split."""
        parts = list(order.split(self._batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts

    def _read(self, position: Tensor) -> Inputs:
        """Inputs and label of one batch, on the device."""
        rows = position if self._resident else self._rows[position]
        read = {name: tensor.index_select(0, rows) for name, tensor in self._tensors.items()}
        if self._resident or self.device.type == "cpu":
            return read
        pinned = {name: tensor.pin_memory() for name, tensor in read.items()}
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in pinned.items()}

    def _read_ahead(self, positions: Sequence[Tensor]) -> Iterator[Inputs]:
        """Read every batch while the GPU computes on the one before; a CPU has no core to spare."""
        with ThreadPoolExecutor(1, "reader") as reader:
            coming = reader.submit(self._read, positions[0])
            for position in positions[1:]:
                read, coming = coming.result(), reader.submit(self._read, position)
                yield read
            yield coming.result()

    def _complete(self, position: Tensor, inputs: Inputs) -> Batch:
        """Put beside a batch's inputs what frozen nets say of them."""
        label = inputs.pop("label").long()
        place = position.to(self.device)
        frozen = {
            name: tuple(table.index_select(0, place) for table in tables)
            for name, tables in self._kept.items()
        }
        if self._online:
            with torch.no_grad(), autocast(self.device, self._runtime):
                frozen |= self._ask(Batch(inputs, label, place=place))
        return Batch(inputs, label, frozen, place)

    def _ask(self, batch: Batch) -> dict[str, tuple[Tensor, ...]]:
        """What the frozen nets say of a batch now."""
        said = self._parts.each(
            len(batch.label),
            lambda places: {
                name: what.compute(batch.part(places).inputs) for name, what in self._online.items()
            },
        )
        if len(said) == 1:
            return said[0]
        return {
            name: tuple(map(torch.cat, zip(*(part[name] for part in said), strict=True)))
            for name in said[0]
        }

    def _worth_keeping(self) -> dict[str, Frozen]:
        """What of the frozen things is to be computed once: that which fits beside the others."""
        mode = self._runtime.frozen
        if mode == "online" or not self._online:
            return {}
        asked = self._asked_online(self._online, self._rows[:1].numpy())
        (first,) = asked
        worth, size = {}, 0
        for name, tensors in first.frozen.items():
            size_here = sum(tensor.nbytes for tensor in tensors) * self.count
            if mode == "cached" or fits(size + size_here, self.device):
                worth[name] = self._online[name]
                size += size_here
        return worth

    def _compute_once(self, frozen: Mapping[str, Frozen]) -> dict[str, tuple[Tensor, ...]]:
        """One pass over the split, in which every frozen thing fills its tables."""
        tables: dict[str, tuple[Tensor, ...]] = {}
        asked = self._asked_online(frozen, self._rows.numpy())
        start = 0
        title = f"{', '.join(frozen)}: once over {self.count} samples"
        for batch in progress(asked, title, "batch"):
            for name, parts in batch.frozen.items():
                if name not in tables:
                    tables[name] = tuple(p.new_empty((self.count, *p.shape[1:])) for p in parts)
                for table, part in zip(tables[name], parts, strict=True):
                    table[start : start + len(part)] = part
            start += len(batch.label)
        return tables

    def _asked_online(self, frozen: Mapping[str, Frozen], rows: np.ndarray) -> Batches:
        """The same samples in order, with `frozen` computed at every batch."""
        online = self._runtime.model_copy(update={"frozen": "online"})
        return Batches(self._samples, rows, (), self._batch_size, online, self.device, frozen)


def _view(array: np.ndarray) -> Tensor:
    """A tensor over a read-only map; it is only ever indexed, which copies."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
