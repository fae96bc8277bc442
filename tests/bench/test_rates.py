"""The arithmetic of an epoch, counted against figures by hand, and the rates of a device."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bench.rates import count_operations, measure_rates
from mst_distill.data.samples import Samples
from mst_distill.parameters import Runtime, Training
from mst_distill.training.batches import Batch, Batches
from mst_distill.training.loop import Stage
from mst_distill.training.task import Task

TRAIN, VALID, WIDTH, CLASSES = 10, 6, 8, 3


class Linear(Task):
    """One linear layer."""

    def __init__(self) -> None:
        self.trainable = nn.Linear(WIDTH, CLASSES)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.trainable(batch.inputs["one"]).square().mean()}

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        return self.losses(batch)


def batches(rows: range) -> Batches:
    count = TRAIN + VALID
    index = pd.DataFrame({"id": [f"{row}" for row in range(count)]})
    arrays = {"one": np.ones((count, WIDTH), np.float32)}
    samples = Samples(index, arrays, np.zeros(count, np.int64), ("a", "b", "c"), None, "")
    return Batches(samples, np.array(rows), ["one"], 4, Runtime(), torch.device("cpu"))


def test_operations_are_those_of_training_forward_and_backward_and_of_validation() -> None:
    train, valid = batches(range(TRAIN)), batches(range(TRAIN, TRAIN + VALID))
    settings = Training(epochs=1, batch_size=4, learning_rate=0.1)
    stage = Stage("linear", Linear(), train, valid, settings, {})
    # A sample and weight take two operations forward, and two more for the gradient of the weight.
    # The inputs have no gradient.
    assert count_operations(stage) == (4 * TRAIN + 2 * VALID) * WIDTH * CLASSES


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_rates_are_positive_and_finite(precision: str) -> None:
    rates = measure_rates(Runtime(device="cpu", precision=precision))
    for rate in (rates.products, rates.convolutions):
        assert math.isfinite(rate)
        assert rate > 1e6
