"""The check of an export: its files against the eager net, on random inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mst_distill.deploy.predict import Student

BATCHES = (1, 2, 5)

DIFFERENCE = 1e-4
"""The largest difference of two logits, relative to the largest logit, that rounding explains.
The nets of the benchmarks have up to 3e-6."""

SHARE_OF_PIXELS = 1e-3
"""The share of pixels that rounding may give another class. Of samples with one label, none may."""

Sizes = tuple[tuple[int, ...], ...]
"""Shapes of inputs, with the batch."""


def sizes_to_check(shape: tuple[int, ...], multiple: int | None) -> Sizes:
    """Return the shapes of the inputs on which an export is checked.

    Args:
        shape: Shape of one tensor, ``(C, H, W)`` if height and width are free.
        multiple: The number of which a free height and width are multiples; None if they are fixed.
    """
    if multiple is None:
        return tuple((batch, *shape) for batch in BATCHES)
    small = (shape[0], 2 * multiple, multiple)
    return ((1, *shape), *((batch, *small) for batch in BATCHES[1:]))


def check_export(net: nn.Module, folder: Path, sizes: Sizes, dense: bool) -> dict[str, Any]:
    """Compare the ONNX and the pt2 of a folder with the net from which they were exported.

    Args:
        net: The net, in eval mode on the CPU.
        folder: The folder with ``student.onnx``, ``student.pt2`` and ``student_input.json``.
        sizes: From `sizes_to_check`.
        dense: Whether the logits have a class for every pixel.

    Returns:
        For each file the largest ``difference`` of two logits, relative to the largest logit, and
        the ``share_of_other_classes`` among samples, or among pixels; ``allowed`` has the largest
        permitted values, None for any. JSON values.

    Raises:
        ValueError: A file differs by more than that; the message names the file and the values.
    """
    inputs = list(_random_inputs(sizes))
    with torch.no_grad():
        expected = [net(tensors).numpy() for tensors in inputs]
    student = Student(folder)
    found = {
        "student.onnx": (student.logits(tensors.numpy()) for tensors in inputs),
        "student.pt2": _logits_of_program(folder / "student.pt2", inputs),
    }
    allowed = {
        "difference": None if unpools(net) else DIFFERENCE,
        "share_of_other_classes": SHARE_OF_PIXELS if dense else 0.0,
    }
    measured = {file: _compare(expected, logits) for file, logits in found.items()}
    for file, values in measured.items():
        for name, value in values.items():
            limit = allowed[name]
            if limit is not None and not value <= limit:  # a comparison with NaN is false
                raise ValueError(
                    f"{file} of {type(net).__qualname__} is not the net that was exported: on "
                    f"random inputs its {name} is {value:.2g}, and at most {limit:g} is allowed"
                )
    return {**measured, "inputs": [list(size) for size in sizes], "allowed": allowed}


def unpools(net: nn.Module) -> bool:
    """Whether a net may differ from itself by more than rounding.

    Of two nearly equal maxima in a window of max pooling, rounding selects one, and max unpooling
    puts the value in its place. PyTorch with channels first differs in this way from PyTorch with
    channels last. The classes of the pixels are hardly affected.
    """
    kinds = (nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d)
    return any(isinstance(module, kinds) for module in net.modules())


def _random_inputs(sizes: Sizes) -> Iterator[Tensor]:
    rng = np.random.default_rng(0)
    for size in sizes:
        yield torch.from_numpy(rng.standard_normal(size, np.float32))


def _logits_of_program(file: Path, inputs: Iterable[Tensor]) -> Iterator[np.ndarray]:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of PyTorch, about its own buffers
        program = torch.export.load(file).module()
        for tensors in inputs:
            yield program(tensors).numpy()


def _compare(expected: Iterable[np.ndarray], found: Iterable[np.ndarray]) -> dict[str, float]:
    """Compare logits of several batches, with the classes along axis 1."""
    differences, others = [], []
    for ours, theirs in zip(expected, found, strict=True):
        largest = max(float(np.abs(ours).max()), float(np.finfo(np.float32).tiny))
        differences.append(float(np.abs(ours - theirs).max()) / largest)
        others.append((ours.argmax(axis=1) != theirs.argmax(axis=1)).ravel())
    return {
        "difference": float(np.max(differences)),
        "share_of_other_classes": float(np.concatenate(others).mean()),
    }
