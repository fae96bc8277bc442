"""Attention whose values are single numbers: all that a mask needs of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from mst_distill.mst.losses import at_least_float32

SCORES = 2**24
"""Bytes of attention scores that are held at once."""


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v in every head, for values that are numbers, not vectors.

    Scores are made for some samples at a time and made again for the gradient, so that memory does
    not grow with the batch. With P the softmax, o the output and do the gradient that arrives,
    dv = P^T do, and the gradient of the scores is P * do * (v - o): no product of matrices.

    Args:
        query: ``(B, F, H, d)``: samples, tokens, heads.
        key: ``(B, F, H, d)``.
        value: ``(B, F, H)``.

    Returns:
        ``(B, F, H)``, at least float32 whatever the query's and key's precision is.
    """
    return _Attend.apply(query, key, at_least_float32(value))


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output, largest, total = (torch.empty_like(value) for _ in range(3))
        with torch.autocast(query.device.type, enabled=False):
            for q, k, v, out, top, sum_ in _parts(query, key, value, output, largest, total):
                score = _scores(_by_head(q), _by_head(k), v.dtype)
                maximum = score.amax(dim=2, keepdim=True)
                share = score.sub_(maximum).exp_()
                of_all = share.sum(dim=2, keepdim=True)
                _put(out.unsqueeze(3), torch.bmm(share, _by_head(v.unsqueeze(3))).div_(of_all))
                _put(top.unsqueeze(3), maximum)
                _put(sum_.unsqueeze(3), of_all)
        ctx.save_for_backward(query, key, value, output, largest, total)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, arriving: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, output, largest, total = ctx.saved_tensors  # type: ignore[attr-defined]
        gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        saved = (query, key, value, output, largest, arriving / total)
        with torch.autocast(query.device.type, enabled=False):
            for q, k, v, out, top, do, dq, dk, dv in _parts(*saved, *gradients):
                q, k = _by_head(q), _by_head(k)
                v, out, top, do = (_by_head(of.unsqueeze(3)) for of in (v, out, top, do))
                share = _scores(q, k, v.dtype).sub_(top).exp_().mul_(do)
                _put(dv.unsqueeze(3), share.sum(dim=1).unsqueeze(2))
                share.mul_(v.transpose(1, 2) - out)
                score = share.mul_(q.shape[2] ** -0.5).to(q.dtype)
                _put(dq, torch.bmm(score, k))
                _put(dk, torch.bmm(score.transpose(1, 2), q))
        return gradients


def _scores(query: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.bmm(query, key.transpose(1, 2)).to(dtype).mul_(query.shape[2] ** -0.5)


def _parts(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """The same samples of all tensors, as many at a time as `SCORES` allows."""
    _, tokens, heads = tensors[2].shape
    samples = max(1, SCORES // (heads * tokens**2 * tensors[2].element_size()))
    return zip(*(tensor.split(samples) for tensor in tensors), strict=True)


def _by_head(part: Tensor) -> Tensor:
    """``(b, F, H, d)`` to ``(b * H, F, d)``, a copy."""
    return part.transpose(1, 2).flatten(0, 1)


def _put(part: Tensor, by_head: Tensor) -> None:
    """Back into a part what `_by_head` took apart."""
    samples, _, heads, _ = part.shape
    part.copy_(by_head.unflatten(0, (samples, heads)).transpose(1, 2))
