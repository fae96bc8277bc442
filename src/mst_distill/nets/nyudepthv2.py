"""FuseNet for segmentation from colour, from depth, and from both.

Hazirbas et al., "FuseNet: Incorporating Depth into Semantic Segmentation via Fusion-Based CNN
Architecture", ACCV 2016, as the method's released implementation has it: VGG-16 with batch norm as
encoder, a decoder that mirrors it and unpools to where the encoder pooled from.
"""

from __future__ import annotations

from torch import Tensor, fx, nn

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the encoder's convolutions, stage by stage."""

DECODED = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,))
"""Channels of the decoder's convolutions, deepest stage first."""

LAYERS = (nn.Conv2d, nn.BatchNorm2d)
"""What has weights."""


class FuseNet(nn.Module):
    """One modality: 29,466,665 weights for colour and 29,465,513 for depth, with 41 classes.

    Args:
        classes: Channels of the logits.
        channels: Of the input: 3 for colour, 1 for depth.
        dropout: Share of values that dropout forgets, after the last three pools and between the
            decoder's stages.
    """

    channels_last = True

    def __init__(self, classes: int, channels: int, dropout: float = 0.4) -> None:
        super().__init__()
        self.encoder = _Encoder(channels, dropout)
        self.decoder = _Decoder(classes, dropout)

    def forward(self, maps: Tensor) -> Tensor:
        """``(B, channels, H, W)``, H and W multiples of 32, to logits ``(B, classes, H, W)``."""
        _check_size(maps)
        places = []
        for index in range(len(WIDTHS)):
            maps, place = self.encoder.pool(self.encoder.stages[index](maps))
            maps = self.encoder.dropouts[index](maps)
            places.append(place)
        return self.decoder(maps, places)


class FusionFuseNet(nn.Module):
    """Colour and depth: 44,188,649 weights with 41 classes.

    After every stage of the encoders colour becomes the mean of colour and depth.

    Args:
        classes: Channels of the logits.
        dropout: As in `FuseNet`.
    """

    channels_last = True

    def __init__(self, classes: int, dropout: float = 0.4) -> None:
        super().__init__()
        self.image = _Encoder(3, dropout)
        self.depth = _Encoder(1, dropout)
        self.decoder = _Decoder(classes, dropout)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        """``(B, 3, H, W)`` and ``(B, 1, H, W)`` to logits ``(B, classes, H, W)``."""
        _check_size(image)
        places = []
        for index in range(len(WIDTHS)):
            image, depth = self.image.stages[index](image), self.depth.stages[index](depth)
            image, place = self.image.pool((image + depth) / 2)
            image = self.image.dropouts[index](image)
            depth = self.depth.dropouts[index](self.depth.pool(depth)[0])
            places.append(place)
        return self.decoder(image, places)


def imagenet_encoders(net: nn.Module) -> None:
    """Start the encoders of a `FuseNet` or `FusionFuseNet` from VGG-16 trained on ImageNet.

    The first convolution of a depth encoder gets the mean over the colours' weights (Hazirbas et
    al., section 3.1). torchvision fetches the weights once and keeps them.

    Raises:
        ConnectionError, ValueError: They cannot be fetched or are damaged (see `load_published`).
    """
    from torchvision.models import VGG16_BN_Weights, vgg16_bn

    # Here, for what stands above counts among the functions that a member may start with.
    from mst_distill.hub_weights import load_published

    trained = vgg16_bn(init_weights=False)
    load_published(trained, VGG16_BN_Weights.IMAGENET1K_V1, instead="start from small_xavier")
    for encoder in filter(lambda module: isinstance(module, _Encoder), net.modules()):
        own = [module for module in encoder.modules() if isinstance(module, LAYERS)]
        given = [module for module in trained.features if isinstance(module, LAYERS)]
        for layer, source in zip(own, given, strict=True):
            state = source.state_dict()
            if isinstance(layer, nn.Conv2d) and layer.in_channels == 1:
                state["weight"] = state["weight"].mean(dim=1, keepdim=True)
            layer.load_state_dict(state)


def small_xavier(net: nn.Module) -> None:
    """Start as the method's released implementation does, which overwrites ImageNet's weights.

    Convolutions are Xavier-normal with gain 0.02 and without bias, batch norms' weights are drawn
    from N(1, 0.02).
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_normal_(layer.weight, gain=0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
        if isinstance(layer, LAYERS) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


class _Encoder(nn.Module):
    """The stages of VGG-16, and what follows each: a pool that remembers its places, dropout."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        inputs = [channels, *(widths[-1] for widths in WIDTHS)]
        self.stages = nn.ModuleList(map(_stage, inputs, WIDTHS))
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.dropouts = nn.ModuleList(
            nn.Dropout(dropout) if index >= 2 else nn.Identity() for index in range(len(WIDTHS))
        )


class _Decoder(nn.Module):
    """``(B, 512, H / 32, W / 32)`` and the places of all pools to logits ``(B, classes, H, W)``."""

    def __init__(self, classes: int, dropout: float) -> None:
        super().__init__()
        inputs = [WIDTHS[-1][-1], *(widths[-1] for widths in DECODED)]
        self.stages = nn.ModuleList(map(_stage, inputs, DECODED))
        self.logits = nn.Conv2d(DECODED[-1][-1], classes, 3, padding=1)
        self.unpool = nn.MaxUnpool2d(2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Tensor, places: list[Tensor]) -> Tensor:
        for index, stage in enumerate(self.stages):
            if index > 0:
                maps = self.dropout(maps)
            maps = stage(self.unpool(maps, places[-1 - index]))
        return self.logits(maps)


@fx.wrap
def _check_size(maps: Tensor) -> None:
    """Refuse what five pools do not halve evenly: the decoder could not unpool it."""
    size = tuple(maps.shape[-2:])
    if any(side % 32 for side in size):
        nearest = tuple(max(32, round(side / 32) * 32) for side in size)
        raise ValueError(
            f"FuseNet got maps of {size[0]} x {size[1]}, and height and width must be multiples of "
            f"32, such as {nearest[0]} x {nearest[1]} (benchmark.arguments.size)"
        )


def _stage(channels: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)
