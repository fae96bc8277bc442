"""The arithmetic of an epoch, and the rates that a device reaches in products and convolutions.

A stage whose rate is near that of products is limited by arithmetic. Otherwise it is limited by the
traffic between processor and memory or, if a GPU is not busy all the time, by the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mst_distill.parameters import Runtime
from mst_distill.training.batches import Batches
from mst_distill.training.device import autocast, prepare, resolve_device, wide_products
from mst_distill.training.loop import Stage, fit

WIDTH = 2048
"""The number of rows and columns of the multiplied matrices."""

REPEATS = 15
"""The number of timed calls, of which the median counts."""


@dataclass(frozen=True)
class Rates:
    """The operations per second of a device; an addition and a multiplication are two.

    Attributes:
        products: In the product of two square matrices of `WIDTH` rows.
        convolutions: In a 3 x 3 convolution of 64 maps with 64 channels of 56 x 56 pixels.
    """

    products: float
    convolutions: float


def measure_rates(runtime: Runtime) -> Rates:
    """Measure the rates of the device of `runtime`, in its precision."""
    device = resolve_device(runtime.device)
    prepare(device, runtime)
    matrix = torch.randn(WIDTH, WIDTH, device=device)
    maps = torch.randn(64, 64, 56, 56, device=device)
    maps = maps.contiguous(memory_format=torch.channels_last)
    kernels = torch.randn(64, 64, 3, 3, device=device)
    kernels = kernels.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), autocast(device, runtime):
        # The project multiplies large matrices with the library that `wide_products` selects.
        with wide_products(device, nn.Linear(WIDTH, WIDTH, device="meta")):
            products = _seconds(lambda: matrix @ matrix, device)
        convolutions = _seconds(lambda: F.conv2d(maps, kernels, padding=1), device)
    return Rates(2 * WIDTH**3 / products, 2 * maps.numel() * 64 * 9 / convolutions)


def count_operations(stage: Stage, runtime: Runtime) -> float:
    """Count the operations of products and convolutions in an epoch, with its validation.

    They are counted on one batch of each split; all else in a step is proportional to the samples
    too, except for the small products that depend on the weights alone.
    """
    stage.task.trainable.train()
    with autocast(stage.train.device, runtime):
        total = _count(stage.train, stage.task.descend)
    stage.task.trainable.zero_grad()
    stage.task.trainable.eval()
    with torch.no_grad(), autocast(stage.train.device, runtime):
        return total + _count(stage.valid, stage.task.validate)


def device_seconds(stage: Stage, runtime: Runtime) -> float:
    """The seconds that a GPU computes in an epoch, with its validation: the sum of its kernels."""
    settings = stage.settings.model_copy(update={"epochs": 1})
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as profile:
        fit(replace(stage, settings=settings), runtime)
    return (
        sum(
            of.self_device_time_total
            for of in profile.key_averages()
            # Operators of the host and annotations repeat the time of their kernels.
            if str(of.device_type) == "DeviceType.CUDA" and not of.is_user_annotation
        )
        / 1e6
    )


def _count(batches: Batches, compute: Callable[..., object]) -> float:
    batch = next(iter(batches))
    with FlopCounterMode(display=False) as counter:
        compute(batch)
    return counter.get_total_flops() * batches.count / len(batch.label)


def _seconds(compute: Callable[[], object], device: torch.device) -> float:
    """The median seconds of a call."""

    def timed() -> float:
        began = time.perf_counter()
        compute()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    timed()  # the first call selects an algorithm
    return median(timed() for _ in range(REPEATS))
