"""Nets of a few hundred weights, and nets that are difficult to cut or invalid."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Image(nn.Module):
    """Images ``(B, 1, 8, 8)`` to class logits; the output of one layer is a map."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Linear(8 * 64, 12)
        self.last = nn.Linear(12, classes)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.act(self.norm(self.conv(image)))
        return self.last(self.second(hidden.flatten(1)).relu())


class Small(nn.Module):
    """Images ``(B, 1, 8, 8)`` to class logits by two matrices."""

    def __init__(self, classes: int, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(64, width)
        self.last = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.first(image.flatten(1)).relu())


class Audio(nn.Module):
    """MFCC frames ``(B, 13, 32)`` to class logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(13 * 32, 12)
        self.second = nn.Linear(12, 12)
        self.last = nn.Linear(12, classes)

    def forward(self, audio: Tensor) -> Tensor:
        return self.last(self.second(self.first(audio.flatten(1)).relu()).relu())


class Fusion(nn.Module):
    """Any number of modalities to class logits."""

    def __init__(self, classes: int, widths: dict[str, int]) -> None:
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Linear(width, 8) for name, width in widths.items()})
        self.fusion = nn.Identity()
        self.hidden = nn.Linear(8 * len(widths), 12)
        self.last = nn.Linear(12, classes)

    def forward(
        self, image: Tensor, audio: Tensor | None = None, text: Tensor | None = None
    ) -> Tensor:
        inputs = {"image": image, "audio": audio, "text": text}
        projected = [project(inputs[name].flatten(1)) for name, project in self.project.items()]
        fused = self.fusion(torch.cat(projected, dim=1).relu())
        return self.last(self.hidden(fused).relu())


class Dense(nn.Module):
    """Maps ``(B, C, H, W)`` to logits ``(B, classes, H, W)``, by max pooling and unpooling."""

    def __init__(self, classes: int, channels: int = 1) -> None:
        super().__init__()
        self.encode = nn.Conv2d(channels, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.unpool = nn.MaxUnpool2d(2)
        self.last = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled, indices = self.pool(self.encode(x).relu())
        return self.last(self.unpool(self.middle(pooled).relu(), indices))


class DenseFusion(nn.Module):
    """RGB and depth to dense logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.rgb = nn.Conv2d(3, 8, 3, padding=1)
        self.depth = nn.Conv2d(1, 8, 3, padding=1)
        self.fused = nn.Identity()
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, classes, 1)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        both = self.fused((self.rgb(rgb) + self.depth(depth)) / 2)
        return self.last(self.middle(both.relu()).relu())


class Skip(nn.Module):
    """A skip connection crosses the cut in addition to the output of the masked layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(64, 12)
        self.second = nn.Linear(12, 12)
        self.last = nn.Linear(12, classes)

    def forward(self, image: Tensor) -> Tensor:
        early = self.first(image.flatten(1))
        return self.last(self.second(early.relu()) + early)


class BatchSizeInTrunk(Skip):
    """Reads the batch size before the cut: the number crosses and cannot be cached."""

    def forward(self, image: Tensor) -> Tensor:
        size = image.shape[0]
        hidden = self.first(image.reshape(size, 64))
        return self.last(self.second(hidden.relu()).reshape(size, 12))


class Untraceable(Skip):
    """Branches on the values of the data, which tracing cannot follow."""

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.first(image.flatten(1))
        if hidden.sum() > 1e9:
            hidden = -hidden
        return self.last(self.second(hidden.relu()))


class LayerCalledTwice(Skip):
    """Calls a layer twice."""

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.second(self.second(self.first(image.flatten(1))))
        return self.last(hidden)


class InPlace(Skip):
    """Changes the masked features in place, by a function that tracing can correct."""

    def forward(self, image: Tensor) -> Tensor:
        hidden = nn.functional.relu(self.first(image.flatten(1)), inplace=True)
        hidden = nn.functional.relu(self.second(hidden), inplace=True)
        return self.last(hidden)


class Stubborn(nn.Module):
    """Images to seven classes, whatever `classes` is."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.last = nn.Linear(64, 7)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(image.flatten(1))


class UnusedLayer(Skip):
    """Does not call one of its layers."""

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.first(image.flatten(1)))


class TupleOutput(Skip):
    """Outputs a tuple instead of logits."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(image), image


class RaisingForward(Skip):
    """Raises an error for two samples."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) / (1 // (len(image) - 2))


class OptionalInput(Skip):
    """Has an optional input, for which tracing follows the wrong branch."""

    def forward(self, image: Tensor, weight: Tensor | None = None) -> Tensor:
        hidden = self.first(image.flatten(1))
        if weight is not None:
            hidden = hidden * weight
        return self.last(self.second(hidden.relu()))


class InPlaceMethod(Skip):
    """Changes the masked features in place, by a method without a keyword to prevent it."""

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.first(image.flatten(1)).relu_()
        return self.last(self.second(hidden).relu_())


class OnePixel(nn.Module):
    """A map of one pixel ``(B, 8, 1, 1)``, as after a global average, and a residual connection."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 8)
        self.mix = nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(8, classes)

    def forward(self, image: Tensor) -> Tensor:
        pixel = self.conv(image)
        return self.last((pixel + self.mix(pixel.relu())).flatten(1))


class OnePixelAside(OnePixel):
    """Adds the pixel to an unmasked map, to which a mask of another shape would be broadcast."""

    def forward(self, image: Tensor) -> Tensor:
        pixel = self.conv(image)
        aside = self.mix(image[:, :, :1, :1].expand(-1, 8, -1, -1))
        return self.last((aside + pixel).mean(dim=(2, 3)))


class OnesOnly(Skip):
    """Does not accept a mask: one of its layers outputs ones, and other values are an error.

    Args:
        classes: Width of the logits.
        how: The reaction to other values: ``raise``, ``nan``, or ``shape`` for fewer logits.
    """

    def __init__(self, classes: int, how: str) -> None:
        super().__init__(classes)
        self.ones = nn.Identity()
        self.how = how

    def forward(self, image: Tensor) -> Tensor:
        logits = super().forward(image)
        ones = self.ones(torch.ones_like(logits))
        if (ones == 1).all():
            return logits
        if self.how == "raise":
            raise RuntimeError("only ones are accepted")
        return (ones - 1).log() if self.how == "nan" else logits[:, 1:]


class HalfFrozen(Image):
    """A net that freezes its first layer, as if it was trained elsewhere."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.conv.requires_grad_(False)
