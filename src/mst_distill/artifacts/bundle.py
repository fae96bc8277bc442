"""A model bundle: weights, and a JSON from which the net is built and that records its origin."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mst_distill.artifacts.atomic import pending, replacing, sync
from mst_distill.artifacts.provenance import sha256_of
from mst_distill.import_path import resolve

if TYPE_CHECKING:
    from torch import nn

Classes = Mapping[str, Sequence[Mapping[str, Any]] | None]
"""Import paths of classes, and the arguments (apart from the number of classes) that each may be
called with; None stands for any."""

COUNTS = ("classes", "num_classes")
"""What constructors call the number of classes."""

OWN = ("mst_distill.nets.", "mst_distill.mst.")
"""The modules of this package that have nets, masks and routers."""

CARD = {"type": str, "arguments": dict, "metrics": dict, "provenance": dict, "weights": dict}
"""The keys of the JSON that are read, and their types."""

OWN_ONLY: Classes = MappingProxyType({})
"""No classes but those of this package."""


@dataclass(frozen=True)
class ModelBundle:
    """A net together with all that is needed to build, evaluate and trace it.

    Attributes:
        net: The net; in eval mode if it was loaded.
        type: Import path of its class.
        arguments: Arguments of the class; JSON values.
        metrics: Validation metrics of the selected epoch.
        provenance: What it was made from: parameters, inputs, versions, git revision.
        sha256: SHA-256 of the file from which the weights were loaded; empty if they were not.
    """

    net: nn.Module
    type: str
    arguments: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @classmethod
    def of(cls, net: nn.Module, arguments: dict[str, Any], **details: Any) -> ModelBundle:
        """Bundle a net.

        Args:
            net: The net.
            arguments: Arguments with which its class builds the net again; JSON values.
            details: Other attributes of the bundle.
        """
        return cls(net, _path_of(type(net)), arguments, **details)


def save_bundle(bundle: ModelBundle, path: Path) -> None:
    """Write ``NAME.safetensors``, and ``NAME.json`` with its SHA-256: both files or neither.

    The new JSON is on the disk, under its pending name, before the weights are replaced, and
    replaces the old JSON after them. A process that reads in between, or after a save that was
    killed in between, finds the SHA-256 of the new weights in the pending JSON.

    Args:
        bundle: The bundle.
        path: Path of the JSON.

    Raises:
        OSError: A file cannot be written; the message names it, and the old bundle stays.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = path.with_suffix(".safetensors")
    # Clones, because safetensors rejects tensors that share memory, as tied weights do.
    state = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in bundle.net.state_dict().items()
    }
    card = {
        "type": bundle.type,
        "arguments": bundle.arguments,
        "layers": [name for name, _ in bundle.net.named_modules() if name],
        "parameters": sum(parameter.numel() for parameter in bundle.net.parameters()),
        "metrics": bundle.metrics,
        "provenance": bundle.provenance,
    }
    _complete_killed_save(path)
    with replacing(path) as new_card, replacing(weights) as new_weights:
        try:
            save_file(state, new_weights)
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(new_weights)) from error
        card["weights"] = {"file": weights.name, "sha256": sha256_of(new_weights)}
        new_card.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        sync(new_card)


def load_bundle(path: Path, allowed: Classes = OWN_ONLY) -> ModelBundle:
    """Build the net that a bundle's JSON describes, load its weights and set it to eval mode.

    A bundle is data, which may come from others. It names the class that is imported and called, so
    only classes of this package are built, and those that the caller allows.

    Args:
        path: Path of the JSON.
        allowed: The other classes that may be built, and their arguments.

    Raises:
        PermissionError: The JSON names another class, or other arguments of an allowed class.
        ValueError: The JSON is damaged, or the weights are missing, have another SHA-256 than the
            JSON records, are not a safetensors file, or do not fit the class; the message names the
            file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    weights = path.with_suffix(".safetensors")
    if not weights.is_file():
        raise ValueError(f"{weights} is missing; run the node that writes it again")
    for _ in range(2):  # another process may save the bundle between the two reads
        content = weights.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if card := _card_of(path, found):
            break
    else:
        raise ValueError(f"{weights}: its SHA-256 {found} differs from the one in {path.name}")
    net = _class_of(path, card, allowed)(**card["arguments"])
    try:
        net.load_state_dict(load(content))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{weights} does not fit {card['type']}: {error}") from error
    return ModelBundle(
        net.eval(), card["type"], card["arguments"], card["metrics"], card["provenance"], found
    )


def _card_of(path: Path, sha256: str) -> dict[str, Any] | None:
    """Read the JSON that records the SHA-256 of the weights; None if there is none.

    A save replaces the weights first and the JSON second. In between, and after a save that was
    killed in between, the pending JSON is the one that belongs to the weights.

    Raises:
        ValueError: The JSON is damaged; the message names it.
    """
    card = read_card(path)
    if card["weights"]["sha256"] != sha256:
        with suppress(FileNotFoundError, ValueError):  # no save, or one that was killed earlier
            card = read_card(pending(path))
    return card if card["weights"]["sha256"] == sha256 else None


def _complete_killed_save(path: Path) -> None:
    """Let a pending JSON replace the JSON if it belongs to the weights, see `_card_of`."""
    with suppress(FileNotFoundError, ValueError):  # no save was killed, or one before its weights
        card = read_card(pending(path))
        if card["weights"]["sha256"] == sha256_of(path.with_suffix(".safetensors")):
            pending(path).replace(path)


def _class_of(path: Path, card: Mapping[str, Any], allowed: Classes) -> type[nn.Module]:
    """Import the class that a bundle names, if it may be built.

    Raises:
        PermissionError: It may not be, see `load_bundle`.
    """
    from torch import nn

    name, arguments = card["type"], dict(card["arguments"])
    if name.startswith(OWN):
        own = resolve(name, nn.Module)
        if own.__module__.startswith(OWN):  # not one that a module of this package imports
            return own
    # A parameter may name a class by the path of another module that imports it.
    kinds = {
        _path_of(kind := resolve(path_, nn.Module)): (kind, allowed[path_]) for path_ in allowed
    }
    fault = f"the class {name!r} is neither of this package nor in the parameters"
    if name in kinds:
        kind, known = kinds[name]
        counts = [arguments.pop(key) for key in COUNTS if key in arguments]
        valid = len(counts) <= 1 and all(type(count) is int for count in counts)
        if known is None or (valid and arguments in _as_json(known)):
            return kind
        fault = f"the arguments {card['arguments']} of {name!r} are not those in the parameters"
    raise PermissionError(
        errno.EPERM,
        f"{fault}. A bundle of others can name any code; if you trust this one, call load_bundle "
        f"with allowed={{{name!r}: None}}",
        str(path),
    )


def _path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _as_json(values: Sequence[Mapping[str, Any]]) -> Any:
    return json.loads(json.dumps([dict(value) for value in values]))


def read_card(path: Path) -> dict[str, Any]:
    """Read the JSON of a bundle.

    Raises:
        ValueError: The file is not the JSON of a bundle; the message names it.
    """
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key, kind in CARD.items():
            if not isinstance(card[key], kind):
                raise TypeError(f"{key} is {card[key]!r}")
        card["weights"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the complete JSON of a bundle ({error})") from error
    return card
