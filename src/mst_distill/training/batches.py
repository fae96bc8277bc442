"""Mini-batches of one split, with what frozen nets say of them computed once where that fits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mst_distill.parameters import Runtime
from mst_distill.progress import progress
from mst_distill.samples import Samples
from mst_distill.training.device import autocast, fits

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
    """

    inputs: Inputs
    label: Tensor
    frozen: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)


class Batches:
    """One pass over a split for every iteration, shuffled when there is a generator.

    The split lies on the device when it fits there, and is read from the store batch by batch when
    it does not; the batches are the same. A last batch of a single sample joins the one before,
    for batch statistics of one sample do not exist.

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
        self._runtime = runtime
        self._rows = torch.from_numpy(rows)
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._kept: dict[str, tuple[Tensor, ...]] = {
            name: (table.to(device),) for name, table in (tables or {}).items()
        }
        self._online: dict[str, Frozen] = {}
        self._tensors: dict[str, Tensor] = {}
        for name, what in (frozen or {}).items():
            self._keep_or_defer(name, what, samples)
        needed = {*modalities, *(m for what in self._online.values() for m in what.modalities)}
        self._open(samples, needed)

    @property
    def count(self) -> int:
        """Samples in the split."""
        return len(self._rows)

    def __len__(self) -> int:
        """Batches in a pass."""
        return len(self._positions(torch.arange(self.count)))

    def __iter__(self) -> Iterator[Batch]:
        if self._shuffle is None:
            order = torch.arange(self.count)
        else:
            order = torch.randperm(self.count, generator=self._shuffle)
        for position in self._positions(order):
            yield self._take(position)

    def _open(self, samples: Samples, modalities: Iterable[str]) -> None:
        """Bring the split to the device, or see it through the memory map."""
        arrays = {name: samples.modalities[name] for name in modalities}
        arrays["label"] = samples.labels
        rows = self._rows.numpy()
        per_sample = sum(array[:1].nbytes for array in arrays.values())
        self._resident = fits(per_sample * len(rows), self.device)
        self._tensors = {
            name: torch.from_numpy(array[rows]).to(self.device) if self._resident else _view(array)
            for name, array in arrays.items()
        }

    def _positions(self, order: Tensor) -> list[Tensor]:
        parts = list(order.split(self._batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts

    def _take(self, position: Tensor) -> Batch:
        on_device = position.to(self.device)
        where = on_device if self._resident else self._rows[position]
        inputs = {name: tensor[where].to(self.device) for name, tensor in self._tensors.items()}
        label = inputs.pop("label").long()
        frozen = {
            name: tuple(table[on_device] for table in tables) for name, tables in self._kept.items()
        }
        with torch.no_grad(), autocast(self.device, self._runtime):
            frozen |= {name: what.compute(inputs) for name, what in self._online.items()}
        return Batch(inputs, label, frozen)

    def _keep_or_defer(self, name: str, what: Frozen, samples: Samples) -> None:
        """Compute `what` over the split now if the result fits, else leave it to every batch."""
        source = Batches(
            samples,
            self._rows.numpy(),
            what.modalities,
            self._batch_size,
            self._runtime,
            self.device,
        )
        source._online = {name: what}
        first = source._take(torch.arange(1)).frozen[name]
        size = sum(tensor.nbytes for tensor in first) * self.count
        mode = self._runtime.frozen
        if mode == "online" or (mode == "auto" and not fits(size, self.device)):
            self._online[name] = what
            return
        tables = tuple(
            torch.empty((self.count, *tensor.shape[1:]), dtype=tensor.dtype, device=self.device)
            for tensor in first
        )
        start = 0
        for batch in progress(source, f"{name}: once over {self.count} samples", "batch"):
            end = start + len(batch.label)
            for table, part in zip(tables, batch.frozen[name], strict=True):
                table[start:end] = part
            start = end
        self._kept[name] = tables


def _view(array: np.ndarray) -> Tensor:
    """A tensor over a read-only map; it is only ever indexed, which copies."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
