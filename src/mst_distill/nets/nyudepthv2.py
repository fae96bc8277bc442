"""FuseNet for segmentation from colour, from depth, and from both.

Hazirbas et al., "FuseNet: Incorporating Depth into Semantic Segmentation via Fusion-Based CNN
Architecture", ACCV 2016, as in the method's released implementation: the encoder is VGG-16 with
batch norm, and the decoder mirrors it and unpools to the positions of the encoder's maxima.
"""

from __future__ import annotations

from torch import Tensor, fx, nn

WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the encoder's convolutions, stage by stage."""

DECODED = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,))
"""Channels of the decoder's convolutions, deepest stage first."""

LAYERS = (nn.Conv2d, nn.BatchNorm2d)
"""The layer types with weights."""


class FuseNet(nn.Module):
    """The unimodal net: 29,466,665 weights for colour and 29,465,513 for depth, with 41 classes.

    Args:
        classes: Channels of the logits.
        channels: Channels of the input: 3 for colour, 1 for depth.
        dropout: Share of values that dropout sets to 0, after the last three poolings and between
            the decoder's stages.

    Attributes:
        size_multiple: Height and width are multiples of it; no others are required.
    """

    channels_last = True
    size_multiple = 32

    def __init__(self, classes: int, channels: int, dropout: float = 0.4) -> None:
        super().__init__()
        self.encoder = _Encoder(channels, dropout)
        self.decoder = _Decoder(classes, dropout)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to logits ``(B, classes, H, W)``; H, W: multiples of 32."""
        _check_size(maps)
        pool_indices = []
        for stage in range(len(WIDTHS)):
            maps, positions = self.encoder.pool(self.encoder.stages[stage](maps))
            maps = self.encoder.dropouts[stage](maps)
            pool_indices.append(positions)
        return self.decoder(maps, pool_indices)


class FusionFuseNet(nn.Module):
    """The multimodal teacher for colour and depth: 44,188,649 weights with 41 classes.

    After each stage of the encoders, the colour maps are replaced by the mean of the colour and
    depth maps.

    Args:
        classes: Channels of the logits.
        dropout: See `FuseNet`.
    """

    channels_last = True

    def __init__(self, classes: int, dropout: float = 0.4) -> None:
        super().__init__()
        self.image = _Encoder(3, dropout)
        self.depth = _Encoder(1, dropout)
        self.decoder = _Decoder(classes, dropout)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` and ``(B, 1, H, W)`` to logits ``(B, classes, H, W)``."""
        _check_size(image)
        pool_indices = []
        for stage in range(len(WIDTHS)):
            image, depth = self.image.stages[stage](image), self.depth.stages[stage](depth)
            image, positions = self.image.pool((image + depth) / 2)
            image = self.image.dropouts[stage](image)
            depth = self.depth.dropouts[stage](self.depth.pool(depth)[0])
            pool_indices.append(positions)
        return self.decoder(image, pool_indices)


def imagenet_encoders(net: nn.Module) -> None:
    """Initialise the encoders of a `FuseNet` or `FusionFuseNet` with VGG-16 trained on ImageNet.

    The first convolution of a depth encoder is set to the mean of the weights over the three
    colours (Hazirbas et al., section 3.1). torchvision downloads the weights once and stores them.

    Raises:
        ConnectionError, ValueError: The weights cannot be downloaded or are damaged (see
            `load_published`).
    """
    from torchvision.models import VGG16_BN_Weights, vgg16_bn

    # Imported here: `resolve_function` would offer a function imported above as a valid `start`.
    from mst_distill.hub_weights import load_published

    vgg = vgg16_bn(init_weights=False)
    load_published(vgg, VGG16_BN_Weights.IMAGENET1K_V1, instead="set start to small_xavier")
    for encoder in filter(lambda module: isinstance(module, _Encoder), net.modules()):
        targets = [module for module in encoder.modules() if isinstance(module, LAYERS)]
        sources = [module for module in vgg.features if isinstance(module, LAYERS)]
        for layer, source in zip(targets, sources, strict=True):
            state = source.state_dict()
            if isinstance(layer, nn.Conv2d) and layer.in_channels == 1:
                state["weight"] = state["weight"].mean(dim=1, keepdim=True)
            layer.load_state_dict(state)


def small_xavier(net: nn.Module) -> None:
    """Initialise a net like the method's released implementation, which overwrites ImageNet's.

    Convolutions are Xavier-normal with gain 0.02, weights of batch norms are drawn from N(1, 0.02),
    and all biases are 0.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_normal_(layer.weight, gain=0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
        if isinstance(layer, LAYERS) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


class _Encoder(nn.Module):
    """The stages of VGG-16, each followed by max pooling that returns indices and by dropout."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        inputs = [channels, *(widths[-1] for widths in WIDTHS)]
        self.stages = nn.ModuleList(map(_stage, inputs, WIDTHS))
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.dropouts = nn.ModuleList(
            nn.Dropout(dropout) if index >= 2 else nn.Identity() for index in range(len(WIDTHS))
        )


class _Decoder(nn.Module):
    """Maps ``(B, 512, H / 32, W / 32)`` and pooling indices to logits ``(B, classes, H, W)``."""

    def __init__(self, classes: int, dropout: float) -> None:
        super().__init__()
        inputs = [WIDTHS[-1][-1], *(widths[-1] for widths in DECODED)]
        self.stages = nn.ModuleList(map(_stage, inputs, DECODED))
        self.logits = nn.Conv2d(DECODED[-1][-1], classes, 3, padding=1)
        self.unpool = nn.MaxUnpool2d(2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Tensor, pool_indices: list[Tensor]) -> Tensor:
        for index, stage in enumerate(self.stages):
            if index > 0:
                maps = self.dropout(maps)
            maps = stage(self.unpool(maps, pool_indices[-1 - index]))
        return self.logits(maps)


@fx.wrap
def _check_size(maps: Tensor) -> None:
    """Reject a size that five poolings cannot halve evenly: the decoder could not unpool it."""
    size = tuple(maps.shape[-2:])
    if any(side % 32 for side in size):
        nearest = tuple(max(32, round(side / 32) * 32) for side in size)
        raise ValueError(
            f"FuseNet received maps of {size[0]} x {size[1]}; height and width must be multiples "
            f"of 32, such as {nearest[0]} x {nearest[1]} (benchmark.arguments.size)"
        )


def _stage(channels: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)
