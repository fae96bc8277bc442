"""Small nets for the default members of own data; input widths follow from the first batch.

A net is a branch, which turns its input into a vector of `hidden` features, and a head of two
linear layers. The multimodal net concatenates the features of a branch for each modality.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

HIDDEN = 64
"""Width of the layers that get masks. A mask has about F^3 / factor weights for a width F."""


class VectorBranch(nn.Module):
    """A vector ``(B, F)`` to features ``(B, hidden)``.

    Args:
        hidden: Width of the features.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = nn.LazyLinear(hidden)

    def forward(self, vector: Tensor) -> Tensor:
        """Map ``(B, F)`` to ``(B, hidden)``."""
        return self.dense(vector).relu()


class SequenceBranch(nn.Module):
    """A sequence ``(B, C, T)`` to features ``(B, hidden)``: three convolutions, mean over time.

    Args:
        hidden: Width of the features.
    """

    widths = (32, 64)

    def __init__(self, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (*self.widths, hidden):
            layers += [
                nn.LazyConv1d(width, 3, padding=1, bias=False),
                nn.BatchNorm1d(width),
                nn.MaxPool1d(2, ceil_mode=True),
                nn.ReLU(),
            ]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, sequence: Tensor) -> Tensor:
        """Map ``(B, C, T)`` to ``(B, hidden)``."""
        return self.convolutions(sequence).mean(dim=2)


class MapBranch(nn.Module):
    """A map ``(B, C, H, W)`` to features ``(B, hidden)``: four convolutions, mean over positions.

    Args:
        hidden: Width of the features.
    """

    channels_last = True
    widths = (16, 32, 64)

    def __init__(self, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (*self.widths, hidden):
            layers += [
                nn.LazyConv2d(width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.MaxPool2d(2, ceil_mode=True),
                nn.ReLU(),
            ]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, hidden)``."""
        return self.convolutions(image).mean(dim=(2, 3))


BRANCHES: Mapping[str, type[VectorBranch] | type[SequenceBranch] | type[MapBranch]] = {
    "vector": VectorBranch,
    "sequence": SequenceBranch,
    "map": MapBranch,
}


class _Net(nn.Module):
    """The net of one modality; a subclass states the kind of its branch.

    Args:
        classes: Width of the logits.
        hidden: Width of the features and of the layer `hidden`.
    """

    kind: ClassVar[str]

    def __init__(self, classes: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.branch = BRANCHES[self.kind](hidden)
        self.hidden = nn.Linear(hidden, hidden)
        self.logits = nn.Linear(hidden, classes)

    def forward(self, values: Tensor) -> Tensor:
        """Map ``(B, ...)`` to logits ``(B, classes)``."""
        return self.logits(self.hidden(self.branch(values)).relu())


class VectorNet(_Net):
    """The net of a vector ``(B, F)``: features of an encoder, or numbers."""

    kind = "vector"


class SequenceNet(_Net):
    """The net of a sequence ``(B, C, T)``, such as MFCC."""

    kind = "sequence"


class MapNet(_Net):
    """The net of a map ``(B, C, H, W)``: an image or a spectrogram."""

    kind = "map"


class LateFusionNet(nn.Module):
    """The multimodal teacher: the features of a branch for each modality, concatenated.

    Args:
        classes: Width of the logits.
        branches: Modality to the kind of its branch: vector, sequence or map.
        hidden: Width of each modality's features, and of the layer `hidden`.

    Raises:
        ValueError: A kind of branch does not exist.
    """

    def __init__(self, classes: int, branches: Mapping[str, str], hidden: int = HIDDEN) -> None:
        super().__init__()
        for name, kind in branches.items():
            if kind not in BRANCHES:
                raise ValueError(
                    f"the branch of {name!r} is {kind!r}; it must be one of {', '.join(BRANCHES)}"
                )
        self.modalities = tuple(branches)
        self.branches = nn.ModuleDict(
            {f"of_{name}": BRANCHES[kind](hidden) for name, kind in branches.items()}
        )
        self.fusion = nn.Identity()
        self.hidden = nn.Linear(hidden * len(branches), hidden)
        self.logits = nn.Linear(hidden, classes)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Map one ``(B, ...)`` for each modality, by name, to logits ``(B, classes)``."""
        features = [self.branches[f"of_{name}"](inputs[name]) for name in self.modalities]
        fused = self.fusion(torch.cat(features, dim=1))
        return self.logits(self.hidden(fused).relu())
