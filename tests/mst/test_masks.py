"""Masks compared with the description of the method, step by step in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mst_distill.mst.features import ModelOutput
from mst_distill.mst.masks import FixedMask, MapMask, VectorMask, mask_class
from mst_distill.mst.router import ClassRouter, DenseRouter


def weights_by_numpy(mask: VectorMask, z: np.ndarray, heads: int) -> np.ndarray:
    """The weights of a vector mask: tokens, attention, one number for each token, sigmoid."""
    state = {name: value.double().numpy() for name, value in mask.state_dict().items()}
    batch, width = z.shape
    token = state["embed.weight"].shape[0] // width
    tokens = (z @ state["embed.weight"].T + state["embed.bias"]).reshape(batch, width, token)
    packed = tokens @ state["attention.in_proj_weight"].T + state["attention.in_proj_bias"]
    query, key, value = np.split(packed, 3, axis=-1)
    attended = np.empty_like(query)
    size = token // heads
    for head in range(heads):
        columns = slice(head * size, (head + 1) * size)
        score = query[..., columns] @ key[..., columns].transpose(0, 2, 1) / np.sqrt(size)
        score = np.exp(score - score.max(-1, keepdims=True))
        attended[..., columns] = score / score.sum(-1, keepdims=True) @ value[..., columns]
    attended = attended @ state["attention.out_proj.weight"].T + state["attention.out_proj.bias"]
    logit = attended @ state["weigh.weight"].T + state["weigh.bias"]
    return 1 / (1 + np.exp(-logit[..., 0]))


def random_mask(width: int, factor: int, heads: int) -> VectorMask:
    """A vector mask in float64 with random weights, of which none is zero."""
    torch.manual_seed(0)
    mask = VectorMask(width, factor, heads).double()
    for weight in mask.parameters():
        nn.init.normal_(weight, std=0.3)
    return mask


@pytest.mark.parametrize(("width", "factor", "heads"), [(12, 2, 3), (20, 2, 3), (9, 1, 2)])
def test_a_vector_mask_is_attention_over_the_elements_of_a_feature(width, factor, heads):
    mask = random_mask(width, factor, heads)
    z = torch.randn(4, width, dtype=torch.float64)
    assert mask.token == width // (factor * heads) * heads
    expected = weights_by_numpy(mask, z.numpy(), heads)
    np.testing.assert_allclose(mask.weights(z).detach().numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(mask(z).detach().numpy(), expected * z.numpy(), rtol=1e-10)


def step_by_step(mask: VectorMask, z: torch.Tensor) -> torch.Tensor:
    """The weights of a mask, computed by calling its layers one after the other."""
    tokens = mask.embed(z.flatten(1)).view(-1, mask.width, mask.token)
    attended, _ = mask.attention(tokens, tokens, tokens, need_weights=True)
    return mask.weigh(attended).squeeze(-1).sigmoid()


@pytest.mark.parametrize(("width", "factor", "heads"), [(12, 2, 3), (9, 1, 2), (7, 1, 1)])
def test_gradients_equal_those_of_calling_the_layers_of_a_mask_in_turn(width, factor, heads):
    mask = random_mask(width, factor, heads)
    z = torch.randn(4, width, dtype=torch.float64, requires_grad=True)
    found, expected = mask.weights(z), step_by_step(mask, z)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    direction = torch.randn_like(found)
    leaves = {"feature": z, **dict(mask.named_parameters())}
    assert len(leaves) == 9
    gradients, others = (
        dict(zip(leaves, torch.autograd.grad(loss, leaves.values()), strict=True))
        for loss in ((found * direction).sum(), (expected * direction).sum())
    )
    torch.testing.assert_close(gradients, others, rtol=1e-9, atol=1e-12)
    assert all(gradient.abs().max() > 1e-4 for gradient in gradients.values())


def test_a_mask_under_bfloat16_autocast_stays_near_that_of_float32():
    torch.manual_seed(0)
    mask = VectorMask(60, 2, 3)
    for weight in mask.parameters():
        nn.init.normal_(weight, std=0.17)
    z = torch.randn(8, 60)
    expected = mask.weights(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mask.weights(z)
    assert found.dtype == torch.float32
    assert expected.std() > 0.05
    assert 0 < (found - expected).abs().max() < 2e-2


def test_a_map_mask_pools_the_map_and_scales_channels():
    torch.manual_seed(0)
    mask = MapMask(12, 2, 3).double().eval()
    z = torch.randn(3, 12, 7, 5, dtype=torch.float64)
    depthwise, pointwise, norm = mask.pool[0], mask.pool[1], mask.pool[2]
    maps = nn.functional.conv2d(z, depthwise.weight, stride=2, padding=1, groups=12)
    maps = np.einsum("bchw,dc->bdhw", maps.detach().numpy(), pointwise.weight[:, :, 0, 0].detach())
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().numpy()
    maps = np.maximum(maps * scale[:, None, None], 0)
    assert maps.shape == (3, 12, 4, 3)
    expected = weights_by_numpy(mask.channels, maps.mean(axis=(2, 3)), 3)
    np.testing.assert_allclose(mask.weights(z).detach().numpy(), expected, rtol=1e-9)
    masked = expected[:, :, None, None] * z.numpy()
    np.testing.assert_allclose(mask(z).detach().numpy(), masked, rtol=1e-9)


@pytest.mark.parametrize("shape", [(2, 30), (2, 30, 1, 1), (2, 30, 3, 2)])
def test_masks_preserve_the_shape_and_scale_each_channel_by_one_weight(shape):
    torch.manual_seed(0)
    z = torch.randn(shape, dtype=torch.float64)
    assert mask_class((2, 30, 1, 1)) is VectorMask
    for mask in (mask_class(shape)(30, 2, 3), FixedMask(30)):
        masked = mask.double().eval()(z)
        assert masked.shape == shape
        weights = (masked / z).flatten(2) if len(shape) > 2 else (masked / z)[..., None]
        assert 0 < weights.min() <= weights.max() < 1
        torch.testing.assert_close(weights, weights[..., :1].expand_as(weights))
        if isinstance(mask, VectorMask):
            expected = mask.weights(z.flatten(1))
            torch.testing.assert_close(weights[..., 0], expected)


def test_the_masks_of_av_mnist_have_the_published_number_of_weights():
    """They are 120.4 million at factor 2. The mask of the concatenation alone has 106 million."""
    layers = [(596, False), (298, False), (64, True), (128, True)]
    count = 0
    with torch.device("meta"):
        for width, is_map in layers:
            mask = (MapMask if is_map else VectorMask)(width, 2, 3)
            count += sum(weight.numel() for weight in mask.parameters())
    assert round(count / 1e6, 1) == pytest.approx(120.4, abs=0.11)


def test_the_error_for_a_narrow_feature_states_the_largest_valid_size():
    with pytest.raises(ValueError, match=r"width 5 .* factor 2 and 3 heads.* at most 5"):
        VectorMask(5, 2, 3)


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4), (2, 3, 4, 5, 6)])
def test_features_other_than_vectors_and_maps_are_an_error(shape):
    with pytest.raises(ValueError, match="vectors"):
        mask_class(shape)


def test_routers_output_one_row_of_logits_for_each_sample():
    assert ClassRouter(10, 4)(ModelOutput(torch.randn(3, 10))).shape == (3, 4)
    assert sum(p.numel() for p in ClassRouter(10, 4).parameters()) == 10 * 20 + 20 + 20 * 4 + 4
    assert DenseRouter(5, 4)(ModelOutput(torch.randn(3, 5, 9, 8))).shape == (3, 4)


def test_the_class_router_is_linear():
    router = ClassRouter(6, 4).double()
    a, b = torch.randn(2, 1, 6, dtype=torch.float64)
    zero, one, other, both = (router(ModelOutput(x)) for x in (torch.zeros_like(a), a, b, a + b))
    torch.testing.assert_close(both - zero, one + other - 2 * zero)
