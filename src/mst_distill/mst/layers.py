"""The layers of a net: the shapes that they return, and which of them can carry a mask."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mst_distill.data.samples import Samples
from mst_distill.mst.networks import build_mask, forward, modalities_of, two_samples
from mst_distill.parameters import Masks


@dataclass(frozen=True)
class Layer:
    """One layer of a net.

    Attributes:
        path: Its module path, as in ``masked_layers``.
        kind: The name of its class.
        shape: The shape that it returns for one sample; empty if that is not one tensor.
        mask_weights: The number of weights of a mask for it; None if it cannot carry a mask.
        reason: Why it cannot; empty if it can.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    mask_weights: int | None
    reason: str


def layers_of(name: str, net: nn.Module, samples: Samples, masks: Masks) -> list[Layer]:
    """List the layers that a net calls, in the order in which their first calls end.

    Args:
        name: ``multimodal`` or the modality of the net.
        net: The net of this member.
        samples: The store; two samples are used.
        masks: Kind and size of the masks.
    """
    outputs: dict[str, list[object]] = {}
    hooks = [
        module.register_forward_hook(
            lambda _module, _args, output, path=path: outputs.setdefault(path, []).append(output)
        )
        for path, module in net.named_modules()
        if path
    ]
    training = net.training
    try:
        with torch.no_grad():
            inputs = two_samples(samples, modalities_of(name, list(samples.modalities)), net)
            forward(net.eval(), name, inputs)
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return [_layer(name, path, net, found, masks) for path, found in outputs.items()]


def layer_table(layers: Sequence[Layer], masked: Collection[str]) -> str:
    """Return a line of text for each layer, in columns below a header.

    Args:
        layers: From `layers_of`.
        masked: The paths of layers that carry a mask, which are marked.
    """
    rows = [("layer", "class", "shape", "weights of a mask")]
    for layer in layers:
        cost = f"- {layer.reason}" if layer.reason else f"{layer.mask_weights:,}"
        mark = " (masked)" if layer.path in masked else ""
        rows.append((layer.path, layer.kind, " x ".join(map(str, layer.shape)), cost + mark))
    path, kind, shape = (max(len(row[column]) for row in rows) for column in range(3))
    return "\n".join(f"  {a:<{path}}  {b:<{kind}}  {c:<{shape}}  {d}" for a, b, c, d in rows)


def count_weights(net: nn.Module) -> int:
    """The number of weights of a net or a mask."""
    return sum(weight.numel() for weight in net.parameters())


def _layer(name: str, path: str, net: nn.Module, outputs: list[object], masks: Masks) -> Layer:
    output, kind = outputs[0], type(net.get_submodule(path)).__name__
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return Layer(path, kind, (), None, "it does not return one floating-point tensor")
    shape = tuple(output.shape[1:])
    if output.dim() not in (2, 4):
        return Layer(path, kind, shape, None, "a mask needs (B, F) or (B, C, H, W)")
    if len(outputs) > 1:
        return Layer(path, kind, shape, None, f"it is called {len(outputs)} times")
    try:
        with torch.device("meta"):  # the weights themselves are not needed
            mask = build_mask(name, path, tuple(output.shape), masks)
    except ValueError as error:
        return Layer(path, kind, shape, None, str(error).partition(": ")[2])
    return Layer(path, kind, shape, count_weights(mask), "")
