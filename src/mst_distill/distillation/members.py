"""Members: one multimodal teacher and one net a modality, built, called and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mst_distill.distillation.masks import mask_class
from mst_distill.imports import resolve
from mst_distill.parameters import Member, Members, unknown
from mst_distill.samples import Samples
from mst_distill.training.batches import Inputs
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed

MULTIMODAL = "multimodal"
"""The name of the member that sees every modality; the others bear their modality's name."""


def arguments_of(member: Member, classes: int) -> dict[str, object]:
    """What a member's class is called with."""
    return {"classes": classes, **member.arguments}


def build_member(name: str, member: Member, classes: int, seed: int) -> nn.Module:
    """Build one net; its start weights depend on `seed` and `name` alone.

    Raises:
        ValueError, TypeError: Its class cannot be found, is no ``nn.Module``, or refuses its
            arguments; the message names the member.
    """
    try:
        kind = resolve(member.type, nn.Module)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "member", name))
            return kind(**arguments_of(member, classes))
    except (TypeError, ValueError) as error:
        raise type(error)(f"member {name!r}: {error}") from error


def build_members(run: Run, members: Members) -> dict[str, nn.Module]:
    """Build the run's members and check that all can be trained on its samples.

    Returns:
        The multimodal teacher, the cross-modal ones, the student, by member name in this order.

    Raises:
        ValueError, TypeError: As `build_member` and `check_members`.
    """
    chosen = {**members.teachers_of(run.target), run.target: members.modalities[run.target]}
    classes = len(run.samples.classes)
    nets = {name: build_member(name, of, classes, run.seed) for name, of in chosen.items()}
    check_members(nets, chosen, run.samples)
    return nets


def modalities_of(name: str, modalities: Sequence[str]) -> tuple[str, ...]:
    """The modalities that the member `name` sees."""
    return tuple(modalities) if name == MULTIMODAL else (name,)


def forward(net: nn.Module, name: str, inputs: Inputs) -> Tensor:
    """Call the net of the member `name`: by keyword with all modalities, or with its own one.

    Args:
        net: A member's net, or a part of it that takes the same inputs.
        name: ``multimodal`` or a modality.
        inputs: At least what the member sees.

    Returns:
        Logits ``(B, C)`` or ``(B, C, H, W)``.
    """
    return net(**inputs) if name == MULTIMODAL else net(inputs[name])


def freeze(nets: Iterable[nn.Module]) -> None:
    """Eval mode and no gradient, for good."""
    for net in nets:
        net.eval().requires_grad_(False)


def feature_shapes(
    name: str, net: nn.Module, layers: Sequence[str], samples: Samples
) -> dict[str, tuple[int, ...]]:
    """Find the shapes of layers' outputs by a dry forward pass of two samples.

    Raises:
        ValueError: A layer does not exist (the message names those that do) or gives no tensor.
    """
    known = [path for path, _ in net.named_modules() if path]
    if strange := [layer for layer in layers if layer not in known]:
        raise ValueError(unknown(f"layer of member {name!r}", strange[0], known))
    shapes: dict[str, tuple[int, ...]] = {}

    def watch(layer: str) -> object:
        def note(_module: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                raise ValueError(f"layer {layer!r} of member {name!r} gives no single tensor")
            shapes[layer] = tuple(output.shape)

        return net.get_submodule(layer).register_forward_hook(note)

    hooks = [watch(layer) for layer in layers]
    try:
        _dry_forward(name, net, samples)
    finally:
        for hook in hooks:
            hook.remove()  # type: ignore[attr-defined]
    return shapes


def check_members(
    nets: Mapping[str, nn.Module], members: Mapping[str, Member], samples: Samples
) -> None:
    """Refuse members that cannot be trained on these samples, before anything is trained.

    Raises:
        ValueError: A member's modality is missing, its logits do not fit the labels, or one of its
            masked layers does not exist, is never called, or cannot be masked; the message names
            member and layer, and what there is.
    """
    for name, net in nets.items():
        if name != MULTIMODAL and name not in samples.modalities:
            raise ValueError(unknown("modality", name, samples.modalities))
        logits = tuple(_dry_forward(name, net, samples).shape)
        expected = (2, len(samples.classes), *samples.labels.shape[1:])
        if logits != expected:
            raise ValueError(
                f"member {name!r} gives logits of shape {logits} for two samples; {expected} would "
                f"fit the {len(samples.classes)} classes and labels of shape "
                f"{samples.labels.shape[1:]}"
            )
        shapes = feature_shapes(name, net, members[name].masked_layers, samples)
        for layer in members[name].masked_layers:
            if layer not in shapes:
                raise ValueError(f"layer {layer!r} of member {name!r} is not called in a forward")
            try:
                mask_class(shapes[layer])
            except ValueError as error:
                raise ValueError(f"layer {layer!r} of member {name!r}: {error}") from error


def two_samples(samples: Samples, modalities: Sequence[str], net: nn.Module) -> Inputs:
    """The first two samples, where `net` lies."""
    device = next(net.parameters()).device
    return {
        modality: torch.from_numpy(np.array(samples.modalities[modality][:2])).to(device)
        for modality in modalities
    }


def _dry_forward(name: str, net: nn.Module, samples: Samples) -> Tensor:
    inputs = two_samples(samples, modalities_of(name, list(samples.modalities)), net)
    was_training = net.training
    try:
        with torch.no_grad():
            return forward(net.eval(), name, inputs)
    except (RuntimeError, TypeError) as error:
        shapes = {modality: tuple(tensor.shape) for modality, tensor in inputs.items()}
        raise ValueError(f"member {name!r} cannot be called with {shapes}: {error}") from error
    finally:
        net.train(was_training)
