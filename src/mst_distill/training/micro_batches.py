"""Where a batch is too much for the GPU's memory, it is computed in parts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

T = TypeVar("T")

SMALLEST = 3
"""Into parts of at most so many every batch can be cut without one of a single sample left over."""


class Parts:
    """Cuts batches into as few parts as memory allows.

    It begins with whole batches. Whenever memory runs out, parts are half as large from then on.

    Args:
        title: Of what is computed, for the log.

    Attributes:
        size: The most samples of a part, or None for all of a batch.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.size: int | None = None

    def each(
        self, count: int, work: Callable[[Tensor], T], undo: Callable[[], None] | None = None
    ) -> list[T]:
        """What `work` makes of every part of a batch; none has a single sample of several.

        Args:
            count: Samples in the batch.
            work: Is given a part's places in the batch, from 0.
            undo: Takes back what some parts have left before memory ran out; then all are begun
                anew.

        Raises:
            torch.OutOfMemoryError: So few are too much too that batch statistics want no fewer.
        """
        while True:
            number = math.ceil(count / (self.size or count))
            try:
                return [work(part) for part in torch.arange(count).tensor_split(number)]
            except torch.OutOfMemoryError as error:
                self._halve(math.ceil(count / number), error)
            # Only here has the error let go of the tensors that it held.
            if undo:
                undo()
            torch.cuda.empty_cache()

    def _halve(self, tried: int, error: torch.OutOfMemoryError) -> None:
        if tried <= SMALLEST:
            raise torch.OutOfMemoryError(
                f"{self.title}: a part of {tried} samples is too much for the GPU's memory, and "
                f"smaller ones may have no batch statistics: choose smaller nets or "
                f"runtime.device=cpu"
            ) from error
        self.size = max(SMALLEST, math.ceil(tried / 2))
        log.warning(
            "%s: %d samples at once are too much for the GPU's memory; from here on there are %d "
            "at most. A batch has as many as before, but batch statistics are those of its parts",
            *(self.title, tried, self.size),
        )
