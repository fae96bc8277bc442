"""Nets seen from outside: their logits together with what some of their layers gave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mst_distill.data.samples import Samples
from mst_distill.mst.losses import at_least_float32
from mst_distill.mst.networks import forward, modalities_of, two_samples
from mst_distill.training.batches import Inputs


@dataclass(frozen=True)
class Observed:
    """What a net said of a batch.

    Attributes:
        logits: ``(B, C)`` or ``(B, C, H, W)``.
        embedding: What its last layer made the logits of, ``(B, D)`` or ``(B, D, H, W)``.
        stages: What the chosen layers gave, ``(B, F)`` or ``(B, F, ...)`` each, in their order.
    """

    logits: Tensor
    embedding: Tensor = field(default_factory=lambda: torch.empty(0))
    stages: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Observed:
        """From `tensors` of another one."""
        logits, *rest = tensors
        return cls(logits, rest[0], tuple(rest[1:])) if rest else cls(logits)

    def precise(self) -> Observed:
        """The same with every tensor `at_least_float32`."""
        return Observed.of([at_least_float32(tensor) for tensor in self.tensors])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of it in a row."""
        return (self.logits, self.embedding, *self.stages)


class Observer:
    """Calls a net and hears its layers; the net is the same before and after every call.

    Args:
        name: ``multimodal`` or the net's modality.
        net: The net, placed.
        layers: The layers to hear, by module path.
        samples: Two of them are sent through, to find the last layer.

    Raises:
        ValueError: The net has no layer with weights.
    """

    def __init__(self, name: str, net: nn.Module, layers: Sequence[str], samples: Samples) -> None:
        self.name = name
        self.net = net
        self.layers = tuple(layers)
        self.head, self._ends_there = _last_layer(name, net, samples)

    def __call__(self, inputs: Inputs) -> Observed:
        """Send a batch through."""
        heard: dict[str, Tensor] = {}

        def hear_input(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            heard["embedding"] = args[0]

        hooks = [self.net.get_submodule(self.head).register_forward_pre_hook(hear_input)]
        for layer in self.layers:
            module = self.net.get_submodule(layer)
            hooks.append(
                module.register_forward_hook(
                    lambda _module, _args, output, layer=layer: heard.update({layer: output})
                )
            )
        try:
            logits = forward(self.net, self.name, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return Observed(logits, heard["embedding"], tuple(heard[layer] for layer in self.layers))

    def finish(self, inputs: Inputs, embedding: Tensor) -> Tensor:
        """The logits of a batch if the last layer saw `embedding`."""
        head = self.net.get_submodule(self.head)
        if self._ends_there:
            logits: Tensor = head(embedding)
            return logits
        hook = head.register_forward_pre_hook(lambda _module, _args: (embedding,))
        try:
            return forward(self.net, self.name, inputs)
        finally:
            hook.remove()

    def dry(self, samples: Samples) -> Observed:
        """What it says of the first two samples."""
        with _at_rest(self.net):
            return self(_two(self.name, self.net, samples))


def pooled(feature: Tensor) -> Tensor:
    """A map's mean over its places, ``(B, F, ...)`` to ``(B, F)``."""
    return feature.flatten(2).mean(dim=2) if feature.dim() > 2 else feature


@contextmanager
def _at_rest(net: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient inside; the mode is as before afterwards."""
    training = net.training
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        net.train(training)


def _two(name: str, net: nn.Module, samples: Samples) -> Inputs:
    return two_samples(samples, modalities_of(name, list(samples.modalities)), net)


def _last_layer(name: str, net: nn.Module, samples: Samples) -> tuple[str, bool]:
    """Path of the layer with weights that a net calls last, and whether it gives the logits."""
    called: list[tuple[str, object]] = []
    leaves = {
        path: module
        for path, module in net.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    }
    hooks = [
        module.register_forward_hook(lambda _m, _a, out, path=path: called.append((path, out)))
        for path, module in leaves.items()
    ]
    try:
        with _at_rest(net):
            logits = forward(net, name, _two(name, net, samples))
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise ValueError(f"the net of member {name!r} has no layer with weights")
    last, output = called[-1]
    return last, output is logits
