"""Attention whose values are single numbers, which is all that a mask needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from mst_distill.mst.losses import at_least_float32

SCORES = {"cpu": 2**24, "cuda": 2**30}
"""The number of bytes of attention scores that are in memory at once, by the kind of device.

On a CPU it is the size of a cache. On a GPU it is large: each slice starts about 40 kernels.
"""

ALIGNED = 8
"""Fused kernels take heads whose width is a multiple of this number."""


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v in every head, for values that are single numbers.

    This equals `torch.nn.functional.scaled_dot_product_attention` with value vectors of width 1.

    The ``(F, F)`` scores of a head are computed for some samples at a time. The backward pass
    computes them again instead of storing them, so that memory does not grow with the batch. Let
    P be the softmax, o = P v the output, and g the gradient of the loss with respect to o. The
    gradient with respect to v is P^T g. Since o_i = sum_j P_ij v_j with numbers v_j, the gradient
    with respect to the score s_ij is P_ij g_i (v_j - o_i): an elementwise product, where vectors
    would need a product of matrices.

    Args:
        query: ``(B, F, H, d)``: samples, tokens, heads, width of a head.
        key: ``(B, F, H, d)``.
        value: ``(B, F, H)``.

    Returns:
        ``(B, F, H)``, at least float32 even if query and key are less precise.
    """
    precise = at_least_float32(value)
    if query.is_cuda and has_fused_kernel(*(heads := fused_heads(query, key, value))):
        output = F.scaled_dot_product_attention(*heads, scale=query.shape[3] ** -0.5)
        return output[..., 0].transpose(1, 2).to(precise.dtype)
    return _Attend.apply(query, key, precise)


def fused_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value as fused kernels take them, ``(B, H, F, d)`` with aligned widths.

    The columns that are added are 0 and change neither the scores nor the first column of the
    output.
    """
    tokens = query, key, value.unsqueeze(3).to(query.dtype)
    padded = (F.pad(of, (0, -of.shape[3] % ALIGNED)) for of in tokens)
    query, key, value = (of.transpose(1, 2) for of in padded)
    return query, key, value


def has_fused_kernel(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether PyTorch has a kernel on this GPU that does not store the scores."""
    kernels = torch.backends.cuda
    params = kernels.SDPAParams(query, key, value, None, 0.0, False, False)
    return kernels.can_use_efficient_attention(params) or kernels.can_use_flash_attention(params)


class _Attend(torch.autograd.Function):
    # The loops run over slices of a few samples. A slice is a view of its tensor, so that
    # `_write_heads` fills the whole output and the whole gradients.

    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output, row_max, row_sum = (torch.empty_like(value) for _ in range(3))
        # Autocast would compute the products of float32 tensors in bfloat16.
        with torch.autocast(query.device.type, enabled=False):
            for q, k, v, out, largest, norm in _slices(query, key, value, output, row_max, row_sum):
                score = _scores(_split_heads(q), _split_heads(k), v.dtype)
                # exp cannot overflow once the maximum of each row is subtracted.
                maximum = score.amax(dim=2, keepdim=True)
                power = score.sub_(maximum).exp_()
                total = power.sum(dim=2, keepdim=True)
                _write_heads(
                    out.unsqueeze(3), torch.bmm(power, _split_heads(v.unsqueeze(3))).div_(total)
                )
                _write_heads(largest.unsqueeze(3), maximum)
                _write_heads(norm.unsqueeze(3), total)
        # With maximum and sum of each row, the backward pass obtains P from the scores elementwise.
        ctx.save_for_backward(query, key, value, output, row_max, row_sum)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, output, row_max, total = ctx.saved_tensors  # type: ignore[attr-defined]
        gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        # P_ij g_i = exp(s_ij - max_i) g_i / total_i: dividing g by the totals normalises P.
        saved = (query, key, value, output, row_max, d_output / total)
        with torch.autocast(query.device.type, enabled=False):
            for q, k, v, out, largest, g, d_q, d_k, d_v in _slices(*saved, *gradients):
                q, k = _split_heads(q), _split_heads(k)
                v, out, largest, g = (_split_heads(of.unsqueeze(3)) for of in (v, out, largest, g))
                p_times_g = _scores(q, k, v.dtype).sub_(largest).exp_().mul_(g)
                _write_heads(d_v.unsqueeze(3), p_times_g.sum(dim=1).unsqueeze(2))
                p_times_g.mul_(v.transpose(1, 2) - out)  # now the gradient of the scores
                # The scores are q k^T / sqrt(d), so that the gradient of q k^T is divided, too.
                d_product = p_times_g.mul_(q.shape[2] ** -0.5).to(q.dtype)
                _write_heads(d_q, torch.bmm(d_product, k))
                _write_heads(d_k, torch.bmm(d_product.transpose(1, 2), q))
        return gradients


def _scores(query: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute q k^T / sqrt(d), ``(b * H, F, F)``, from query and key ``(b * H, F, d)``."""
    return torch.bmm(query, key.transpose(1, 2)).to(dtype).mul_(query.shape[2] ** -0.5)


def _slices(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """Slices of all tensors along the samples, each with as many samples as `SCORES` allows."""
    # The third tensor is the value, whose type is that of the scores.
    _, tokens, heads = tensors[2].shape
    scores = SCORES[tensors[2].device.type]
    samples = max(1, scores // (heads * tokens**2 * tensors[2].element_size()))
    return zip(*(tensor.split(samples) for tensor in tensors), strict=True)


def _split_heads(tokens: Tensor) -> Tensor:
    """Copy ``(b, F, H, d)`` to ``(b * H, F, d)``."""
    return tokens.transpose(1, 2).flatten(0, 1)


def _write_heads(tokens: Tensor, by_head: Tensor) -> None:
    """Write ``(b * H, F, d)`` to the memory of `tokens`, ``(b, F, H, d)``."""
    samples, _, heads, _ = tokens.shape
    tokens.copy_(by_head.unflatten(0, (samples, heads)).transpose(1, 2))
