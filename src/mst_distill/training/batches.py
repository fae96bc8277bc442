"""Mini-batches of one split, together with the outputs of frozen nets.

The outputs of frozen nets are computed once for the whole split where they fit in memory.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from mst_distill.artifacts.progress import progress
from mst_distill.data.samples import Samples
from mst_distill.parameters import Runtime
from mst_distill.training.device import autocast
from mst_distill.training.memory import fits, naming_memory
from mst_distill.training.micro_batches import MicroBatcher
from mst_distill.training.views import Views

PIECE = 2**26
"""The number of bytes of a split that are copied to a GPU at once."""

Inputs = dict[str, Tensor]
"""Modality name to ``(B, *shape)``."""


@dataclass(frozen=True)
class Frozen:
    """A computation by frozen nets in eval mode, whose result no training step changes.

    Attributes:
        modalities: The modalities that `compute` reads.
        compute: Maps inputs to tensors whose first axis is the batch.
    """

    modalities: tuple[str, ...]
    compute: Callable[[Inputs], tuple[Tensor, ...]]

    def __call__(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Compute from those of the inputs that it reads."""
        return self.compute({name: inputs[name] for name in self.modalities})


@dataclass(frozen=True)
class Batch:
    """Some samples of a split.

    Attributes:
        inputs: Modality name to ``(B, *shape)``.
        label: ``(B,)`` or ``(B, H, W)``, int64; `Labels.ignored` where a sample has no label.
        frozen: Name of a `Frozen` computation to its result, without gradient; NaN (0 if the
            type is integer) for samples that lack a modality that it reads.
        place: ``(B,)``, the index of each sample in its split, from 0.
        entry: ``(B,)``, the index of each view among all views of a split of n samples:
            ``view * n + place``. Without views, it is `place`.
        present: ``(B,)``, whether each sample has a modality, by name, for those that are not in
            all samples. The inputs of the others are meaningless.
    """

    inputs: Inputs
    label: Tensor
    frozen: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    place: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    present: dict[str, Tensor] = field(default_factory=dict)
    entry: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def seen(self, modalities: Iterable[str]) -> Tensor | None:
        """Whether each sample has all of some modalities, ``(B,)``; None if all samples do."""
        masks = [self.present[name] for name in modalities if name in self.present]
        return torch.stack(masks).all(dim=0) if masks else None

    def micro_batch(self, indices: Tensor) -> Batch:
        """The samples at `indices`, from 0; the batch itself if these are all of its samples."""
        if len(indices) == len(self.label):
            return self
        here = indices.to(self.label.device)
        return Batch(
            {name: of[here] for name, of in self.inputs.items()},
            self.label[here],
            {name: tuple(each[here] for each in of) for name, of in self.frozen.items()},
            self.place[here],
            {name: of[here] for name, of in self.present.items()},
            self.entry[here],
        )

    def having(self, modalities: Iterable[str]) -> tuple[Batch, Tensor | None]:
        """The samples that have all of some modalities, and their indices; None stands for all."""
        seen = self.seen(modalities)
        if seen is None:
            return self, None
        indices = seen.nonzero().ravel()
        return self.micro_batch(indices), indices

    def having_two(self, modalities: Iterable[str]) -> tuple[Batch, Tensor | None] | None:
        """The same; None if there are fewer than two, which batch statistics need."""
        some, indices = self.having(modalities)
        return None if indices is not None and len(indices) < 2 else (some, indices)


@dataclass(frozen=True)
class Labels:
    """The labels of a training split of which some are not known.

    Attributes:
        hidden: ``(n,)``, whether a sample has no label, in the order of the split.
        ignored: The label of a batch that stands for "no label".
        share: The share of samples with a label in each shuffled batch, in (0, 1]; or None, for
            batches from one shuffle of all samples.
    """

    hidden: np.ndarray
    ignored: int
    share: float | None


