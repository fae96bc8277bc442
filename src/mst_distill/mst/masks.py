"""Masks: what bends a frozen teacher's features towards what the student can use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mst_distill.mst.attention import attend


class VectorMask(nn.Module):
    """Mask of a vector feature: a weight in (0, 1) for each of its F numbers, from all of them.

    Every number becomes a token of width d; one multi-head self-attention layer lets the tokens see
    one another, without residual, norm or position; each token ends as its number's weight. The
    embedding has about F^3 / factor weights: `factor` is the knob for its size.

    Nothing but linear maps stands between attention and a token's weight, so of a token's value
    each head needs only what the weight will take of it, one number: the values, what attention
    makes of them and its output projection are never computed as vectors. Same mathematics as
    calling `attention` and `weigh` in turn, with less than half of the arithmetic.

    Args:
        width: F.
        factor: Divides the tokens' width: d = F // (factor * heads) * heads.
        heads: Attention heads.

    Raises:
        ValueError: F is smaller than factor * heads, so that d would be 0.
    """

    def __init__(self, width: int, factor: int, heads: int) -> None:
        super().__init__()
        token = width // (factor * heads) * heads
        if token == 0:
            raise ValueError(
                f"a feature of width {width} is too narrow for a mask of factor {factor} and "
                f"{heads} heads: factor * heads may be at most {width}"
            )
        self.width = width
        self.token = token
        self.embed = nn.Linear(width, width * token)
        self.attention = nn.MultiheadAttention(token, heads, batch_first=True)
        self.weigh = nn.Linear(token, 1)

    def weights(self, feature: Tensor) -> Tensor:
        """The mask itself: ``(B, F)`` or ``(B, F, 1, 1)`` to ``(B, F)`` in (0, 1)."""
        tokens = self.embed(feature.flatten(1)).view(-1, self.width, self.token)
        heads = self.attention.num_heads
        of_query, of_key, of_value = self.attention.in_proj_weight.chunk(3)
        query_bias, key_bias, value_bias = self.attention.in_proj_bias.chunk(3)
        taken = (self.weigh.weight @ self.attention.out_proj.weight).view(heads, 1, -1)
        of_value = (taken @ of_value.view(heads, -1, self.token)).squeeze(1)
        value_bias = (taken @ value_bias.view(heads, -1, 1)).flatten()
        seen = attend(
            F.linear(tokens, of_query, query_bias).unflatten(2, (heads, -1)),
            F.linear(tokens, of_key, key_bias).unflatten(2, (heads, -1)),
            F.linear(tokens, of_value, value_bias),
        )
        offset = F.linear(self.attention.out_proj.bias, self.weigh.weight, self.weigh.bias)
        return (seen.sum(dim=2) + offset).sigmoid()

    def forward(self, feature: Tensor) -> Tensor:
        """Mask times feature, in the feature's own shape: ``(B, F)`` or ``(B, F, 1, 1)``."""
        return self.weights(feature).view(feature.shape) * feature


class MapMask(nn.Module):
    """Mask of a map feature ``(B, C, H, W)``: a weight in (0, 1) for each whole channel.

    A depthwise-separable convolution and a global average make a vector of the map; the vector's
    mask scales the channels.

    Args:
        width: C.
        factor: As in `VectorMask`.
        heads: As in `VectorMask`.

    Raises:
        ValueError: C is smaller than factor * heads.
    """

    channels_last = True

    def __init__(self, width: int, factor: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.pool = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.channels = VectorMask(width, factor, heads)

    def weights(self, feature: Tensor) -> Tensor:
        """The mask itself: ``(B, C, H, W)`` to ``(B, C)`` in (0, 1)."""
        return self.channels.weights(self.pool(feature))

    def forward(self, feature: Tensor) -> Tensor:
        """Every channel of ``(B, C, H, W)`` times its weight."""
        return self.weights(feature)[:, :, None, None] * feature


class FixedMask(nn.Module):
    """A weight in (0, 1) for each number of a vector or each channel of a map, for all samples.

    The cheap control: F weights where attention has about F^3 / factor.

    Args:
        width: F or C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.preference = nn.Parameter(torch.zeros(width))

    def forward(self, feature: Tensor) -> Tensor:
        """Weights times feature, in the feature's own shape."""
        return self.preference.sigmoid().view(-1, *[1] * (feature.dim() - 2)) * feature


def mask_class(shape: tuple[int, ...]) -> type[VectorMask] | type[MapMask]:
    """The kind of mask a feature gets.

    Args:
        shape: Of the feature, the batch in front.

    Raises:
        ValueError: The feature is neither ``(B, F)`` nor ``(B, C, H, W)``.
    """
    if len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1)):
        return VectorMask
    if len(shape) == 4:
        return MapMask
    raise ValueError(
        f"a feature of shape {shape} cannot be masked: masks exist for vectors (B, F) and for "
        f"maps (B, C, H, W)"
    )
