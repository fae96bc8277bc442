"""Trained teachers, frozen once and heard once, for all methods that want them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from mst_distill.mst.features import Observer
from mst_distill.mst.networks import freeze, modalities_of
from mst_distill.parameters import Members
from mst_distill.training.batches import Batches, Frozen, Inputs
from mst_distill.training.run import Run
from mst_distill.training.seeding import generator

Hears = Literal["nothing", "logits", "features", "inputs"]
"""What a method wants of the teacher in every batch: nothing, its logits, those with the embedding
and the stages, or the teacher's inputs, because the teacher learns too."""

T = TypeVar("T")

Say = Callable[[Inputs], tuple[Tensor, ...]]
"""A teacher's inputs to what a method hears of it."""


class TeacherPool:
    """The teachers of one target, and what they say of its training split.

    Args:
        run: The run.
        nets: Teacher name to its trained net.
        members: Their masked layers are the stages that methods hear.
        batch_size: Samples a batch.
    """

    def __init__(
        self, run: Run, nets: Mapping[str, nn.Module], members: Members, batch_size: int
    ) -> None:
        freeze(nets.values())
        layers = {name: member.masked_layers for name, member in members.all_of(run.target).items()}
        self._run = run
        self._batch_size = batch_size
        self._teachers = {
            name: Observer(name, run.place(net), layers[name], run.samples)
            for name, net in nets.items()
        }
        self._made: dict[str, tuple[Any, float]] = {}
        self._train: dict[tuple[str, Hears], Batches] = {}
        self._valid = run.batches("valid", [run.target], batch_size)

    def teacher(self, name: str) -> Observer:
        """A frozen teacher."""
        return self._teachers[name]

    def batches(self, teacher: str, hears: Hears, stage: str) -> tuple[Batches, Batches]:
        """Training batches in the order of `stage`, with what is heard; validation batches."""
        key = (teacher, hears)
        if key not in self._train:
            self._train[key] = self._listen(teacher, hears)
        shuffle = generator(self._run.seed, stage, "order")
        return self._train[key].shuffled(shuffle), self._valid

    def told(self, teacher: str, say: Say, stage: str) -> tuple[Batches, Batches]:
        """The same for what another than the trained teacher says of its inputs."""
        shuffle = generator(self._run.seed, stage, "order")
        return self._train_with(teacher, say).shuffled(shuffle), self._valid

    def once(self, what: str, terms: Sequence[object], make: Callable[[], T]) -> tuple[T, float]:
        """What `make` makes, made for the first who asks on these terms and copied for the others.

        Returns:
            It, and the seconds that another has spent on it.
        """
        key = f"{what} {terms!r}"
        if known := self._made.get(key):
            return copy.deepcopy(known[0]), known[1]
        started = time.monotonic()
        made = make()
        seconds = time.monotonic() - started
        kept = copy.deepcopy(made)
        if isinstance(kept, dict):
            for net in kept.values():
                net.cpu()  # trials are measured by what lies on the device
        self._made[key] = kept, seconds
        return made, 0.0

    def _listen(self, teacher: str, hears: Hears) -> Batches:
        if hears == "inputs":
            sees = [self._run.target, *modalities_of(teacher, self._run.modalities)]
            return self._run.batches("train", sees, self._batch_size)
        if hears == "nothing":
            return self._run.batches("train", [self._run.target], self._batch_size)
        observer = self._teachers[teacher]

        def say(inputs: Inputs) -> tuple[Tensor, ...]:
            observed = observer(inputs)
            return (observed.logits,) if hears == "logits" else observed.tensors

        return self._train_with(teacher, say)

    def _train_with(self, teacher: str, say: Say) -> Batches:
        frozen = {"teacher": Frozen(modalities_of(teacher, self._run.modalities), say)}
        return self._run.batches("train", [self._run.target], self._batch_size, frozen=frozen)
