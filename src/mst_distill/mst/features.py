"""Feature extraction: the logits of a net together with the outputs of some of its layers."""

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
class ModelOutput:
    """The output of a net for a batch.

    Attributes:
        logits: ``(B, C)`` or ``(B, C, H, W)``.
        embedding: The input of the net's last layer, ``(B, D)`` or ``(B, D, H, W)``.
        stages: The outputs of the extracted layers, each ``(B, F)`` or ``(B, F, ...)``.
    """

    logits: Tensor
    embedding: Tensor = field(default_factory=lambda: torch.empty(0))
    stages: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> ModelOutput:
        """Make an output of the tensors that `tensors` lists."""
        logits, *rest = tensors
        return cls(logits, rest[0], tuple(rest[1:])) if rest else cls(logits)

    def at(self, indices: Tensor) -> ModelOutput:
        """The output for the samples at `indices` of the batch."""
        return ModelOutput.of([tensor[indices] for tensor in self.tensors])

    def precise(self) -> ModelOutput:
        """The same output with `at_least_float32` applied to every tensor."""
        return ModelOutput.of([at_least_float32(tensor) for tensor in self.tensors])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Logits, embedding and stages, in this order."""
        return (self.logits, self.embedding, *self.stages)


class FeatureExtractor:
    """Calls a net and extracts the outputs of its layers with hooks, which each call removes again.

    Args:
        name: ``multimodal`` or the modality of the net.
        net: The net, on its device.
        layers: The module paths of the layers to extract.
        samples: The store; a trial forward pass of two samples finds the last layer.

    Raises:
        ValueError: The net has no layer with weights.
    """

    def __init__(self, name: str, net: nn.Module, layers: Sequence[str], samples: Samples) -> None:
        self.name = name
        self.net = net
        self.layers = tuple(layers)
        self.head, self._head_outputs_logits = _last_layer(name, net, samples)

    def __call__(self, inputs: Inputs) -> ModelOutput:
        """Run a forward pass of a batch."""
        outputs: dict[str, Tensor] = {}

        def store_input(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            outputs["embedding"] = args[0]

        hooks = [self.net.get_submodule(self.head).register_forward_pre_hook(store_input)]
        for layer in self.layers:
            module = self.net.get_submodule(layer)
            hooks.append(
                module.register_forward_hook(
                    lambda _module, _args, output, layer=layer: outputs.update({layer: output})
                )
            )
        try:
            logits = forward(self.net, self.name, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return ModelOutput(
            logits, outputs["embedding"], tuple(outputs[layer] for layer in self.layers)
        )

    def finish(self, inputs: Inputs, embedding: Tensor) -> Tensor:
        """The logits of a batch if the last layer receives `embedding` as its input."""
        head = self.net.get_submodule(self.head)
        if self._head_outputs_logits:  # nothing follows the last layer: no other layer has to run
            logits: Tensor = head(embedding)
            return logits
        hook = head.register_forward_pre_hook(lambda _module, _args: (embedding,))
        try:
            return forward(self.net, self.name, inputs)
        finally:
            hook.remove()

    def dry(self, samples: Samples) -> ModelOutput:
        """Run a trial forward pass of the first two samples, in eval mode without gradient."""
        with _evaluating(self.net):
            return self(_first_two(self.name, self.net, samples))


def pooled(feature: Tensor) -> Tensor:
    """The mean of a map over its positions, ``(B, F, ...)`` to ``(B, F)``."""
    return feature.flatten(2).mean(dim=2) if feature.dim() > 2 else feature


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Set eval mode and disable gradients inside the context; restore the mode afterwards."""
    training = net.training
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        net.train(training)


def _first_two(name: str, net: nn.Module, samples: Samples) -> Inputs:
    return two_samples(samples, modalities_of(name, list(samples.modalities)), net)


def _last_layer(name: str, net: nn.Module, samples: Samples) -> tuple[str, bool]:
    """Path of the last called layer with weights, and whether its output is the logits."""
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
        with _evaluating(net):
            logits = forward(net, name, _first_two(name, net, samples))
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise ValueError(f"the net of member {name!r} has no layer with weights")
    last, output = called[-1]
    return last, output is logits
