"""A model bundle: weights beside a JSON that can build the net again and says where it is from."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mst_distill.artifacts.atomic import pending, replacing, sync
from mst_distill.artifacts.provenance import sha256_of
from mst_distill.import_path import resolve

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelBundle:
    """A net together with all that is needed to build, judge and trace it.

    Attributes:
        net: The net, in eval mode when it was loaded.
        type: Import path of its class.
        arguments: What the class was called with; JSON values.
        metrics: Validation figures of the epoch that was kept.
        provenance: What it was made from: parameters, inputs, versions, git revision.
        sha256: Of the weights' file that it was loaded from; empty before it was saved.
    """

    net: nn.Module
    type: str
    arguments: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @classmethod
    def of(cls, net: nn.Module, arguments: dict[str, Any], **details: Any) -> ModelBundle:
        """Bundle a net that `arguments` would build again."""
        kind = type(net)
        return cls(net, f"{kind.__module__}.{kind.__qualname__}", arguments, **details)


def save_bundle(bundle: ModelBundle, path: Path) -> None:
    """Write ``NAME.safetensors`` and ``NAME.json``, which vouches for it, both or neither.

    The JSON is ready before the weights take their place, and takes its own behind them: a reader
    that comes between finds weights that the waiting JSON vouches for, see `load_bundle`.

    Args:
        bundle: What to write.
        path: The JSON's path.

    Raises:
        OSError: One cannot be written; the message names it, and the bundle is what it was before.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = path.with_suffix(".safetensors")
    # Clones: safetensors refuses tensors that share memory, as tied weights do.
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
    with replacing(path) as new_card, replacing(weights) as new_weights:
        try:
            save_file(state, new_weights)
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(new_weights)) from error
        card["weights"] = {"file": weights.name, "sha256": sha256_of(new_weights)}
        new_card.write_text(json.dumps(card, indent=2) + "\n")
        sync(new_card)


def load_bundle(path: Path) -> ModelBundle:
    """Build the net that a bundle's JSON describes and load its weights, in eval mode.

    Args:
        path: The JSON's path.

    Raises:
        ValueError: The JSON is none, or the weights are missing, not those that it vouches for, no
            safetensors file, or do not fit the class; the message names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import nn

    card = read_card(path)
    weights = path.with_suffix(".safetensors")
    if not weights.is_file():
        raise ValueError(f"{weights} is missing; run again the node that writes it")
    found = sha256_of(weights)
    if found != card["weights"]["sha256"] and pending(path).is_file():
        # A save was killed when its weights were in their place and its JSON was not.
        new_card = read_card(pending(path))
        if found == new_card["weights"]["sha256"]:
            pending(path).replace(path)
            card = new_card
    if found != card["weights"]["sha256"]:
        raise ValueError(f"{weights}: sha256 {found} is not the one that {path.name} names")
    net = resolve(card["type"], nn.Module)(**card["arguments"])
    try:
        net.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{weights} does not fit {card['type']}: {error}") from error
    return ModelBundle(
        net.eval(), card["type"], card["arguments"], card["metrics"], card["provenance"], found
    )


def read_card(path: Path) -> dict[str, Any]:
    """What a bundle's JSON says.

    Raises:
        ValueError: It is none; the message names the file.
    """
    try:
        card: dict[str, Any] = json.loads(path.read_text())
        card["weights"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no whole JSON of a bundle ({error})") from error
    return card
