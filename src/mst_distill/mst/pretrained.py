"""Pretrained members: weights from a file, and layers that are frozen or learn more slowly."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mst_distill.errors import did_you_mean
from mst_distill.parameters import Member
from mst_distill.training.optimisation import RATE_SCALE


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file. No code in the file is executed.

    Args:
        path: ``.safetensors``, or a file of `torch.save`.

    Returns:
        Name to tensor, with the ``_metadata`` of the file if it has any: from its versions, modules
        know that weights had other names when the file was saved.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a mapping from names to tensors; the message names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.absolute()} does not exist")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise errors of many types
        raise ValueError(
            f"{path} holds no weights that can be read without executing code "
            f"({type(error).__name__}): save the state dict of the net with safetensors or "
            f"torch.save"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(of, Tensor) for of in state.values()):
        found = list(state)[:3] if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(
            f"{path} holds {found} and not a state dict, which maps the names of weights to "
            f"tensors: save that of the net alone"
        )
    return cast("dict[str, Tensor]", state)


def load_weights(name: str, net: nn.Module, path: Path, wider: nn.Module) -> list[str]:
    """Load the weights of a file into a net; all must fit but those that depend on the classes.

    Where the file is of a net for another number of classes, or has no such weights, these keep
    their start values. Names that PyTorch or torchvision have changed are
    converted by the modules themselves, from the versions in a file of `torch.save`.

    Args:
        name: The member, for messages.
        net: Its net.
        path: The file.
        wider: The same net for more classes: what has another shape depends on the classes.

    Returns:
        The names of the weights that keep their start values.

    Raises:
        FileNotFoundError, ValueError: As `read_weights`, or other weights do not fit, are not of
            the type of the net's, or are not finite in it; the message has the number of weights
            that do not fit and the first three.
    """
    try:
        state = _with_prefix(str(getattr(net, "weights_prefix", "")), read_weights(path))
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"weights of member {name!r}: {error}") from error
    own = net.state_dict()
    _check_values(f"weights of member {name!r}: {path}", state, own)
    # Weights of another shape are left out, so that PyTorch reports them as missing.
    fitting = OrderedDict(
        (key, of) for key, of in state.items() if key not in own or of.shape == own[key].shape
    )
    fitting._metadata = getattr(state, "_metadata", own._metadata)  # type: ignore[attr-defined]
    try:
        # Into a copy, so that the net stays as it is if the file does not fit.
        found = copy.deepcopy(net).load_state_dict(fitting, strict=False)
    except Exception as error:  # modules that convert old names may raise anything
        raise ValueError(
            f"weights of member {name!r}: {path} does not fit its net: {error}"
        ) from error
    kept = [key for key in found.missing_keys if _depends_on_classes(key, state, own, wider)]
    if wrong := _wrong_weights(found.missing_keys, found.unexpected_keys, kept, state, own):
        first = ", ".join(map(repr, wrong[:3]))
        raise ValueError(
            f"weights of member {name!r}: {path} does not fit its net: {len(wrong)} of "
            f"{len({**own, **state})} weights are missing, have another shape or are not of the "
            f"net, the first {first}. All layers but the last must fit"
        )
    net.load_state_dict(fitting, strict=False)
    return kept


def _with_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put a prefix in front of all names, unless they have it already, as in a bundle."""
    if all(key.startswith(prefix) for key in state):
        return state
    renamed = OrderedDict((prefix + key, tensor) for key, tensor in state.items())
    if (versions := getattr(state, "_metadata", None)) is not None:
        renamed._metadata = {  # type: ignore[attr-defined]
            (prefix + key).rstrip("."): value for key, value in versions.items()
        }
    return renamed


def _check_values(fault: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Check that numbers stay what they are when they are copied into the net."""
    for key in state.keys() & own.keys():
        found, wanted = state[key].dtype, own[key].dtype
        if found.is_floating_point != wanted.is_floating_point:
            raise ValueError(
                f"{fault}: {key!r} is of type {found} and must be of type {wanted}; weights of a "
                f"quantised net must be converted first"
            )
        if wanted.is_floating_point and not state[key].to(wanted).isfinite().all():
            raise ValueError(f"{fault}: {key!r} holds NaN, infinity, or numbers beyond {wanted}")


def _wrong_weights(
    missing: Sequence[str],
    unexpected: Sequence[str],
    kept: Sequence[str],
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
) -> list[str]:
    """The weights of net and file that do not fit, after those that may keep their start values."""
    shared = {own[key].data_ptr() for key in own.keys() - missing}
    wrong = [
        key
        for key in missing
        if key not in kept
        and not key.endswith("num_batches_tracked")  # files from before PyTorch 0.4.1
        and (key in state or own[key].data_ptr() not in shared)  # tied weights may stand once
    ]
    layers = {layer for key in kept if (layer := key.rpartition(".")[0])}
    return wrong + [key for key in unexpected if key.rpartition(".")[0] not in layers]


def _depends_on_classes(
    key: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor], wider: nn.Module
) -> bool:
    """Whether a weight's shape depends on the number of classes, and the file differs in it alone.

    The stem of a net must not pass for its last layer, only because it has as many outputs.
    """
    here, there = own[key].shape, wider.state_dict()[key].shape
    if here == there:
        return False
    found = state[key].shape if key in state else here
    return len(found) == len(here) and all(
        file == size or size != other for file, size, other in zip(found, here, there, strict=True)
    )


def set_rates(name: str, net: nn.Module, member: Member) -> None:
    """Freeze the layers of a net, or let them learn more slowly, as its parameters say.

    The weights of a frozen layer get no gradient, and the layer stays in eval mode, so that running
    statistics of batch norm stay as they are. Both hold for copies of the net too, and must be set
    again in a net that is loaded from a bundle.

    Args:
        name: The member, for messages.
        net: Its net.
        member: Its parameters.

    Raises:
        ValueError: A layer does not exist, or all weights are frozen.
    """
    # Longer paths come later, so that the innermost layer that is listed counts.
    for layer, scale in sorted(member.learning_rate_scale.items(), key=lambda of: len(of[0])):
        known = [path for path, _ in net.named_modules() if path]
        if layer not in known:
            raise ValueError(did_you_mean(f"layer of member {name!r}", layer, known))
        for module in net.get_submodule(layer).modules():
            setattr(module, RATE_SCALE, scale)
    for module in net.modules():
        if getattr(module, RATE_SCALE, 1.0) == 0:
            for weight in module.parameters(recurse=False):
                weight.requires_grad_(False)
            module.training = False
            # A partial, because a copy of the net then has one that belongs to the copy.
            module.train = partial(_train_frozen, module)  # type: ignore[method-assign]
    if member.learning_rate_scale and not any(of.requires_grad for of in net.parameters()):
        raise ValueError(
            f"learning_rate_scale of member {name!r} freezes all of its weights: leave out at "
            f"least its last layer"
        )


def _train_frozen(module: nn.Module, mode: bool = True) -> nn.Module:
    """Take the place of ``train`` of a frozen module; layers inside it may not be frozen."""
    module.training = False
    for child in module.children():
        child.train(mode)
    return module
