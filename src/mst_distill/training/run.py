"""A run as its stages use it: data, target, seed and device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.artifacts.checkpoint import Checkpoint, Checkpoints
from mst_distill.data.samples import (
    UNLABELLED,
    Samples,
    are_unlabelled,
    rows_having,
)
from mst_distill.metric import ACCURACY, Metric
from mst_distill.parameters import Runtime, Training, TrainingRecipe
from mst_distill.training.batches import Batches, Frozen, Labels
from mst_distill.training.device import place, prepare, resolve_device
from mst_distill.training.seeding import Stream, derive_seed, generator
from mst_distill.training.views import Views


@dataclass(frozen=True)
class GivenNet:
    """A teacher that exists already, as a frozen net.

    Attributes:
        net: The net.
        member: The member whose inputs it takes: ``multimodal`` or a modality; or the name of the
            teacher itself, if it reads what is recorded.
        masked_layers: The layers of the net that get masks.
    """

    net: nn.Module
    member: str
    masked_layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One run: one data set, one target, one seed.

    Attributes:
        samples: The store.
        splits: The run's table of splits, in store order.
        target: The modality that the student reads.
        seed: The seed from which all random numbers derive.
        runtime: Device, precision and memory use.
        checkpoints: The folder in which the stages save their state, if any.
        recipe: How nets are trained.
        given: The teachers that exist already, by name.
        metric: The metric that decides.

    Raises:
        ValueError: The table of splits does not belong to these samples, or the metric is not
            defined for them.
    """

    samples: Samples
    splits: pd.DataFrame
    target: str
    seed: int
    runtime: Runtime
    checkpoints: Checkpoints | None = None
    recipe: TrainingRecipe = field(default_factory=TrainingRecipe)
    given: Mapping[str, GivenNet] = field(default_factory=dict)
    metric: Metric = ACCURACY

    def __post_init__(self) -> None:
        self.metric.check(len(self.samples.classes), self.samples.dense)
        index = self.samples.index
        for column in ("id", "label"):
            own, known = self.splits[column].to_numpy(), index[column].to_numpy()
            if not np.array_equal(own, known):
                count = sum(own != known) if len(own) == len(known) else "the number"
                raise ValueError(
                    f"the splits do not belong to these samples: {column!r} differs in {count} of "
                    f"the rows, of which the store has {len(known)}. Run again "
                    f"--from-nodes=ingest.assign_splits"
                )

    def checkpoint(self, stage: str) -> Checkpoint | None:
        """The checkpoint of a stage, if the run has checkpoints."""
        return self.checkpoints.of(stage) if self.checkpoints else None

    @cached_property
    def device(self) -> torch.device:
        """The device to compute on. The first access prepares the process for it."""
        device = resolve_device(self.runtime.device)
        prepare(device, self.runtime)
        return device

    @cached_property
    def unlabelled(self) -> np.ndarray | None:
        """``(N,)``, whether the label of each sample is unknown or must not be used; else None.

        None stands for labels that may all be used.
        """
        hidden = are_unlabelled(self.samples, self.splits)
        return hidden if hidden.any() else None

    @property
    def ignored(self) -> int | None:
        """The label that is no target: of ignored pixels, and of samples without a label.

        It also stands for the label of a sample that a member cannot see. None if every label of a
        batch is a target of every member.
        """
        if self.samples.ignored_label is not None:
            return self.samples.ignored_label
        return None if self.unlabelled is None and not self.samples.present else UNLABELLED

    @cached_property
    def views(self) -> Views | None:
        """The views of training samples; None if the recipe has none but the samples themselves.

        Raises:
            ValueError, TypeError: As in `Views`.
        """
        return Views(self.samples, self.recipe, self.seed) if self.recipe.views > 1 else None

    @property
    def modalities(self) -> tuple[str, ...]:
        """All modalities, in store order."""
        return tuple(self.samples.modalities)

    @property
    def inputs(self) -> tuple[str, ...]:
        """All modalities, and what given teachers read in addition."""
        return tuple(self.samples.inputs)

    def member_of(self, teacher: str) -> str:
        """The member whose inputs a teacher takes; a member takes its own."""
        return self.given[teacher].member if teacher in self.given else teacher

    def place(self, net: nn.Module) -> nn.Module:
        """Move a net to the device; see `device.place`."""
        return place(net, self.device, self.runtime)

    def seed_noise(self, stage: str) -> None:
        """Seed the random numbers of layers such as dropout for `stage`."""
        torch.manual_seed(derive_seed(self.seed, stage, Stream.NOISE))

    def rows(self, split: str, needed: Iterable[str] = ()) -> np.ndarray:
        """The store rows of the samples of a split that have all needed modalities, ascending.

        Without their labels, samples of ``valid`` and ``test`` are left out; see `rows_of`.
        """
        return rows_having(self.samples, self.splits, split, needed)

    def batches(
        self,
        split: str,
        modalities: Iterable[str],
        batch_size: int,
        *,
        shuffle: str | None = None,
        frozen: Mapping[str, Frozen] | None = None,
        tables: Mapping[str, Tensor] | None = None,
        labelled_share: float | None = None,
        needed: Iterable[str] | None = None,
        in_views: bool = False,
    ) -> Batches:
        """Batches of a split, in the order of the stage `shuffle`, or unshuffled if it is None.

        Args:
            split: The split.
            modalities: As in `Batches`.
            batch_size: As in `Batches`.
            shuffle: The stage.
            frozen: As in `Batches`.
            tables: As in `Batches`.
            labelled_share: The share of samples with a label in each batch; see `Batches`.
            needed: The modalities without which a sample is left out; by default, all that are
                read, also by `frozen`.
            in_views: Whether a student learns from these batches, so that they have the views of
                the recipe.
        """
        modalities = list(modalities)
        if needed is None:
            needed = [*modalities, *(m for of in (frozen or {}).values() for m in of.modalities)]
        rows = self.rows(split, needed)
        labels = None
        if self.unlabelled is not None and self.unlabelled[rows].any():
            assert self.ignored is not None
            labels = Labels(self.unlabelled[rows], self.ignored, labelled_share)
        return Batches(
            self.samples,
            rows,
            modalities,
            batch_size,
            self.runtime,
            self.device,
            frozen,
            tables,
            generator(self.seed, shuffle, Stream.ORDER) if shuffle else None,
            labels,
            self.views if in_views else None,
        )

    def train_and_valid(
        self,
        stage: str,
        settings: Training,
        modalities: Iterable[str],
        frozen: Mapping[str, Frozen] | None = None,
        labelled_share: float | None = None,
        needed: Iterable[str] | None = None,
    ) -> tuple[Batches, Batches]:
        """The shuffled training batches and the unshuffled validation batches of a stage.

        Args:
            stage: The stage; it decides the order of the training batches.
            settings: Batch size.
            modalities: The modalities that the batches must carry.
            frozen: As in `Batches`, for both splits.
            labelled_share: The share of samples with a label in each training batch; see `Batches`.
            needed: As in `batches`, for the training split. Validation samples have all modalities
                that are read.
        """
        size = settings.batch_size
        return (
            self.batches(
                "train",
                modalities,
                size,
                shuffle=stage,
                frozen=frozen,
                labelled_share=labelled_share,
                needed=needed,
                in_views=True,
            ),
            self.batches("valid", modalities, size, frozen=frozen),
        )
