"""The losses: distillation, cross-entropy, and the two that balance the load of a router."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KD(s <- t) = tau^2 KL(softmax(t / tau) || softmax(s / tau)), one value for each sample.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015; the paper's equation of
    the same name. Neither side is detached here.

    Args:
        student: Logits ``(B, C)`` or ``(B, C, H, W)``.
        teacher: Logits of the same shape.
        temperature: tau > 0.

    Returns:
        ``(B,)``, at least 0; dense logits are averaged over their pixels.
    """
    each = distillation_per_pixel(student, teacher, temperature)
    return each.flatten(1).mean(dim=1) if each.dim() > 1 else each


def distillation_per_pixel(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`distillation` without the mean over pixels: ``(B,)``, or ``(B, H, W)`` for dense logits.

    Both sides are passed as log-probabilities. In stage 1 the teacher receives a gradient, and the
    gradient of log(p) is not finite once the probability p underflows to 0.

    Raises:
        ValueError: The logits have different shapes, which PyTorch would broadcast.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"logits of shape {tuple(student.shape)} cannot be distilled from logits of shape "
            f"{tuple(teacher.shape)}: both need the same shape"
        )
    own, other = (
        F.log_softmax(at_least_float32(of) / temperature, dim=1) for of in (student, teacher)
    )
    each = F.kl_div(own, other, reduction="none", log_target=True)
    return temperature**2 * each.sum(dim=1)


def cross_entropy(logits: Tensor, label: Tensor, ignored: int | None) -> Tensor:
    """Mean cross-entropy over the samples, or over the pixels, whose label is not `ignored`.

    Args:
        logits: ``(B, C)`` or ``(B, C, H, W)``.
        label: ``(B,)`` or ``(B, H, W)``, int64.
        ignored: The label that is no target, or None. If all labels are ignored, the loss is 0.
    """
    if ignored is None:
        return F.cross_entropy(at_least_float32(logits), label)
    total = F.cross_entropy(at_least_float32(logits), label, ignore_index=ignored, reduction="sum")
    return total / (label != ignored).sum().clamp(min=1)


def mean_over(each: Tensor, rows: Tensor | None) -> Tensor:
    """The mean of the values of some samples; 0 if there are none.

    Args:
        each: ``(B,)`` or ``(B, ...)``. Values of the other samples may be NaN.
        rows: ``(B,)``, whether a sample counts; None if all do.
    """
    if rows is None:
        return each.mean()
    each = each.flatten(1).mean(dim=1) if each.dim() > 1 else each
    return each.where(rows, 0).sum() / rows.sum().clamp(min=1)


def total(terms: Collection[Tensor], like: Tensor) -> Tensor:
    """The sum of loss terms; 0, on the device of `like`, if a batch has nothing for any term."""
    return torch.stack(list(terms)).sum() if terms else torch.zeros((), device=like.device)


def both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Whether both of two conditions hold for each sample; None stands for "for all"."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def over_pixels(weights: Tensor, like: Tensor) -> Tensor:
    """Append axes of length 1 to `weights`, so that they broadcast over the pixels of `like`."""
    return weights.reshape(*weights.shape, *[1] * (like.dim() - weights.dim()))


def label_if(label: Tensor, rows: Tensor | None, ignored: int | None) -> Tensor:
    """The labels of some samples, and `ignored` for the others.

    Args:
        label: ``(B,)`` or ``(B, H, W)``.
        rows: ``(B,)``, whether a sample keeps its label; None if all do.
        ignored: The label that is no target; None only if `rows` is.
    """
    if rows is None or ignored is None:
        return label
    return label.masked_fill(~over_pixels(rows, label), ignored)


def or_zero(logits: Tensor, seen: Tensor | None) -> Tensor:
    """Logits with zeros in place of those of models that cannot see a sample.

    These may be NaN, which has a gradient of NaN even with the weight 0.

    Args:
        logits: ``(B, C, ...)``, or of several models ``(B, E, C, ...)``.
        seen: ``(B,)`` or ``(B, E)``; None if all can see all.
    """
    if seen is None:
        return logits
    return logits.where(over_pixels(seen, logits), 0)


def is_target(label: Tensor, ignored: int | None) -> Tensor:
    """Whether each label is a target: not `ignored`. In the shape of `label`; None ignores none."""
    return torch.ones_like(label, dtype=torch.bool) if ignored is None else label != ignored


def without_label(label: Tensor, ignored: int) -> Tensor:
    """Whether each sample has no label, ``(B,)``.

    Args:
        label: ``(B,)`` or ``(B, H, W)``. A sample of a dense task has no label if no pixel has.
        ignored: The label that is no target.
    """
    return (label == ignored).reshape(len(label), -1).all(dim=1)


def accuracy(logits: Tensor, label: Tensor, ignored: int | None) -> Tensor:
    """The share of samples, or of pixels, that are predicted right, if not `ignored`."""
    right = logits.argmax(dim=1) == label
    labelled = is_target(label, ignored)
    return (right & labelled).sum().double() / labelled.sum().clamp(min=1)


def balance_kl(log_weights: Tensor, scaled: bool) -> Tensor:
    """KL(U || mean over the batch of c), U uniform; 0 if all specialists have the same load.

    Args:
        log_weights: log c, the router's log-softmax, ``(B, E)``. With logarithms the loss stays
            finite even if the weight of a specialist underflows to 0 for all samples.
        scaled: Divide by E, as the released implementation does and the paper's equation does not.
    """
    samples, specialists = log_weights.shape
    log_mean = log_weights.logsumexp(dim=0) - math.log(samples)
    divergence = -math.log(specialists) - log_mean.mean()
    return divergence / specialists if scaled else divergence


def balance_cv(weights: Tensor) -> Tensor:
    """Coefficient of variation of the summed c: its standard deviation over its mean.

    It is 0 for a single specialist.

    Shazeer et al., "Outrageously Large Neural Networks", ICLR 2017, eq. 6 (there squared).

    Args:
        weights: c, the router's ``(B, E)`` softmax.
    """
    load = weights.sum(dim=0)
    return load.std(correction=min(1, len(load) - 1)) / load.mean()


def at_least_float32(values: Tensor) -> Tensor:
    """Convert less precise values to float32: bfloat16 is too coarse for differences of logarithms.

    Values in float64 stay float64, in which the method can be compared with exact results.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))
