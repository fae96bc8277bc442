"""Attention with scalar values against PyTorch's own, whose values are vectors of width 1."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.mst.attention import attend

SHAPES = [(1, 1, 1, 1), (2, 5, 1, 3), (3, 4, 2, 1), (5, 7, 3, 4), (2, 33, 2, 8)]


def vectors(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The ordinary way."""
    heads = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2).unsqueeze(3))
    return F.scaled_dot_product_attention(*heads).squeeze(3).transpose(1, 2)


def tokens(
    shape: tuple[int, int, int, int], scale: float = 1.0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query, key = (scale**0.5 * torch.randn(shape, dtype=dtype) for _ in range(2))
    return tuple(t.requires_grad_() for t in (query, key, torch.randn(shape[:3], dtype=dtype)))


def gradients(output: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of a loss that weighs every number differently."""
    weight = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view(output.shape)
    return torch.autograd.grad((weight * output).sum(), inputs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_values_and_gradients_are_those_of_attention(
    shape: tuple[int, int, int, int], scale: float
) -> None:
    given = tokens(shape, scale)
    found, expected = attend(*given), vectors(*given)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for one, other in zip(gradients(found, given), gradients(expected, given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (1, 4, 1, 3)])
def test_the_gradient_is_the_slope(shape: tuple[int, int, int, int]) -> None:
    assert torch.autograd.gradcheck(attend, tokens(shape))


@pytest.mark.parametrize("at_once", [1, 2, 3, 6])
def test_how_many_samples_go_at_once_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    given = tokens((7, 5, 3, 4))
    whole = attend(*given)
    slopes = gradients(whole, given)
    # A sample's scores take 3 * 5 * 5 * 8 bytes.
    monkeypatch.setattr("mst_distill.mst.attention.SCORES", at_once * 600)
    parts = attend(*given)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)
    for one, other in zip(gradients(parts, given), slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_a_sample_larger_than_what_is_held_at_once_goes_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = tokens((3, 5, 2, 4))
    whole = attend(*given)
    monkeypatch.setattr("mst_distill.mst.attention.SCORES", 1)
    torch.testing.assert_close(attend(*given), whole, rtol=1e-12, atol=1e-14)


def test_no_scores_are_kept_for_the_gradient() -> None:
    given = tokens((2, 40, 3, 4))
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        attend(*given)
    assert max(kept) == 2 * 40 * 3 * 4
    assert sum(kept) < 2 * 3 * 40**2


def test_tokens_may_lie_in_memory_in_any_way() -> None:
    given = tokens((4, 5, 2, 3))
    query, key, value = (t.detach().transpose(0, 1).contiguous().transpose(0, 1) for t in given)
    strided = tuple(t.requires_grad_() for t in (query, key, value))
    assert not strided[0].is_contiguous()
    found = attend(*strided)
    torch.testing.assert_close(found, vectors(*given), rtol=1e-10, atol=1e-12)
    pairs = zip(gradients(found, strided), gradients(vectors(*given), given), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_one_value_for_all_tokens_stays_that_value() -> None:
    query, key, _ = tokens((2, 6, 2, 3))
    shared = torch.full((1, 1, 1), 3.0, dtype=torch.float64).expand(2, 6, 2)
    expected = torch.full((2, 6, 2), 3.0, dtype=torch.float64)
    torch.testing.assert_close(attend(query, key, shared), expected)


def test_no_samples_give_no_numbers() -> None:
    given = tokens((0, 3, 2, 4))
    assert attend(*given).shape == (0, 3, 2)


@pytest.mark.parametrize("size", [1e4, 1e6, 1e30])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_enormous_score_picks_its_token(size: float, sign: int) -> None:
    """Where exp would overflow, or vanish for all tokens alike."""
    query = torch.full((2, 4, 1, 1), sign * size)
    key = torch.tensor([1.0, 2.0, 4.0, 3.0]).view(1, 4, 1, 1).repeat(2, 1, 1, 1)
    value = torch.tensor([5.0, 6.0, 7.0, 8.0]).view(1, 4, 1).repeat(2, 1, 1)
    given = tuple(t.requires_grad_() for t in (query, key, value))
    found = attend(*given)
    assert found.unique().tolist() == ([7.0] if sign > 0 else [5.0])
    to_query, to_key, to_value = torch.autograd.grad(found.sum(), given)
    assert to_query.abs().max() == to_key.abs().max() == 0
    assert to_value[0, :, 0].tolist() == pytest.approx([0, 0, 4, 0] if sign > 0 else [4, 0, 0, 0])


def test_tokens_that_share_an_enormous_score_share_the_value() -> None:
    torch.manual_seed(0)
    query = 1e4 * torch.randint(-3, 4, (4, 9, 2, 4)).float()
    key = torch.randint(-1, 2, (4, 9, 2, 4)).float()
    given = tuple(t.requires_grad_() for t in (query, key, torch.randn(4, 9, 2)))
    exactly = tuple(t.detach().double().requires_grad_() for t in given)
    found, expected = attend(*given), vectors(*exactly)
    torch.testing.assert_close(found, expected.float())
    for one, other in zip(gradients(found, given), gradients(expected, exactly), strict=True):
        # A logarithm beside 1e4 has three digits behind the point.
        assert (one - other).abs().max() < 1e-2 * other.abs().max()


def test_a_bfloat16_query_and_key_give_float32_close_to_float32_s() -> None:
    query, key, value = tokens((3, 20, 2, 6), dtype=torch.float32)
    halves = tuple(t.detach().to(torch.bfloat16).requires_grad_() for t in (query, key))
    given = (*halves, value)
    found = attend(*given)
    assert found.dtype == torch.float32
    # Of the same rounded tokens, so that what differs is the arithmetic alone.
    same = tuple(t.detach().float().requires_grad_() for t in given)
    expected = attend(*same)
    assert (found - expected).abs().max() < 1e-2
    slopes = gradients(found, given)
    assert [slope.dtype for slope in slopes] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for one, other in zip(slopes, gradients(expected, same), strict=True):
        assert (one.float() - other).norm() < 2e-2 * other.norm()


def test_a_bfloat16_value_is_not_averaged_in_bfloat16() -> None:
    query = torch.zeros(1, 1024, 1, 2)
    value = torch.ones(1, 1024, 1, dtype=torch.bfloat16).requires_grad_()
    found = attend(query, query, value)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.ones(1, 1024, 1))
    (slope,) = torch.autograd.grad(found.sum(), value)
    assert slope.dtype == torch.bfloat16
    torch.testing.assert_close(slope.float(), torch.ones(1, 1024, 1))


def test_autocast_changes_nothing() -> None:
    given = tokens((3, 20, 2, 6), dtype=torch.float32)
    expected = attend(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend(*given)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    for one, other in zip(gradients(found, given), gradients(expected, given), strict=True):
        assert torch.equal(one, other)
