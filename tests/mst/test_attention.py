"""Attention with values that are numbers, compared with its specification.

The specification is `torch.nn.functional.scaled_dot_product_attention`, where a number is a vector
of width 1.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mst_distill.mst import attention
from mst_distill.mst.attention import SCORES, attend, fused_heads
from simulated_gpu import SimulatedGPU

SHAPES = [(1, 1, 1, 1), (2, 5, 1, 3), (3, 4, 2, 1), (5, 7, 3, 4), (2, 33, 2, 8)]


def specification(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """PyTorch's attention, with the numbers as vectors of width 1."""
    heads = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2).unsqueeze(3))
    return F.scaled_dot_product_attention(*heads).squeeze(3).transpose(1, 2)


def tokens(
    shape: tuple[int, int, int, int], scale: float = 1.0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query, key = (scale**0.5 * torch.randn(shape, dtype=dtype) for _ in range(2))
    return tuple(t.requires_grad_() for t in (query, key, torch.randn(shape[:3], dtype=dtype)))


def gradients(output: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The gradients of a loss in which every element of the output has another weight."""
    weight = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view(output.shape)
    weight = weight.to(output.device)
    return torch.autograd.grad((weight * output).sum(), inputs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_attend_equals_scaled_dot_product_attention_with_values_of_width_one(
    shape: tuple[int, int, int, int], scale: float
) -> None:
    inputs = tokens(shape, scale)  # in float64
    found, expected = attend(*inputs), specification(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for one, other in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [*SHAPES, (2, 6, 2, 99)])
def test_the_inputs_of_a_fused_kernel_give_the_same_result(
    shape: tuple[int, int, int, int],
) -> None:
    inputs = tokens(shape)
    heads = fused_heads(*inputs)
    assert all(of.shape[3] % 8 == 0 for of in heads)
    found = F.scaled_dot_product_attention(*heads, scale=shape[3] ** -0.5)[..., 0].transpose(1, 2)
    expected = attend(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for one, other in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_a_gpu_has_the_result_of_a_cpu_with_and_without_a_fused_kernel(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = tokens((3, 5, 2, 7))
    expected = attend(*inputs)
    expected_gradients = gradients(expected, inputs)
    monkeypatch.setattr(attention, "has_fused_kernel", lambda *_heads: fused)
    # The kernels of a CPU that PyTorch would take do not exist on a GPU.
    with sdpa_kernel(SDPBackend.MATH), SimulatedGPU() as gpu, gpu.recorded() as record:
        on_gpu = tuple(of.detach().to("cuda").requires_grad_() for of in inputs)
        record.waits.clear()
        found = attend(*on_gpu)
        found_gradients = gradients(found, on_gpu)
        assert found.is_cuda
        assert ("aten::exp_" in record.kernels) != fused
        assert not [wait for wait in record.waits if "attention" in wait]
    for one, other in zip([found, *found_gradients], [expected, *expected_gradients], strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (1, 4, 1, 3)])
def test_the_gradient_is_that_of_finite_differences(shape: tuple[int, int, int, int]) -> None:
    assert torch.autograd.gradcheck(attend, tokens(shape))


@pytest.mark.parametrize("samples", [1, 2, 3, 6])
def test_the_number_of_samples_in_a_slice_does_not_change_the_result(
    monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    inputs = tokens((7, 5, 3, 4))
    whole = attend(*inputs)
    whole_gradients = gradients(whole, inputs)
    # The scores of a sample take 3 * 5 * 5 * 8 bytes.
    monkeypatch.setitem(SCORES, "cpu", samples * 600)
    sliced = attend(*inputs)
    torch.testing.assert_close(sliced, whole, rtol=1e-12, atol=1e-14)
    for one, other in zip(gradients(sliced, inputs), whole_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_a_sample_with_more_scores_than_the_limit_is_computed_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = tokens((3, 5, 2, 4))
    whole = attend(*inputs)
    monkeypatch.setitem(SCORES, "cpu", 1)
    torch.testing.assert_close(attend(*inputs), whole, rtol=1e-12, atol=1e-14)


def test_no_scores_are_stored_for_the_backward_pass() -> None:
    inputs = tokens((2, 40, 3, 4))
    saved: list[int] = []

    def record(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        attend(*inputs)
    assert max(saved) == 2 * 40 * 3 * 4
    assert sum(saved) < 2 * 3 * 40**2


def test_tokens_need_not_be_contiguous() -> None:
    inputs = tokens((4, 5, 2, 3))
    query, key, value = (t.detach().transpose(0, 1).contiguous().transpose(0, 1) for t in inputs)
    strided = tuple(t.requires_grad_() for t in (query, key, value))
    assert not strided[0].is_contiguous()
    found = attend(*strided)
    torch.testing.assert_close(found, specification(*inputs), rtol=1e-10, atol=1e-12)
    pairs = zip(gradients(found, strided), gradients(specification(*inputs), inputs), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_value_that_all_tokens_share_is_unchanged() -> None:
    query, key, _ = tokens((2, 6, 2, 3))
    shared = torch.full((1, 1, 1), 3.0, dtype=torch.float64).expand(2, 6, 2)
    expected = torch.full((2, 6, 2), 3.0, dtype=torch.float64)
    torch.testing.assert_close(attend(query, key, shared), expected)


def test_an_empty_batch_gives_an_empty_output() -> None:
    inputs = tokens((0, 3, 2, 4))
    assert attend(*inputs).shape == (0, 3, 2)


@pytest.mark.parametrize("size", [1e4, 1e6, 1e30])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_token_with_an_enormous_score_has_all_the_weight(size: float, sign: int) -> None:
    """With such scores, exp overflows or underflows unless the maximum is subtracted first."""
    query = torch.full((2, 4, 1, 1), sign * size)
    key = torch.tensor([1.0, 2.0, 4.0, 3.0]).view(1, 4, 1, 1).repeat(2, 1, 1, 1)
    value = torch.tensor([5.0, 6.0, 7.0, 8.0]).view(1, 4, 1).repeat(2, 1, 1)
    inputs = tuple(t.requires_grad_() for t in (query, key, value))
    found = attend(*inputs)
    assert found.unique().tolist() == ([7.0] if sign > 0 else [5.0])
    to_query, to_key, to_value = torch.autograd.grad(found.sum(), inputs)
    assert to_query.abs().max() == to_key.abs().max() == 0
    assert to_value[0, :, 0].tolist() == pytest.approx([0, 0, 4, 0] if sign > 0 else [4, 0, 0, 0])


def test_tokens_with_equal_enormous_scores_have_equal_weights() -> None:
    torch.manual_seed(0)
    query = 1e4 * torch.randint(-3, 4, (4, 9, 2, 4)).float()
    key = torch.randint(-1, 2, (4, 9, 2, 4)).float()
    inputs = tuple(t.requires_grad_() for t in (query, key, torch.randn(4, 9, 2)))
    exactly = tuple(t.detach().double().requires_grad_() for t in inputs)
    found, expected = attend(*inputs), specification(*exactly)
    torch.testing.assert_close(found, expected.float())
    for one, other in zip(gradients(found, inputs), gradients(expected, exactly), strict=True):
        # A float32 score near 1e4 has three digits after the decimal point.
        assert (one - other).abs().max() < 1e-2 * other.abs().max()


def test_a_bfloat16_query_and_key_give_a_result_close_to_float32() -> None:
    query, key, value = tokens((3, 20, 2, 6), dtype=torch.float32)
    halves = tuple(t.detach().to(torch.bfloat16).requires_grad_() for t in (query, key))
    inputs = (*halves, value)
    found = attend(*inputs)
    assert found.dtype == torch.float32
    # The same rounded tokens, so that only the arithmetic differs.
    same = tuple(t.detach().float().requires_grad_() for t in inputs)
    expected = attend(*same)
    assert (found - expected).abs().max() < 1e-2
    actual = gradients(found, inputs)
    assert [of.dtype for of in actual] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for one, other in zip(actual, gradients(expected, same), strict=True):
        assert (one.float() - other).norm() < 2e-2 * other.norm()


def test_a_bfloat16_value_is_not_averaged_in_bfloat16() -> None:
    query = torch.zeros(1, 1024, 1, 2)
    value = torch.ones(1, 1024, 1, dtype=torch.bfloat16).requires_grad_()
    found = attend(query, query, value)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.ones(1, 1024, 1))
    (gradient,) = torch.autograd.grad(found.sum(), value)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.float(), torch.ones(1, 1024, 1))


def test_autocast_changes_nothing() -> None:
    inputs = tokens((3, 20, 2, 6), dtype=torch.float32)
    expected = attend(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend(*inputs)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    for one, other in zip(gradients(found, inputs), gradients(expected, inputs), strict=True):
        assert torch.equal(one, other)
