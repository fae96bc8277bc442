"""A batch that does not fit in the GPU's memory is computed in micro-batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from mst_distill.training.memory import is_out_of_memory

log = logging.getLogger(__name__)

T = TypeVar("T")

SMALLEST = 3
"""The smallest limit on the size of a micro-batch.

With a limit of 3 every batch can be split evenly without a micro-batch of a single sample, which
has no batch statistics. With a limit of 2, a batch of 3 samples could not.
"""


class MicroBatcher:
    """Splits batches into as few micro-batches as memory allows.

    At first, batches are whole. Whenever memory runs out, the limit on the size of a micro-batch is
    halved, and it stays halved for all later batches.

    Args:
        title: What is computed, for the log.

    Attributes:
        size: The largest number of samples in a micro-batch, or None if batches are whole.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.size: int | None = None

    def each(
        self, count: int, work: Callable[[Tensor], T], undo: Callable[[], None] | None = None
    ) -> list[T]:
        """Apply `work` to every micro-batch of a batch and return the results in order.

        No micro-batch has a single sample, unless the batch itself has.

        Args:
            count: Samples in the batch.
            work: Receives the indices of a micro-batch's samples in the batch, from 0.
            undo: Reverts the effects of the micro-batches that were computed before memory ran out.
                Afterwards all micro-batches are computed again.

        Raises:
            torch.OutOfMemoryError: A micro-batch of at most `SMALLEST` samples does not fit.
        """
        while True:
            number = math.ceil(count / (self.size or count))
            try:
                return [work(indices) for indices in torch.arange(count).tensor_split(number)]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(math.ceil(count / number), error)
            # The error's traceback references the tensors of the failed attempt. They can be freed
            # only here, after the `except` block has released the error.
            if undo:
                undo()
            torch.cuda.empty_cache()

    def _halve(self, tried: int, error: RuntimeError) -> None:
        if tried <= SMALLEST:
            raise torch.OutOfMemoryError(
                f"{self.title}: a micro-batch of {tried} samples does not fit in the GPU's memory, "
                f"and smaller ones may have no batch statistics: choose smaller nets or "
                f"runtime.device=cpu"
            ) from error
        self.size = max(SMALLEST, math.ceil(tried / 2))
        log.warning(
            "%s: %d samples do not fit in the GPU's memory at once. From now on a micro-batch has "
            "at most %d samples. The batch size is unchanged, but batch statistics are those of "
            "the micro-batches",
            *(self.title, tried, self.size),
        )
