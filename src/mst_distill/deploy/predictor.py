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
            A table with n rows and the columns ``label`` (empty where the student abstains and for
            dense labels), ``confidence``, ``p:CLASS`` for each class (for dense labels the means
            over the pixels) and ``error``; and for dense labels the position of the class of each
            pixel, ``(H, W)`` bytes, 255 where the student abstains.
        """
        tensors, errors = self.reader.read_readable(values)
        readable = [row for row in range(len(values)) if row not in errors]
        if tensors is not None and tensors.shape[1:] != tuple(self.student_input.shape):
            raise ValueError(
                f"the reader returned the shape {tensors.shape[1:]}, but the student was trained "
                f"on {tuple(self.student_input.shape)}"
            )
        table = pd.DataFrame(
            {
                "label": pd.Series("", index=range(len(values)), dtype=object),
                "confidence": np.nan,
                **{f"p:{name}": np.nan for name in self.student_input.classes},
                "error": [errors.get(row, "") for row in range(len(values))],
            }
        )
        maps: list[np.ndarray | None] = [None] * len(values)
        if tensors is None:
            return table, maps
        probabilities = self.probabilities(tensors)
        confidence, best = probabilities.max(axis=1), probabilities.argmax(axis=1)
        if self.student_input.dense:
            classes = np.where(confidence < self.least_confidence, 255, best).astype(np.uint8)
            for row, pixels in zip(readable, classes, strict=True):
                maps[row] = pixels
            probabilities = probabilities.mean(axis=(2, 3))
            confidence = confidence.mean(axis=(1, 2))
        else:
            names = np.array(self.student_input.classes, dtype=object)[best]
            table.loc[readable, "label"] = np.where(confidence < self.least_confidence, "", names)
        table.loc[readable, "confidence"] = confidence
        table.loc[readable, [f"p:{name}" for name in self.student_input.classes]] = probabilities
        return table, maps
