"""Pretrained members: weights from a file, and layers that are frozen or learn more slowly."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

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
    if not isinstance(state, Mapping) or not all(_is_weight(*item) for item in state.items()):
        found = list(state)[:3] if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(
            f"{path} holds {found} and not a state dict, which maps the names of weights to "
            f"tensors: save that of the net alone"
        )
    return cast("dict[str, Tensor]", state)


def _is_weight(name: object, value: object) -> bool:
    """Whether an entry of a file is a name with a dense tensor of numbers."""
    dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
    return isinstance(name, str) and dense


MORE_CLASSES = 1000
"""A net for so many more classes has another shape wherever a shape depends on the classes."""


def load_weights(name: str, net: nn.Module, path: Path, wider: nn.Module) -> list[str]:
    """Load the weights of a file into a net; all must fit but those that depend on the classes.

    Where the file is of a net for another number of classes, or has no such weights, these keep
    their start values. Names that PyTorch or torchvision have changed are converted by the modules
    themselves, from the versions in a file of `torch.save`.

    Args:
        name: The member, for messages.
        net: Its net.
        path: The file.
        wider: The same net for `MORE_CLASSES`: what has another shape depends on the classes.

    Returns:
        The names of the weights that keep their start values.

    Raises:
        FileNotFoundError, ValueError: As `read_weights`, or other weights do not fit, are not what
            they were once they are in the net, or are not finite in it; the message has the number
            of weights that do not fit and the first three. The net is then as it was before.
    """
    try:
        state = read_weights(path)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"weights of member {name!r}: {error}") from error
    fault = f"weights of member {name!r}: {path} does not fit its net"
    if has_lazy_weights(net):
        raise ValueError(f"{fault}, which has lazy weights that no forward pass has created")
    fit = _Fit.of(net, wider)
    try:
        return fit.load(net, state)
    except Exception as error:  # modules that convert old names may raise anything
        net.load_state_dict(fit.start)
        raise ValueError(f"{fault}: {error}") from error


def has_lazy_weights(net: nn.Module) -> bool:
    """Whether a net has weights whose shapes are not known before its first forward pass."""
    return any(map(is_lazy, (*net.parameters(), *net.buffers())))


@dataclass(frozen=True)
class _Fit:
    """What the weights of a net are before a file is loaded.

    Attributes:
        start: A copy of the state dict.
        memory: Where each weight is in memory: tied weights are in one place.
        wider: The shape of each weight in the net for more classes.
    """

    start: dict[str, Tensor]
    memory: dict[str, tuple[Any, ...]]
    wider: dict[str, torch.Size]

    @classmethod
    def of(cls, net: nn.Module, wider: nn.Module) -> _Fit:
        own = net.state_dict()
        return cls(
            {key: of.clone() for key, of in own.items()},
            {key: (of.data_ptr(), of.shape, of.stride()) for key, of in own.items()},
            {key: of.shape for key, of in wider.state_dict().items()},
        )

    def load(self, net: nn.Module, file: dict[str, Tensor]) -> list[str]:
        """Load a file; return the weights that keep their start values."""
        state = self._with_prefix(getattr(net, "weights_prefix", None) or "", file)
        self._check_types(state)
        # Weights of another shape are left out, so that PyTorch reports them as missing.
        fitting = OrderedDict(
            (key, of)
            for key, of in state.items()
            if key not in self.start or of.shape == self.start[key].shape
        )
        given = getattr(state, "_metadata", None)
        # A file without versions may be of the present ones, or from before there were any.
        present = getattr(net.state_dict(), "_metadata", None)
        kept: list[str] = []
        wrong: list[str] = []
        for versions in (present, None) if given is None else (given,):
            fitting._metadata = versions  # type: ignore[attr-defined]
            found = net.load_state_dict(fitting, strict=False)
            kept = self._kept(found.missing_keys, state)
            wrong = self._wrong(found.missing_keys, found.unexpected_keys, kept, state)
            if not wrong:
                break
        if not wrong and not self.start.keys() - kept:
            wrong = list(state)
        if wrong:
            first = ", ".join(map(repr, wrong[:3]))
            raise ValueError(
                f"{len(wrong)} of {len({**self.start, **state})} weights are missing, have another "
                f"shape or are not of the net, the first {first}. All layers but the last must fit"
            )
        self._check_loaded(net.state_dict(), fitting)
        return kept

    def _with_prefix(self, prefix: str, file: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put a prefix in front of all names, unless more are those of the net as they are."""
        known = [sum(of + key in self.start for key in file) for of in ("", prefix)]
        if known[0] >= known[1]:
            return file
        renamed = OrderedDict((prefix + key, tensor) for key, tensor in file.items())
        if (versions := getattr(file, "_metadata", None)) is not None:
            renamed._metadata = {  # type: ignore[attr-defined]
                (prefix + key).rstrip("."): value for key, value in versions.items()
            }
        return renamed

    def _check_types(self, state: Mapping[str, Tensor]) -> None:
        """Check that integers are not taken for weights, and are exact where they are none."""
        for key, of in state.items():
            own = self.start.get(key)
            if own is None:  # perhaps an old name of a weight; one number may be a counter
                fits = of.is_floating_point() or of.is_complex() or of.numel() == 1
            elif own.is_floating_point():
                fits = of.is_floating_point()
            else:
                fits = bool((of.to(own.dtype).to(of.dtype) == of).all())
            if not fits:
                raise ValueError(
                    f"{key!r} is of type {of.dtype} and must be of type "
                    f"{torch.float32 if own is None else own.dtype}; weights of a quantised net "
                    f"must be converted first"
                )

    def _check_loaded(self, loaded: Mapping[str, Tensor], fitting: Mapping[str, Tensor]) -> None:
        """Check that the net holds finite numbers, and those of the file."""
        for key, of in loaded.items():
            # A mask of attention may hold infinity from the start.
            if (~of.isfinite() & self.start[key].isfinite()).any():
                raise ValueError(f"{key!r} holds NaN, infinity, or numbers beyond {of.dtype}")
            if key in fitting and not of.equal(fitting[key].to(of.dtype)):
                raise ValueError(
                    f"{key!r} is one weight with another in the net, and they differ in the file"
                )

    def _kept(self, missing: Sequence[str], state: Mapping[str, Tensor]) -> list[str]:
        """The weights that keep their start values, because of another number of classes.

        They are absent from the file, or differ there in the axes of the classes alone: a stem must
        not pass for the last layer because it has as many outputs. Of a layer, either all weights
        that depend on the classes are kept or none.
        """
        depends = [key for key in self.start if self._class_axes(key)]
        loaded = {_layer_of(key) for key in depends if key not in missing}
        return [
            key
            for key in missing
            if key in depends
            and _layer_of(key) not in loaded
            and (key not in state or self._differs_in_classes_alone(key, state[key].shape))
        ]

    def _class_axes(self, key: str) -> set[int]:
        """The axes of a weight whose size depends on the number of classes."""
        here, there = self.start[key].shape, self.wider.get(key, ())
        if len(here) != len(there):
            return set()
        return {axis for axis, size in enumerate(here) if size != there[axis]}

    def _differs_in_classes_alone(self, key: str, found: torch.Size) -> bool:
        here, axes = self.start[key].shape, self._class_axes(key)
        return len(found) == len(here) and all(
            axis in axes or size == here[axis] for axis, size in enumerate(found)
        )

    def _wrong(
        self,
        missing: Sequence[str],
        unexpected: Sequence[str],
        kept: Sequence[str],
        state: Mapping[str, Tensor],
    ) -> list[str]:
        """The weights of net and file that do not fit."""
        loaded = {self.memory[key] for key in self.start.keys() - missing}
        wrong = [
            key
            for key in missing
            if key not in kept
            and not key.endswith("num_batches_tracked")  # files from before PyTorch 0.4.1
            and (key in state or self.memory[key] not in loaded)  # tied weights may stand once
        ]
        # A last layer for other classes may have a bias, or a parametrisation, that the net lacks.
        layers = {layer for key in kept if key in state and (layer := _layer_of(key))}
        return wrong + [key for key in unexpected if _layer_of(key) not in layers]


def _layer_of(key: str) -> str:
    return key.rpartition(".")[0]


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
