"""What every stage of a run has in hand: the data, the target, the seed, the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.artifacts.checkpoint import Checkpoint, Checkpoints
from mst_distill.data.samples import Samples, rows_of
from mst_distill.parameters import Runtime, Training
from mst_distill.training.batches import Batches, Frozen
from mst_distill.training.device import place, prepare, resolve_device
from mst_distill.training.seeding import derive_seed, generator


@dataclass(frozen=True)
class Run:
    """One run: one data set, one target, one seed.

    Attributes:
        samples: The store.
        splits: The run's table of splits, in store order.
        target: The modality that the student sees.
        seed: Everything random derives from it.
        runtime: How it is computed.
        checkpoints: Where its stages keep their state, if they do.

    Raises:
        ValueError: The splits are not a table of these samples.
    """

    samples: Samples
    splits: pd.DataFrame
    target: str
    seed: int
    runtime: Runtime
    checkpoints: Checkpoints | None = None

    def __post_init__(self) -> None:
        index = self.samples.index
        for column in ("id", "label"):
            own, known = self.splits[column].to_numpy(), index[column].to_numpy()
            if not np.array_equal(own, known):
                count = sum(own != known) if len(own) == len(known) else "its number"
                raise ValueError(
                    f"the splits are not of these samples: {column!r} differs in {count} of "
                    f"{len(known)} rows. Run again --from-nodes=assign_splits"
                )

    def checkpoint(self, stage: str) -> Checkpoint | None:
        """Where a stage keeps its state."""
        return self.checkpoints.of(stage) if self.checkpoints else None

    @cached_property
    def device(self) -> torch.device:
        """The device to compute on, the process prepared for it."""
        device = resolve_device(self.runtime.device)
        prepare(device, self.runtime)
        return device

    @property
    def modalities(self) -> tuple[str, ...]:
        """All modalities, in store order."""
        return tuple(self.samples.modalities)

    def place(self, net: nn.Module) -> nn.Module:
        """Bring a net to where it is computed; see `device.place`."""
        return place(net, self.device)

    def seed_noise(self, stage: str) -> None:
        """Give dropout and the like in `stage` a seed of their own."""
        torch.manual_seed(derive_seed(self.seed, stage, "noise"))

    def batches(
        self,
        split: str,
        modalities: Iterable[str],
        batch_size: int,
        *,
        shuffle: str | None = None,
        frozen: Mapping[str, Frozen] | None = None,
        tables: Mapping[str, Tensor] | None = None,
    ) -> Batches:
        """Batches of a split; `shuffle` names the stage whose order they come in, if any."""
        return Batches(
            self.samples,
            rows_of(self.splits, split),
            modalities,
            batch_size,
            self.runtime,
            self.device,
            frozen,
            tables,
            generator(self.seed, shuffle, "order") if shuffle else None,
        )

    def train_and_valid(
        self,
        stage: str,
        settings: Training,
        modalities: Iterable[str],
        frozen: Mapping[str, Frozen] | None = None,
    ) -> tuple[Batches, Batches]:
        """The shuffled training batches and the validation batches of a stage.

        Args:
            stage: Names the order of the training batches.
            settings: Batch size.
            modalities: What the batches must carry.
            frozen: As in `Batches`, for both splits.
        """
        size = settings.batch_size
        return (
            self.batches("train", modalities, size, shuffle=stage, frozen=frozen),
            self.batches("valid", modalities, size, frozen=frozen),
        )
