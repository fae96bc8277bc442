"""Seeds for the randomness of training, derived from the seed of the run and from names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

import torch


class Stream(StrEnum):
    """The names of the random streams.

    The values are part of every result: a value that is changed changes the numbers of all runs. A
    stage or a function can be renamed, and the value stays. A compared method whose class is
    renamed keeps its numbers if its ``seed_key`` is set to the old name.

    Splits of the protocol ``random`` and the resamples of the bootstrap use the seed of the run
    itself.
    """

    MEMBER = "member"
    """Start weights of a network; followed by the name of the member."""

    LAZY_LAYERS = "lazy layers"
    """Start weights of lazy layers, which are created in the first forward pass."""

    MASK = "mask"
    """Start weights of a mask; followed by the teacher and the layer."""

    ROUTER = "router"
    """Start weights of the router."""

    ORDER = "order"
    """Order of the training batches; preceded by the stage."""

    NOISE = "noise"
    """Random layers such as dropout; preceded by the stage."""

    VIEW = "view"
    """The transforms of a sample; followed by the modality, the sample's id and the view."""

    TEACHERS = "teachers"
    """Stage 1."""

    MASKS = "masks"
    """Stage 2."""

    ROUTE = "route"
    """Stage 3."""

    PEER = "peer"
    """Start weights of a second net of the student's class, for compared methods."""

    COMPARE = "compare"
    """A trial of a compared method; followed by the method's ``seed_key`` and the teacher."""

    TEACHER = "teacher"
    """The training of a teacher for compared methods; followed by its name."""

    DIAGNOSED_SAMPLES = "diagnose"
    """Which held-out samples are diagnosed."""

    SALIENCY_BY_CHANCE = "gaze by chance"
    """The permutation that shows what overlap of saliency maps chance gives."""

    CKA_BY_CHANCE = "cka by chance"
    """The permutations that show what CKA chance gives."""

    RELIANCE = "reliance"
    """The permutations of a modality; followed by the modality and the number of the repeat."""


def derive_seed(seed: int, *names: str) -> int:
    """Derive a seed in [0, 2^63) from the seed of a run and names, usually of `Stream`.

    Different names give unrelated seeds. The student therefore starts from the same weights
    whatever other members are trained with it, and the baseline sees the same batches as the
    student.
    """
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def seeded(seed: int, *names: str) -> Iterator[None]:
    """Draw random numbers on the CPU from `derive_seed` inside the context, and restore the state.

    `torch.manual_seed` would also seed the generators of all GPUs, which nothing would restore.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *names))
        yield


def generator(seed: int, *names: str) -> torch.Generator:
    """Create a CPU generator that is seeded with `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))