class Batches:
    """The mini-batches of a split. Each iteration is one pass over the split.

    If the split fits in the memory of the device, it is copied there once. Otherwise each batch is
    read from the store. Both ways give the same batches. A last batch of a single sample is merged
    with the batch before it, because batch statistics need at least two samples.

    Args:
        samples: The store.
        rows: ``(n,)``, the rows of the split in the store; they define the order of the split.
        modalities: The modalities that the batches must carry.
        batch_size: Samples in each batch.
        runtime: Device, precision, and whether the results of `frozen` are cached.
        device: The device to which batches are delivered.
        frozen: What to compute for every batch without gradient. It is computed once for the whole
            split if the result fits in memory, and again for every batch if it does not.
        tables: Results that were computed before: ``(n, ...)`` in the order of the split.
        shuffle: Draws a new order for every pass. Without it, every pass has the order of `rows`.
        labels: Which samples have no label. With a `Labels.share`, a pass has as many batches as
            otherwise, each of `batch_size` samples: those with a label come from shuffles of all
            samples with one, and the others from shuffles of the rest, each as often as needed.
        views: The views of the samples, if there are any but the samples themselves. Frozen results
            are those of each view.

    Raises:
        ValueError: There are `tables`, which belong to samples, and `views`.
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
        labels: Labels | None = None,
        views: Views | None = None,
    ) -> None:
        if tables and views is not None:
            raise ValueError("tables of plain samples must not be used with their views")
        self.device = device
        self._samples = samples
        self._rows = torch.from_numpy(rows)
        self._batch_size = batch_size
        self._runtime = runtime
        self._shuffle = shuffle
        self._labels = labels
        self._views = views
        self._hidden = None if labels is None else torch.from_numpy(labels.hidden).to(device)
        present = {name: has[rows] for name, has in samples.present.items()}
        self._present = {
            name: torch.from_numpy(has).to(device) for name, has in present.items() if not has.all()
        }
        self._blank: dict[str, tuple[Tensor, ...]] = {}
        self._micro_batcher = MicroBatcher("frozen nets")
        self._cached: dict[str, tuple[Tensor, ...]] = {
            name: (table.to(device),) for name, table in (tables or {}).items()
        }
        self._online = dict(frozen or {})
        advice = "choose runtime.frozen=online, fewer training.views, a smaller batch size"
        with naming_memory(f"a split of {len(rows)} samples", advice):
            if cacheable := self._select_cacheable():
                self._cached |= self._fill_cache(cacheable)
                self._online = {n: what for n, what in self._online.items() if n not in cacheable}
            # Modalities that only cached computations read need not be loaded.
            online = (name for what in self._online.values() for name in what.modalities)
            self._load({*modalities, *online})

    @property
    def count(self) -> int:
        """Number of samples in the split."""
        return len(self._rows)

    def __len__(self) -> int:
        """Number of batches in a pass."""
        return len(self._split(torch.arange(self.count)))

    def __iter__(self) -> Iterator[Batch]:
        return self.start(0)

    @property
    def _number_of_views(self) -> int:
        return 1 if self._views is None else self._views.count

    @property
    def _number_of_entries(self) -> int:
        return self._number_of_views * self.count

    @property
    def order(self) -> Tensor:
        """The generator's state, which decides the order of the next pass; empty if unshuffled."""
        return torch.empty(0) if self._shuffle is None else self._shuffle.get_state()

    @order.setter
    def order(self, state: Tensor) -> None:
        if self._shuffle is not None:
            self._shuffle.set_state(state)

    def start(self, step: int, epoch: int = 0) -> Iterator[Batch]:
        """Iterate over one pass from batch number `step` on; earlier batches are not read.

        Args:
            step: The number of the first batch, from 0.
            epoch: The number of the pass, which decides the view.
        """
        index_batches = self.entries(step, epoch)
        if not index_batches:
            return
        # Transforms draw from the generator that a net may use at the same time.
        prefetch = self.device.type == "cuda" and not self._resident and self._views is None
        read = self._prefetch(index_batches) if prefetch else map(self._read, index_batches)
        for batch in read:
            yield self._complete(batch)

    def entries(self, step: int, epoch: int = 0) -> Sequence[Tensor]:
        """Draw the order of one pass: `Batch.entry` of each batch from number `step` on, ``(B,)``.

        The arguments are those of `start`.
        """
        # The order of the whole pass is drawn for any `step`, so that a training that continues
        # from a checkpoint sees the batches that it would have seen without the interruption.
        first = epoch % self._number_of_views * self.count
        index_batches: Sequence[Tensor] = [first + indices for indices in self._draw()[step:]]
        if self._resident and index_batches:  # one copy to the device for all batches
            sizes = [len(indices) for indices in index_batches]
            index_batches = torch.cat(list(index_batches)).to(self.device).split(sizes)
        return index_batches

    @property
    def is_on_device(self) -> bool:
        """Whether batches are selections from tensors on the device, of samples without gaps."""
        return self._resident and not self._online and not self._present

    def complete(self, entry: Tensor) -> Batch:
        """The batch with some `Batch.entry`, from `entries`."""
        return self._complete(self._read(entry))

    def at(self, entry: Tensor) -> Batch:
        """The samples with some `Batch.entry`, ``(B,)``, without frozen results."""
        return self._read(entry if self._resident else entry.cpu())

    def ids(self, batch: Batch) -> list[str]:
        """The ids of a batch's samples."""
        rows = self._rows[batch.place.cpu()].numpy()
        return self._samples.index["id"].iloc[rows].tolist()

    def shuffled(self, shuffle: torch.Generator, labelled_share: float | None = None) -> Batches:
        """The same samples in the orders that `shuffle` draws; data and cache are shared.

        Args:
            shuffle: Draws a new order for every pass.
            labelled_share: Replaces `Labels.share`, if some samples have no label.
        """
        again = copy.copy(self)
        again._shuffle = shuffle
        if self._labels is not None:
            again._labels = replace(self._labels, share=labelled_share)
        return again

    def _load(self, modalities: Iterable[str]) -> None:
        """Copy the split to the device in all views, or map the store into memory."""
        arrays = {name: self._samples.inputs[name] for name in modalities}
        arrays["label"] = self._samples.labels
        rows = self._rows.numpy()
        per_sample = sum(array[:1].nbytes for array in arrays.values())
        self._resident = fits(per_sample * self._number_of_entries, self.device)
        if not self._resident:
            self._tensors = {name: _mapped(array) for name, array in arrays.items()}
        elif self._views is None:
            self._tensors = {name: self._copy(array, rows) for name, array in arrays.items()}
        else:
            self._tensors = self._make_views(arrays, self._views)

    def _make_views(self, arrays: Mapping[str, np.ndarray], views: Views) -> dict[str, Tensor]:
        """Make all views of the split on the device, ``(K * n, ...)``."""
        made = {
            name: torch.empty(
                (self._number_of_entries, *array.shape[1:]),
                dtype=_mapped(array).dtype,
                device=self.device,
            )
            for name, array in arrays.items()
        }
        pieces = torch.arange(self._number_of_entries).split(self._batch_size)
        for entries in progress(pieces, f"{views.count} views of {self.count} samples", "batch"):
            for name, array in self._views_at(entries, arrays, views).items():
                made[name][entries[0] : entries[-1] + 1] = torch.from_numpy(array)
        return made

    def _views_at(
        self, entries: Tensor, names: Iterable[str], views: Views
    ) -> dict[str, np.ndarray]:
        rows = self._rows[entries % self.count]
        return views.make(names, rows.numpy(), (entries // self.count).numpy())

    def _copy(self, array: np.ndarray, rows: np.ndarray) -> Tensor:
        """Copy rows of an array to the device; to a GPU in pieces, each while the next is read."""
        if self.device.type == "cpu":
            return torch.from_numpy(array[rows])
        shape, dtype = (len(rows), *array.shape[1:]), _mapped(array).dtype
        copied = torch.empty(shape, dtype=dtype, device=self.device)
        size = max(1, PIECE // max(1, array[:1].nbytes))
        for start in range(0, len(rows), size):
            piece = torch.from_numpy(array[rows[start : start + size]])
            copied[start : start + size].copy_(piece.pin_memory(), non_blocking=True)
        return copied

    def _draw(self) -> Sequence[Tensor]:
        """Draw the indices of each batch of a pass."""
        if self._shuffle is None:
            return self._split(torch.arange(self.count))
        if self._labels is None or self._labels.share is None:
            return self._split(torch.randperm(self.count, generator=self._shuffle))
        hidden = torch.from_numpy(self._labels.hidden)
        steps, size = len(self), min(self._batch_size, self.count)
        known = min(max(1, round(self._labels.share * size)), size)
        return [
            torch.cat(parts)
            for parts in zip(
                self._deal((~hidden).nonzero().ravel(), steps, known),
                self._deal(hidden.nonzero().ravel(), steps, size - known),
                strict=True,
            )
        ]

    def _deal(self, indices: Tensor, steps: int, number: int) -> Sequence[Tensor]:
        """Deal `number` of the indices to each of the steps, from as many shuffles as needed."""
        if not number:
            return [indices[:0]] * steps
        shuffles = [
            indices[torch.randperm(len(indices), generator=self._shuffle)]
            for _ in range(-(-steps * number // len(indices)))
        ]
        return torch.cat(shuffles)[: steps * number].split(number)

    def _split(self, order: Tensor) -> Sequence[Tensor]:
        """Split an order of the samples into the indices of each batch."""
        index_batches = list(order.split(self._batch_size))
        if len(index_batches) > 1 and len(index_batches[-1]) == 1:
            index_batches[-2:] = [torch.cat(index_batches[-2:])]
        return index_batches

    def _read(self, indices: Tensor) -> Batch:
        """Read the inputs and the label of one batch, given its `Batch.entry`, onto the device."""
        if self._resident or self._views is None:
            # Resident tensors hold the split only; mapped ones hold the whole store.
            rows = indices if self._resident else self._rows[indices]
            read = {name: tensor.index_select(0, rows) for name, tensor in self._tensors.items()}
        else:
            made = self._views_at(indices, self._tensors, self._views)
            read = {name: torch.from_numpy(array) for name, array in made.items()}
        entry = self._to_device(indices)
        place = entry if self._views is None else entry % self.count
        inputs = {name: self._to_device(tensor) for name, tensor in read.items()}
        label = inputs.pop("label").long()
        present = {name: has[place] for name, has in self._present.items()}
        return Batch(inputs, label, {}, place, present, entry)

    def _to_device(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == self.device.type:
            return tensor
        # Only copies from pinned memory run while the GPU computes.
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _prefetch(self, index_batches: Sequence[Tensor]) -> Iterator[Batch]:
        """Read each batch in a thread while the GPU computes on the batch before it.

        On a CPU this would not be faster: the computation already uses all cores.
        """
        with ThreadPoolExecutor(1, "reader") as reader:
            coming = reader.submit(self._read, index_batches[0])
            for indices in index_batches[1:]:
                read, coming = coming.result(), reader.submit(self._read, indices)
                yield read
            yield coming.result()

    def _complete(self, batch: Batch) -> Batch:
        """Hide unknown labels, and add the results of the frozen computations."""
        label = batch.label
        if self._hidden is not None and self._labels is not None:
            hidden = self._hidden[batch.place].reshape(-1, *[1] * (label.dim() - 1))
            label = label.masked_fill(hidden, self._labels.ignored)
        frozen = {
            name: tuple(table.index_select(0, batch.entry) for table in tables)
            for name, tables in self._cached.items()
        }
        if self._online:
            with torch.no_grad(), autocast(self.device, self._runtime):
                frozen |= self._compute_online(batch)
        return replace(batch, label=label, frozen=frozen)

    def _compute_online(self, batch: Batch) -> dict[str, tuple[Tensor, ...]]:
        """Run those frozen computations on one batch that are not cached."""
        results = self._micro_batcher.each(
            len(batch.label),
            lambda indices: {
                name: self._compute_seen(name, what, batch.micro_batch(indices))
                for name, what in self._online.items()
            },
        )
        if len(results) == 1:
            return results[0]
        # Each computation gives a tuple of tensors: concatenate the micro-batches of each tensor.
        return {
            name: tuple(map(torch.cat, zip(*(result[name] for result in results), strict=True)))
            for name in results[0]
        }

    def _compute_seen(self, name: str, what: Frozen, batch: Batch) -> tuple[Tensor, ...]:
        """The result for the samples that have what is read, and NaN for the others."""
        some, indices = batch.having(what.modalities)
        if indices is None:
            return what(batch.inputs)
        if name not in self._blank:  # a batch in which nothing is seen does not tell the shapes
            (one,) = self._computed_online({name: what}, self._first_having(what.modalities))
            self._blank[name] = tuple(
                torch.full_like(of, torch.nan if of.is_floating_point() else 0)
                for of in one.frozen[name]
            )
        results = what(some.inputs) if len(indices) else ()
        filled = tuple(
            blank.expand(len(batch.label), *blank.shape[1:]).clone() for blank in self._blank[name]
        )
        for table, result in zip(filled, results, strict=False):
            table[indices] = result
        return filled

    def _first_having(self, modalities: Iterable[str]) -> np.ndarray:
        """The store row of the first sample of the split that has all of some modalities."""
        rows = self._rows.numpy()
        return rows[self._samples.have(modalities)[rows]][:1]

    def _select_cacheable(self) -> dict[str, Frozen]:
        """Select the frozen computations whose results fit in memory together."""
        mode = self._runtime.frozen
        if mode == "online" or not self._online:
            return {}
        # The size for the whole split follows from the results for one sample.
        reads = {modality for what in self._online.values() for modality in what.modalities}
        (first,) = self._computed_online(self._online, self._first_having(reads))
        cacheable, size = {}, 0
        for name, tensors in first.frozen.items():
            size_here = sum(tensor.nbytes for tensor in tensors) * self._number_of_entries
            if mode == "cached" or fits(size + size_here, self.device):
                cacheable[name] = self._online[name]
                size += size_here
        return cacheable

    def _fill_cache(self, frozen: Mapping[str, Frozen]) -> dict[str, tuple[Tensor, ...]]:
        """Compute the results for the split in all views, ``(K * n, ...)`` by `Batch.entry`."""
        tables: dict[str, tuple[Tensor, ...]] = {}
        entries = self._number_of_entries
        batches = self._computed_online(frozen, self._rows.numpy(), self._views)
        passes = (batches.start(0, epoch=view) for view in range(self._number_of_views))
        start = 0
        title = f"{', '.join(frozen)}: frozen outputs of {entries} samples"
        total = self._number_of_views * len(batches)
        for batch in progress(chain.from_iterable(passes), title, "batch", total=total):
            for name, chunks in batch.frozen.items():
                if name not in tables:
                    # Shape and type are known only from the first batch.
                    tables[name] = tuple(c.new_empty((entries, *c.shape[1:])) for c in chunks)
                for table, chunk in zip(tables[name], chunks, strict=True):
                    table[start : start + len(chunk)] = chunk
            start += len(batch.label)
        return tables

    def _computed_online(
        self, frozen: Mapping[str, Frozen], rows: np.ndarray, views: Views | None = None
    ) -> Batches:
        """Unshuffled batches of `rows`, with `frozen` computed for every batch."""
        online = self._runtime.model_copy(update={"frozen": "online"})
        return Batches(
            self._samples, rows, (), self._batch_size, online, self.device, frozen, views=views
        )


def _mapped(array: np.ndarray) -> Tensor:
    """A tensor that shares the memory of a read-only map.

    PyTorch warns that writing to it is undefined. Nothing writes to it: it is only indexed, and
    indexing copies.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
