"""Pretrained members: weights from a file, and layers that are frozen or learn more slowly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mst_distill.errors import did_you_mean
from mst_distill.parameters import Member
from mst_distill.training.optimisation import RATE_SCALE


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file. No code in the file is executed.

    Args:
        path: ``.safetensors``, or a file of `torch.save`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a mapping from names to tensors, or a number is not finite; the
            message names the file.
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
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{path}: {name!r} holds NaN or infinity")
    return dict(state)


def load_weights(name: str, net: nn.Module, path: Path, classes: int) -> None:
    """Load the weights of a file into a net; all layers but the last must fit.

    The last layer is the one whose number of outputs is the number of classes. Where it does not
    fit, because the weights are those of a net for other classes, it keeps its start weights.

    Args:
        name: The member, for messages.
        net: Its net.
        path: The file.
        classes: The number of classes.

    Raises:
        FileNotFoundError, ValueError: As `read_weights`, or other layers do not fit; the message
            has the number of weights that do not and the first three.
    """
    try:
        state = read_weights(path)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"weights of member {name!r}: {error}") from error
    prefix = str(getattr(net, "weights_prefix", ""))
    state = {prefix + key: tensor for key, tensor in state.items()}
    own = net.state_dict()
    missing = [key for key in own if key not in state or state[key].shape != own[key].shape]
    foreign = [key for key in state if key not in own]
    last = _last_layer(net, missing, classes)
    others = [key for key in (*missing, *foreign) if key.rpartition(".")[0] != last]
    if others:
        first = ", ".join(map(repr, others[:3]))
        raise ValueError(
            f"weights of member {name!r}: {path} does not fit its net: {len(others)} of "
            f"{len({**own, **state})} weights are missing, have another shape or are not of the "
            f"net, the first {first}. All layers but the last must fit"
        )
    fitting = {key: tensor for key, tensor in state.items() if key in own and key not in missing}
    net.load_state_dict({**own, **fitting})


def _last_layer(net: nn.Module, keys: Iterable[str], classes: int) -> str | None:
    """The layer of one of these weights whose number of outputs is that of the classes, if any."""
    for layer in dict.fromkeys(key.rpartition(".")[0] for key in keys):
        weight = getattr(net.get_submodule(layer), "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1 and len(weight) == classes:
            return layer
    return None


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
