"""Small samples in memory, for tests that need data but no benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch

from mst_distill.data.samples import Samples

SHAPES = {"image": (1, 8, 8), "audio": (13, 32)}
"""The shapes of the modalities in the benchmark `digits`, for which there are small nets."""


@contextmanager
def in_precision(name: str) -> Iterator[None]:
    """Inside the context, toy samples and new tensors are ``float32`` or ``float64``."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def precision_now() -> str:
    """The precision of new tensors."""
    return str(torch.get_default_dtype()).removeprefix("torch.")


def make_samples(
    n: int = 30,
    modalities: Mapping[str, tuple[int, ...]] = SHAPES,
    classes: int = 3,
    dense: tuple[int, int] | None = None,
    ignored: int | None = None,
    seed: int = 0,
) -> tuple[Samples, pd.DataFrame]:
    """Samples in which the label shifts every modality, and their table of splits, 60 / 20 / 20.

    Splits are assigned at random, so that the rows of a split are not contiguous. Labels cycle
    through the classes. Dense labels, ``(n, H, W)``, are random, and the index has -1 for them.
    Modalities have the precision of `in_precision`, by default float32.
    """
    rng = np.random.default_rng(seed)
    index = pd.DataFrame({"id": [f"s{row:03d}" for row in range(n)]})
    ends = np.round(np.array([0.6, 0.8]) * n).astype(int)
    split = np.repeat(["train", "valid", "test"], np.diff([0, *ends, n]))
    labels = np.arange(n) % classes if dense is None else rng.integers(classes, size=(n, *dense))
    index = index.assign(group=index["id"], split=rng.permutation(split))
    index["label"] = -1 if dense is not None else labels
    shift = np.arange(n) % classes if dense is None else labels.mean(axis=(1, 2))
    arrays = {
        name: (rng.normal(size=(n, *shape)) + shift.reshape(n, *[1] * len(shape))).astype(
            precision_now()
        )
        for name, shape in modalities.items()
    }
    names = tuple(f"class {label}" for label in range(classes))
    samples = Samples(index, arrays, labels.astype(np.int64), names, ignored, f"toy-{n}-{seed}")
    return samples, index[["id", "group", "label", "split"]].copy()


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """Assert that all weights and statistics of two nets are equal to the bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(a.equal(b) for a, b in pairs)
