"""Members: one multimodal teacher and one net a modality, built, called and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mst_distill.data.samples import Samples
from mst_distill.errors import unknown
from mst_distill.import_path import resolve, resolve_function
from mst_distill.mst.masks import FixedMask, mask_class
from mst_distill.parameters import MULTIMODAL, Masks, Member, Members
from mst_distill.training.batches import Inputs
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed


def arguments_of(member: Member, classes: int) -> dict[str, object]:
    """What a member's class is called with."""
    return {"classes": classes, **member.arguments}


def member_class(name: str, member: Member) -> type[nn.Module]:
    """The class of a member's net.

    Raises:
        ValueError, TypeError: It cannot be found, or is no ``nn.Module``; the message names the
            member.
    """
    try:
        return resolve(member.type, nn.Module)
    except TypeError as error:
        raise TypeError(f"member {name!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"member {name!r}: {error}") from error


def build_member(name: str, member: Member, classes: int, seed: int) -> nn.Module:
    """Build one net; its start weights depend on `seed` and `name` alone.

    Raises:
        ValueError, TypeError: Its class cannot be found, is no ``nn.Module``, or refuses its
            arguments, or its start weights cannot be had; the message names the member.
    """
    kind = member_class(name, member)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "member", name))
            net = kind(**arguments_of(member, classes))
            if member.start:
                resolve_function(member.start)(net)
            return net
    except TypeError as error:
        raise TypeError(f"member {name!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"member {name!r}: {error}") from error


def build_members(run: Run, members: Members, masks: Masks) -> dict[str, nn.Module]:
    """Build the run's members and check that all can be trained and masked on its samples.

    Returns:
        The multimodal teacher, the cross-modal ones, the student, by member name in this order.

    Raises:
        ValueError, TypeError: As `build_member` and `check_members`.
    """
    chosen = members.all_of(run.target)
    classes = len(run.samples.classes)
    nets = {name: build_member(name, of, classes, run.seed) for name, of in chosen.items()}
    with torch.random.fork_rng(devices=[]):
        # Lazy layers get their weights in the first forward pass.
        torch.manual_seed(derive_seed(run.seed, "lazy layers"))
        check_members(nets, chosen, masks, run.samples)
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

    Returns:
        Layer to shape, in the order in which the net calls them.

    Raises:
        ValueError: A layer does not exist (the message names those that do), gives no tensor of
            floating-point numbers, is called never or more than once, or the layers are not in the
            order of their calls.
    """
    known = [path for path, _ in net.named_modules() if path]
    if strange := [layer for layer in layers if layer not in known]:
        raise ValueError(unknown(f"layer of member {name!r}", strange[0], known))
    outputs: list[tuple[str, object]] = []

    def watch(layer: str) -> RemovableHandle:
        module = net.get_submodule(layer)
        return module.register_forward_hook(lambda _m, _i, out: outputs.append((layer, out)))

    hooks = [watch(layer) for layer in layers]
    try:
        _dry_forward(name, net, samples)
    finally:
        for hook in hooks:
            hook.remove()
    called = [layer for layer, _ in outputs]
    for layer in layers:
        if (times := called.count(layer)) != 1:
            raise ValueError(
                f"layer {layer!r} of member {name!r} is called {times} times in a forward pass; a "
                f"mask needs a layer that is called once"
            )
    if called != list(layers):
        raise ValueError(
            f"masked_layers of member {name!r} are {list(layers)}; list them in the order in which "
            f"the net calls them: {called}"
        )
    shapes = {
        layer: tuple(out.shape)
        for layer, out in outputs
        if isinstance(out, Tensor) and out.is_floating_point()
    }
    if lacking := [layer for layer in layers if layer not in shapes]:
        raise ValueError(
            f"layer {lacking[0]!r} of member {name!r} gives no single tensor of floating-point "
            f"numbers"
        )
    return shapes


def check_members(
    nets: Mapping[str, nn.Module],
    members: Mapping[str, Member],
    masks: Masks,
    samples: Samples,
) -> None:
    """Refuse members that cannot be trained or masked on these samples, before any is trained.

    Raises:
        ValueError: A member's modality is missing, its logits do not fit the labels or are not
            finite, or one of its masked layers does not exist, is not called once, or cannot be
            masked; the message names member and layer, and what there is.
    """
    for name, net in nets.items():
        if name != MULTIMODAL and name not in samples.modalities:
            raise ValueError(unknown("modality", name, samples.modalities))
        logits = _dry_forward(name, net, samples)
        expected = (2, len(samples.classes), *samples.labels.shape[1:])
        if logits.shape != expected:
            raise ValueError(
                f"member {name!r} gives logits of shape {tuple(logits.shape)} for two samples; "
                f"{expected} would fit the {len(samples.classes)} classes and labels of shape "
                f"{samples.labels.shape[1:]}"
            )
        if not logits.isfinite().all():
            raise ValueError(
                f"member {name!r} gives logits that are not finite for the first two samples, "
                f"before any training: its start weights or the values that it reads are too large"
            )
        shapes = feature_shapes(name, net, members[name].masked_layers, samples)
        with torch.device("meta"):  # to see that there can be such masks costs no memory
            for layer, shape in shapes.items():
                build_mask(name, layer, shape, masks)
        for layer, shape in shapes.items():
            _try_mask(name, net, layer, shape, samples)


def _try_mask(
    name: str, net: nn.Module, layer: str, shape: tuple[int, ...], samples: Samples
) -> None:
    """Send two samples through a net with a mask on one of its layers.

    Any mask gives a feature of the same shape, so that the cheapest one stands for all.
    """
    device = next((weight.device for weight in net.parameters()), None)
    mask = FixedMask(shape[1]).to(device)
    hook = net.get_submodule(layer).register_forward_hook(lambda _m, _i, feature: mask(feature))
    try:
        masked = _dry_forward(name, net, samples)
    except ValueError as error:
        raise ValueError(f"with a mask on its layer {layer!r}, {error}") from error
    finally:
        hook.remove()
    expected = (2, len(samples.classes), *samples.labels.shape[1:])
    if masked.shape != expected or not masked.isfinite().all():
        finite = "" if masked.isfinite().all() else ", not all finite"
        raise ValueError(
            f"with a mask on its layer {layer!r}, member {name!r} gives logits of shape "
            f"{tuple(masked.shape)}{finite} for two samples, and of shape {expected} without: the "
            f"net must take any values of the layer's own shape {shape} there"
        )


def build_mask(name: str, layer: str, shape: tuple[int, ...], masks: Masks) -> nn.Module:
    """A new mask for a feature of `shape`, the batch in front.

    Raises:
        ValueError: There is no mask for such a feature; the message names member and layer.
    """
    try:
        kind: Callable[..., nn.Module] = mask_class(shape)
        if masks.kind == "fixed":
            kind = FixedMask
        return kind(width=shape[1], **_size_of(masks))
    except ValueError as error:
        raise ValueError(f"layer {layer!r} of member {name!r}: {error}") from error


def mask_arguments(mask: nn.Module, masks: Masks) -> dict[str, object]:
    """What the class of a mask was called with."""
    return {"width": mask.width, **_size_of(masks)}


def _size_of(masks: Masks) -> dict[str, int]:
    return {} if masks.kind == "fixed" else {"factor": masks.factor, "heads": masks.heads}


def two_samples(samples: Samples, modalities: Sequence[str], net: nn.Module) -> Inputs:
    """The first two samples, where `net` lies."""
    device = next((weight.device for weight in net.parameters()), torch.device("cpu"))
    return {
        modality: torch.from_numpy(np.array(samples.modalities[modality][:2])).to(device)
        for modality in modalities
    }


def _dry_forward(name: str, net: nn.Module, samples: Samples) -> Tensor:
    inputs = two_samples(samples, modalities_of(name, list(samples.modalities)), net)
    was_training = net.training
    try:
        with torch.no_grad():
            output = forward(net.eval(), name, inputs)
    except Exception as error:  # a user's own forward may raise anything
        shapes = {modality: tuple(tensor.shape) for modality, tensor in inputs.items()}
        raise ValueError(
            f"member {name!r} cannot be called with {shapes}: {type(error).__name__}: {error}"
        ) from error
    finally:
        net.train(was_training)
    if not isinstance(output, Tensor):
        raise ValueError(f"member {name!r} gives {type(output).__name__}; it must give logits")
    return output
