"""The arithmetic of an epoch, counted against figures by hand, and the rates of a device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bench import rates
from bench.rates import count_operations, measure_rates
from mst_distill.data.samples import Samples
from mst_distill.parameters import Runtime, Training
from mst_distill.training.batches import Batch, Batches
from mst_distill.training.loop import Stage
from mst_distill.training.selection import SELECTION
from mst_distill.training.task import Task
from simulated_gpu import SimulatedGPU

TRAIN, VALID, WIDTH, CLASSES = 10, 6, 8, 3


class Linear(Task):
    """One linear layer."""

    def __init__(self, device: str) -> None:
        self.trainable = nn.Linear(WIDTH, CLASSES).to(device)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.trainable(batch.inputs["one"]).square().mean()}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        loss = self.losses(batch)["loss"]
        return {"accuracy": loss, "ce": loss}


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with SimulatedGPU() if request.param == "cuda" else nullcontext():
        yield request.param


def make_stage(device: str) -> Stage:
    train, valid = (batches(rows, device) for rows in (range(TRAIN), range(TRAIN, TRAIN + VALID)))
    settings = Training(epochs=1, batch_size=4, learning_rate=0.1)
    return Stage("linear", Linear(device), train, valid, settings, SELECTION)


def batches(rows: range, device: str) -> Batches:
    count = TRAIN + VALID
    index = pd.DataFrame({"id": [f"{row}" for row in range(count)]})
    arrays = {"one": np.ones((count, WIDTH), np.float32)}
    samples = Samples(index, arrays, np.zeros(count, np.int64), ("a", "b", "c"), None, "")
    return Batches(samples, np.array(rows), ["one"], 4, Runtime(), torch.device(device))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_operations_are_those_of_training_forward_and_backward_and_of_validation(
    precision: str, device: str
) -> None:
    # A sample and weight take two operations forward, and two more for the gradient of the weight.
    # The inputs have no gradient.
    expected = (4 * TRAIN + 2 * VALID) * WIDTH * CLASSES
    assert count_operations(make_stage(device), Runtime(precision=precision)) == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_rates_are_positive_and_finite(
    precision: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "REPEATS", 1)
    monkeypatch.setattr(rates, "WIDTH", 512)
    found = measure_rates(Runtime(device=device, precision=precision))
    for rate in (found.products, found.convolutions):
        assert math.isfinite(rate)
        assert rate > 1e6
