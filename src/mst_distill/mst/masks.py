"""Masks: networks that weight the features of a frozen teacher, to adapt it to the student."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mst_distill.mst.attention import attend


class VectorMask(nn.Module):
    """The mask of a vector feature: a weight in (0, 1) for each of its F elements.

    The embedding turns each element into a token of width d. One multi-head self-attention layer,
    without residual, norm or positional encoding, relates the tokens. A linear layer turns each
    token into the weight of its element. The embedding has about F^3 / factor weights; `factor`
    controls this size.

    The softmax of the attention is applied between linear maps: value projection, output projection
    and `weigh`. Their product maps a token to one number for each head. The code multiplies these
    weight matrices first and applies attention to the numbers, see `attend`. It never computes
    value vectors. The result is that of calling `attention` and `weigh` one after the other, with
    less than half of the arithmetic.

    Args:
        width: F.
        factor: Divides the width of the tokens: d = F // (factor * heads) * heads.
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
        """The weights of a feature: ``(B, F)`` or ``(B, F, 1, 1)`` to ``(B, F)`` in (0, 1)."""
        tokens = self.embed(feature.flatten(1)).view(-1, self.width, self.token)
        heads = self.attention.num_heads
        of_query, of_key, of_value = self.attention.in_proj_weight.chunk(3)
        query_bias, key_bias, value_bias = self.attention.in_proj_bias.chunk(3)
        # (H, 1, d / H): the product of output projection and `weigh`, one row for each head.
        row = (self.weigh.weight @ self.attention.out_proj.weight).view(heads, 1, -1)
        # (H, d) and (H,): the product with the value projection, so that a value is one number.
        of_value = (row @ of_value.view(heads, -1, self.token)).squeeze(1)
        value_bias = (row @ value_bias.view(heads, -1, 1)).flatten()
        attended = attend(
            F.linear(tokens, of_query, query_bias).unflatten(2, (heads, -1)),
            F.linear(tokens, of_key, key_bias).unflatten(2, (heads, -1)),
            F.linear(tokens, of_value, value_bias),
        )
        # The sum over the heads is the product with the concatenated heads.
        offset = F.linear(self.attention.out_proj.bias, self.weigh.weight, self.weigh.bias)
        return (attended.sum(dim=2) + offset).sigmoid()

    def forward(self, feature: Tensor) -> Tensor:
        """Weights times feature, in the shape of the feature: ``(B, F)`` or ``(B, F, 1, 1)``."""
        return self.weights(feature).view(feature.shape) * feature


class MapMask(nn.Module):
    """The mask of a map feature ``(B, C, H, W)``: a weight in (0, 1) for each channel.

    A depthwise-separable convolution and a global average reduce the map to a vector. The mask of
    this vector scales the channels.

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
        """The weights of a feature: ``(B, C, H, W)`` to ``(B, C)`` in (0, 1)."""
        return self.channels.weights(self.pool(feature))

    def forward(self, feature: Tensor) -> Tensor:
        """Each channel of ``(B, C, H, W)`` times its weight."""
        return self.weights(feature)[:, :, None, None] * feature


class FixedMask(nn.Module):
    """A weight in (0, 1) for each element of a vector or channel of a map, equal for all samples.

    This is the cheap alternative: it has F weights, and attention has about F^3 / factor.

    Args:
        width: F or C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.preference = nn.Parameter(torch.zeros(width))

    def forward(self, feature: Tensor) -> Tensor:
        """Weights times feature, in the shape of the feature."""
        return self.preference.sigmoid().view(-1, *[1] * (feature.dim() - 2)) * feature


def mask_class(shape: tuple[int, ...]) -> type[VectorMask] | type[MapMask]:
    """The class of the masks for a feature.

    Args:
        shape: The shape of the feature; the first axis is the batch.

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
