"""Members: building, calling and checking the multimodal teacher and the net of each modality."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mst_distill.data.samples import Samples
from mst_distill.errors import add_context, did_you_mean
from mst_distill.import_path import resolve, resolve_function
from mst_distill.mst.masks import FixedMask, mask_class
from mst_distill.mst.pretrained import (
    MORE_CLASSES,
    has_lazy_weights,
    load_weights,
    set_rates,
)
from mst_distill.parameters import MULTIMODAL, Masks, Member, Members
from mst_distill.plan import Plan
from mst_distill.training.batches import Batch, Inputs
from mst_distill.training.run import Run
from mst_distill.training.seeding import Stream, seeded

log = logging.getLogger(__name__)

WRAP = (
    "A member is a class whose constructor takes `classes` or `num_classes`, the number of "
    "classes; the document on your own data shows how to wrap another class or a function"
)


def arguments_of(member: Member, classes: int) -> dict[str, object]:
    """The arguments with which the class of a member is called.

    The number of classes is called ``classes``, or ``num_classes`` as in torchvision and timm if
    the class has only that parameter.
    """
    known = signature(resolve(member.type, nn.Module)).parameters
    name = "num_classes" if "num_classes" in known and "classes" not in known else "classes"
    return {name: classes, **member.arguments}


def member_class(name: str, member: Member) -> type[nn.Module]:
    """The class of a member's net.

    Raises:
        ValueError, TypeError: The class cannot be found, or is not an ``nn.Module``; the message
            names the member.
    """
    try:
        return resolve(member.type, nn.Module)
    except TypeError as error:
        raise TypeError(f"member {name!r}: {error}. {WRAP}") from error
    except ValueError as error:
        raise ValueError(f"member {name!r}: {error}") from error


def build_member(name: str, member: Member, classes: int, seed: int) -> nn.Module:
    """Build one net; its start weights depend on `seed` and `name` alone.

    Raises:
        ValueError, TypeError: The class cannot be found, is not an ``nn.Module`` or does not accept
            its arguments, or ``start`` cannot be found or fails; the message names the member.
    """
    kind = member_class(name, member)
    try:
        with seeded(seed, Stream.MEMBER, name):
            net = kind(**arguments_of(member, classes))
            if member.start:
                resolve_function(member.start)(net)
    except TypeError as error:
        hint = f". {WRAP}" if "unexpected keyword argument 'classes'" in str(error) else ""
        raise TypeError(f"member {name!r}: {error}{hint}") from error
    except ValueError as error:
        raise ValueError(f"member {name!r}: {error}") from error
    except Exception as error:  # the constructor of a user's class
        add_context(error, f"This happened when the member {name!r} was built ({member.type}).")
        raise
    for key, value in net.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"member {name!r} has {key!r} in its state dict, which is a {type(value).__name__} "
                f"and not a tensor: a bundle of weights cannot hold it"
            )
    return net


def build_members(run: Run, plan: Plan) -> dict[str, nn.Module]:
    """Build the members of a run, and check that all can be trained on its samples and masked.

    Returns:
        Member name to network: the multimodal teacher, the cross-modal teachers, the student.

    Raises:
        ValueError, TypeError, FileNotFoundError: As in `build_member`, `check_members`,
            `load_weights` and `set_rates`.
    """
    _ = run.device  # prepares the process, before the first computation starts threads
    members = plan.members.all_of(run.target)
    classes = len(run.samples.classes)
    nets = {name: build_member(name, of, classes, run.seed) for name, of in members.items()}
    # Lazy layers create their weights in the first forward pass, which `check_members` runs.
    with seeded(run.seed, Stream.LAZY_LAYERS):
        check_members(nets, members, plan.masks, run.samples)
    for name, member in members.items():
        if member.weights:
            wider = build_member(name, member, classes + MORE_CLASSES, run.seed)
            if has_lazy_weights(wider):
                with seeded(run.seed, Stream.LAZY_LAYERS):
                    trial_forward(name, wider, run.samples)
            if kept := load_weights(name, nets[name], member.weights, wider):
                log.info("member %r keeps random start values of %s", name, ", ".join(kept))
            _check_finite(name, trial_forward(name, nets[name], run.samples))
        set_rates(name, nets[name], member)
    return nets


def modalities_of(name: str, modalities: Sequence[str]) -> tuple[str, ...]:
    """The modalities that the member `name` reads."""
    return tuple(modalities) if name == MULTIMODAL else (name,)


def forward(net: nn.Module, name: str, inputs: Inputs) -> Tensor:
    """Call the net of the member `name`, with all modalities by keyword or with its own modality.

    Args:
        net: The net of a member, or a trunk of it, which takes the same inputs.
        name: ``multimodal`` or a modality.
        inputs: At least the modalities that the member reads.

    Returns:
        Logits ``(B, C)`` or ``(B, C, H, W)``.
    """
    return net(**inputs) if name == MULTIMODAL else net(inputs[name])


def forward_seen(
    net: nn.Module, name: str, batch: Batch, modalities: Sequence[str]
) -> tuple[Tensor, Tensor | None] | None:
    """Call the net of the member `name` with the samples of a batch that it can see.

    Args:
        net: As in `forward`.
        name: As in `forward`.
        batch: A batch with at least the modalities that the member reads.
        modalities: All modalities of the run.

    Returns:
        Logits ``(B, C)`` or ``(B, C, H, W)``, with zeros for samples that it cannot see, and
        whether it can see each sample, ``(B,)``, or None if it can see all. The whole result is
        None if it can see fewer than two, which batch statistics need.
    """
    reads = modalities_of(name, modalities)
    if (found := batch.having_two(reads)) is None:
        return None
    some, indices = found
    logits = forward(net, name, some.inputs)
    if indices is None:
        return logits, None
    every = logits.new_zeros(len(batch.label), *logits.shape[1:])
    return every.index_copy(0, indices, logits), batch.seen(reads)


def freeze(nets: Iterable[nn.Module]) -> None:
    """Set nets to eval mode and exclude their weights from training, permanently."""
    for net in nets:
        net.eval().requires_grad_(False)


def check_definitions(members: Members, masks: Masks) -> None:
    """Check what can be known of the members without samples, before hours are spent on these.

    Every class is imported and built, for two classes and with random weights; with weights from a
    file also for more.

    Raises:
        ValueError, TypeError: As in `build_member`, or a masked layer does not exist or is too
            narrow for a mask; the message names the member.
    """
    every = {MULTIMODAL: members.multimodal, **members.modalities, **members.students}
    for name, member in every.items():
        if member.start:
            resolve_function(member.start)
        plain = member.model_copy(update={"start": None})
        net = build_member(name, plain, classes=2, seed=0)
        check_layers_exist(name, net, member.masked_layers)
        if member.weights and not has_lazy_weights(net):
            wider = build_member(name, plain, classes=2 + MORE_CLASSES, seed=0)
            load_weights(name, net, member.weights, wider)
        set_rates(name, net, member)
        for layer in member.masked_layers:
            if width := width_of(net.get_submodule(layer)):
                with torch.device("meta"):  # the mask itself is not needed
                    build_mask(name, layer, (2, width), masks)


def width_of(layer: nn.Module) -> int | None:
    """The number of features that a linear layer or a convolution returns; None for others."""
    for name in ("out_features", "out_channels"):
        if isinstance(width := getattr(layer, name, None), int):
            return width
    return None


def check_layers_exist(name: str, net: nn.Module, layers: Sequence[str]) -> None:
    """Raise a ValueError that names the nearest layers if a net does not have one of `layers`."""
    known = [path for path, _ in net.named_modules() if path]
    if unknown := [layer for layer in layers if layer not in known]:
        raise ValueError(did_you_mean(f"layer of member {name!r}", unknown[0], known))


def feature_shapes(
    name: str, net: nn.Module, layers: Sequence[str], samples: Samples, member: str | None = None
) -> dict[str, tuple[int, ...]]:
    """Find the shapes of layers' outputs in a trial forward pass of two samples.

    Args:
        name: The name of the net, for messages.
        net: The net.
        layers: The layers.
        samples: The store.
        member: The member whose inputs the net takes; by default `name`.

    Returns:
        Layer to shape, in the order in which the net calls the layers.

    Raises:
        ValueError: A layer does not exist (the message names those that do), its output is not one
            floating-point tensor, it is not called exactly once, or the order is not that of the
            calls.
    """
    check_layers_exist(name, net, layers)
    outputs: list[tuple[str, object]] = []

    def watch(layer: str) -> RemovableHandle:
        module = net.get_submodule(layer)
        return module.register_forward_hook(lambda _m, _i, out: outputs.append((layer, out)))

    hooks = [watch(layer) for layer in layers]
    try:
        trial_forward(name, net, samples, member)
    finally:
        for hook in hooks:
            hook.remove()
    called = [layer for layer, _ in outputs]
    for layer in layers:
        if (times := called.count(layer)) != 1:
            raise ValueError(
                f"layer {layer!r} of member {name!r} is called {times} times in a forward pass; a "
                f"mask needs a layer that is called exactly once"
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
    if invalid := [layer for layer in layers if layer not in shapes]:
        raise ValueError(
            f"layer {invalid[0]!r} of member {name!r} does not output a single floating-point "
            f"tensor; a mask needs one"
        )
    return shapes


def check_members(
    nets: Mapping[str, nn.Module],
    members: Mapping[str, Member],
    masks: Masks,
    samples: Samples,
) -> None:
    """Check that members can be trained and masked on these samples, before any is trained.

    Raises:
        ValueError: A member's modality is missing, its logits do not fit the labels or are not
            finite, or one of its masked layers does not exist, is not called once, or cannot be
            masked. The message names the member, the layer and the valid choices.
    """
    for name, net in nets.items():
        if name != MULTIMODAL and name not in samples.modalities:
            raise ValueError(did_you_mean("modality", name, samples.modalities))
        check_net(name, net, members[name].masked_layers, masks, samples)


def check_net(
    name: str,
    net: nn.Module,
    masked_layers: Sequence[str],
    masks: Masks,
    samples: Samples,
    member: str | None = None,
) -> None:
    """Check that a net outputs logits for these samples, and that its layers can be masked.

    Args:
        name: The name of the net, for messages.
        net: The net.
        masked_layers: The layers that get masks.
        masks: Kind and size of the masks.
        samples: The store.
        member: The member whose inputs the net takes; by default `name`.

    Raises:
        ValueError: See `check_members`.
    """
    logits = trial_forward(name, net, samples, member)
    expected = (2, len(samples.classes), *samples.labels.shape[1:])
    if logits.shape != expected:
        raise ValueError(
            f"member {name!r} outputs logits of shape {tuple(logits.shape)} for two samples; "
            f"{expected} would fit the {len(samples.classes)} classes and labels of shape "
            f"{samples.labels.shape[1:]}"
        )
    _check_finite(name, logits)
    shapes = feature_shapes(name, net, masked_layers, samples, member)
    with torch.device("meta"):  # this check needs the shapes of the masks, not their weights
        for layer, shape in shapes.items():
            build_mask(name, layer, shape, masks)
    for layer, shape in shapes.items():
        _try_mask(name, net, layer, shape, samples, member)


def _check_finite(name: str, logits: Tensor) -> None:
    if not logits.isfinite().all():
        raise ValueError(
            f"member {name!r} outputs logits that are not finite for the first two samples before "
            f"any training: its start weights or its input values are too large"
        )


def _try_mask(
    name: str,
    net: nn.Module,
    layer: str,
    shape: tuple[int, ...],
    samples: Samples,
    member: str | None,
) -> None:
    """Check the logits of two samples with a mask on one layer of a net.

    All masks preserve the shape of a feature. The cheapest one therefore represents all.

    Raises:
        ValueError: The net fails, or its logits have another shape or are not finite.
    """
    device = next((weight.device for weight in net.parameters()), None)
    mask = FixedMask(shape[1]).to(device)
    hook = net.get_submodule(layer).register_forward_hook(lambda _m, _i, feature: mask(feature))
    try:
        masked = trial_forward(name, net, samples, member)
    except ValueError as error:
        raise ValueError(f"with a mask on its layer {layer!r}, {error}") from error
    finally:
        hook.remove()
    expected = (2, len(samples.classes), *samples.labels.shape[1:])
    if masked.shape != expected or not masked.isfinite().all():
        finite = "" if masked.isfinite().all() else ", not all finite"
        raise ValueError(
            f"member {name!r} with a mask on its layer {layer!r} outputs logits of shape "
            f"{tuple(masked.shape)}{finite} for two samples, and of shape {expected} without it: "
            f"the net must accept any values of the shape {shape} as the output of this layer"
        )


def build_mask(name: str, layer: str, shape: tuple[int, ...], masks: Masks) -> nn.Module:
    """Build a new mask for a feature of `shape`, whose first axis is the batch.

    Raises:
        ValueError: No mask fits such a feature; the message names member and layer.
    """
    try:
        kind: Callable[..., nn.Module] = mask_class(shape)
        if masks.kind == "fixed":
            kind = FixedMask
        return kind(width=shape[1], **_size_of(masks))
    except ValueError as error:
        raise ValueError(f"layer {layer!r} of member {name!r}: {error}") from error


def mask_arguments(mask: nn.Module, masks: Masks) -> dict[str, object]:
    """The arguments with which the class of a mask was called."""
    return {"width": mask.width, **_size_of(masks)}


def _size_of(masks: Masks) -> dict[str, int]:
    return {} if masks.kind == "fixed" else {"factor": masks.factor, "heads": masks.heads}


def two_samples(samples: Samples, modalities: Sequence[str], net: nn.Module) -> Inputs:
    """The first two samples that have some modalities, on the device of `net`."""
    device = next((weight.device for weight in net.parameters()), torch.device("cpu"))
    rows = np.flatnonzero(samples.have(modalities))[:2] if samples.present else slice(2)
    return {
        modality: torch.from_numpy(np.array(samples.inputs[modality][rows])).to(device)
        for modality in modalities
    }


def trial_forward(name: str, net: nn.Module, samples: Samples, member: str | None = None) -> Tensor:
    """The logits of two samples; the arguments are those of `feature_shapes`.

    Raises:
        ValueError: The net fails, or its output is no tensor; the message names it.
    """
    member = member or name
    inputs = two_samples(samples, modalities_of(member, list(samples.modalities)), net)
    was_training = net.training
    try:
        with torch.no_grad():
            output = forward(net.eval(), member, inputs)
    except Exception as error:  # the `forward` of a user's class may raise anything
        shapes = {modality: tuple(tensor.shape) for modality, tensor in inputs.items()}
        integers = [key for key, tensor in inputs.items() if not tensor.is_floating_point()]
        hint = (
            f" ({integers[0]!r} is of type {inputs[integers[0]].dtype}, as `read` returned it; "
            f"return float32 unless the net takes integers)"
            if integers
            else ""
        )
        raise ValueError(
            f"member {name!r} cannot be called with {shapes}: {type(error).__name__}: {error}{hint}"
        ) from error
    finally:
        net.train(was_training)
    if not isinstance(output, Tensor):
        raise ValueError(f"member {name!r} outputs {type(output).__name__}; it must output logits")
    return output
