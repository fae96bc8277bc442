"""Use of a student: raw values of its modality in, labels and calibrated probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.artifacts.student_input import StudentInput
from mst_distill.deploy.answers import answer_table
from mst_distill.media.readers import Reader
from mst_distill.parameters import Runtime
from mst_distill.training.device import autocast, prepare, resolve_device


@dataclass
class Predictor:
    """A student with all that it needs to be used.

    Attributes:
        net: The student.
        student_input: How its input is read, and what its logits mean.
        reader: The reader of its modality.
        least_confidence: Samples, or pixels, with a smaller confidence get no label.
        runtime: Where the net is computed.
    """

    net: nn.Module
    student_input: StudentInput
    reader: Reader
    least_confidence: float = 0.0
    runtime: Runtime = field(default_factory=Runtime)

    def __post_init__(self) -> None:
        self._device = resolve_device(self.runtime.device)
        prepare(self._device, self.runtime)
        self.net = self.net.to(self._device).eval()

    @torch.no_grad()
    def probabilities(self, tensors: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities: softmax(logits / T), Guo et al., ICML 2017, section 4.2.

        Args:
            tensors: ``(B, *shape)`` float32, from the reader.

        Returns:
            ``(B, C)`` or, for dense labels, ``(B, C, H, W)``, float64.
        """
        inputs = torch.from_numpy(tensors).to(self._device)
        with autocast(self._device, self.runtime):
            logits: Tensor = self.net(inputs)
        scaled = logits.double() / self.student_input.temperature
        probabilities: np.ndarray = scaled.softmax(dim=1).cpu().numpy()
        return probabilities

    def predict(self, values: Sequence[Any]) -> tuple[pd.DataFrame, list[np.ndarray | None]]:
        """Read and classify some raw values; one that cannot be read does not stop the others.

        Args:
            values: n raw values, see `Reader.takes`.

        Returns:
            A table with n rows, and for dense labels n maps of classes, see `answer_table`.

        Raises:
            ValueError: The reader returned another shape than that of the training.
        """
        tensors, errors = self.reader.read_readable(values)
        description = self.student_input
        shape = tuple(description.shape)
        if tensors is None:
            pixels = shape[-2:] if description.dense else ()
            nothing = np.empty((0, len(description.classes), *pixels))
            return answer_table(nothing, errors, description.classes)
        if tensors.shape[1:] != shape:
            raise ValueError(
                f"the reader returned the shape {tensors.shape[1:]}, but the student was trained "
                f"on {shape}"
            )
        return answer_table(
            self.probabilities(tensors), errors, description.classes, self.least_confidence
        )
