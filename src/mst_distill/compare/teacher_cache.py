"""Frozen teachers, evaluated once for all methods that read the same output."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from torch import nn

from mst_distill.mst.features import FeatureExtractor
from mst_distill.mst.networks import forward, freeze, modalities_of
from mst_distill.parameters import Members
from mst_distill.training.batches import Batches, Frozen
from mst_distill.training.run import Run
from mst_distill.training.seeding import Stream, generator

TeacherInputs = Literal["nothing", "logits", "features", "inputs"]
"""What every batch carries from the teacher: nothing; its logits; its logits, embedding and stages;
or, for a teacher that is trained too, its inputs."""

T = TypeVar("T")


class TeacherPool:
    """The teachers of one target, trained or given, and their outputs for its training split.

    Args:
        run: Data, target, seed, device and given teachers.
        nets: Teacher name to its trained net.
        members: Their masked layers are the stages that methods read.
        batch_size: Samples in a batch.
    """

    def __init__(
        self, run: Run, nets: Mapping[str, nn.Module], members: Members, batch_size: int
    ) -> None:
        freeze(nets.values())
        layers = {name: member.masked_layers for name, member in members.all_of(run.target).items()}
        self._run = run
        self._batch_size = batch_size
        self._teachers = {
            name: FeatureExtractor(name, run.place(net), layers[name], run.samples)
            for name, net in nets.items()
        }
        for of in run.given.values():
            run.place(of.net)
        self._computed: dict[str, tuple[Any, float]] = {}
        self._train: dict[tuple[str, TeacherInputs], Batches] = {}
        self._valid = run.batches("valid", [run.target], batch_size)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all teachers: the trained ones, followed by the given ones."""
        return (*self._teachers, *self._run.given)

    def teacher(self, name: str) -> FeatureExtractor:
        """Return a teacher that was trained."""
        return self._teachers[name]

    def reads(self, name: str) -> tuple[str, ...]:
        """Return the names of the inputs of a teacher or of another member."""
        return modalities_of(self._run.member_of(name), self._run.modalities)

    def logits(self, name: str) -> Frozen:
        """Return the logits of a teacher as a computation that no training step changes."""
        if name in self._run.given:
            given = self._run.given[name]
            return Frozen(
                self.reads(name), lambda inputs: (forward(given.net, given.member, inputs),)
            )
        extractor = self._teachers[name]
        return Frozen(self.reads(name), lambda inputs: (extractor(inputs).logits,))

    def batches(
        self,
        teacher: str,
        teacher_inputs: TeacherInputs,
        stage: str,
        labelled_share: float | None = None,
    ) -> tuple[Batches, Batches]:
        """Return training batches with `teacher_inputs`, in the order of `stage`, and validation.

        Validation batches carry nothing from the teacher. `labelled_share` is the share of samples
        with a label in each training batch, see `Batches`.
        """
        key = (teacher, teacher_inputs)
        if key not in self._train:
            self._train[key] = self._train_batches(teacher, teacher_inputs)
        shuffle = generator(self._run.seed, stage, Stream.ORDER)
        return self._train[key].shuffled(shuffle, labelled_share), self._valid

    def batches_with(
        self, frozen: Frozen, stage: str, labelled_share: float | None = None
    ) -> tuple[Batches, Batches]:
        """Return the same with the output of `frozen` in place of a teacher's."""
        shuffle = generator(self._run.seed, stage, Stream.ORDER)
        train = self._batches([self._run.target], {"teacher": frozen})
        return train.shuffled(shuffle, labelled_share), self._valid

    def compute_once(
        self, name: str, parameters: Sequence[object], compute: Callable[[], T]
    ) -> tuple[T, float]:
        """Compute a result on the first call with these parameters; later calls get a copy.

        Returns:
            The result, and the seconds that an earlier call spent on it.
        """
        key = f"{name} {parameters!r}"
        if known := self._computed.get(key):
            return copy.deepcopy(known[0]), known[1]
        started = time.monotonic()
        result = compute()
        seconds = time.monotonic() - started
        stored = copy.deepcopy(result)
        if isinstance(stored, dict):
            for net in stored.values():
                net.cpu()  # on the device it would count in the peak memory of later trials
        self._computed[key] = stored, seconds
        return result, 0.0

    def _train_batches(self, teacher: str, teacher_inputs: TeacherInputs) -> Batches:
        if teacher_inputs == "inputs":
            return self._batches([self._run.target, *self.reads(teacher)])
        if teacher_inputs == "nothing":
            return self._batches([self._run.target])
        frozen = self.logits(teacher)
        if teacher_inputs == "features":
            extractor = self._teachers[teacher]
            frozen = Frozen(frozen.modalities, lambda inputs: extractor(inputs).tensors)
        return self._batches([self._run.target], {"teacher": frozen})

    def _batches(
        self, modalities: Sequence[str], frozen: Mapping[str, Frozen] | None = None
    ) -> Batches:
        """Batches of the training samples that the student can see."""
        run = self._run
        return run.batches(
            "train",
            modalities,
            self._batch_size,
            frozen=frozen,
            needed=[run.target],
            in_views=True,
        )
