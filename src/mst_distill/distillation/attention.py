"""Attention whose values are single numbers: all that a mask needs of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

SCORES = 2**26
"""Bytes of attention scores that are held at once."""


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for values that are numbers, not vectors.

    Scores are made some matrices at a time and made again for the gradient, so that memory does not
    grow with N. With P the softmax and o the output, do the gradient that arrives:
    dv = P^T do, and the scores' gradient is P * do * (v - o), which takes no product of matrices.

    Args:
        query: ``(N, F, d)``; N counts samples and heads.
        key: ``(N, F, d)``.
        value: ``(N, F)``.

    Returns:
        ``(N, F)``, at least float32 whatever the query's and key's precision is.
    """
    return _Attend.apply(query, key, value.to(torch.promote_types(value.dtype, torch.float32)))


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output, log_total = torch.empty_like(value), torch.empty_like(value)
        with torch.autocast(query.device.type, enabled=False):
            for q, k, v, out, log in _parts(query, key, value, output, log_total):
                score = _scores(q, k, v.dtype)
                largest = score.amax(dim=2, keepdim=True)
                share = score.sub_(largest).exp_()
                total = share.sum(dim=2)
                torch.div(torch.bmm(share, v.unsqueeze(2)).squeeze(2), total, out=out)
                torch.add(total.log_(), largest.squeeze(2), out=log)
        ctx.save_for_backward(query, key, value, output, log_total)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, arriving: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, output, log_total = ctx.saved_tensors  # type: ignore[attr-defined]
        to_query, to_key = torch.empty_like(query), torch.empty_like(key)
        to_value = torch.empty_like(value)
        frozen = (query, key, value, output, log_total, arriving)
        for q, k, v, out, log, do, dq, dk, dv in _parts(*frozen, to_query, to_key, to_value):
            share = _scores(q, k, v.dtype).sub_(log.unsqueeze(2)).exp_().mul_(do.unsqueeze(2))
            torch.sum(share, dim=1, out=dv)
            score = share.mul_(v.unsqueeze(1) - out.unsqueeze(2)).mul_(q.shape[2] ** -0.5)
            score = score.to(q.dtype)
            torch.bmm(score, k, out=dq)
            torch.bmm(score.transpose(1, 2), q, out=dk)
        return to_query, to_key, to_value


def _scores(query: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.bmm(query, key.transpose(1, 2)).to(dtype).mul_(query.shape[2] ** -0.5)


def _parts(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """The same rows of all tensors, as many at a time as `SCORES` allows."""
    width, size = tensors[0].shape[1], tensors[2].element_size()
    rows = max(1, SCORES // (width * width * size))
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)
