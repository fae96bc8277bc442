"""A model bundle: weights, and a JSON from which the net is built and that records its origin."""

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
        kind = type(net)
        return cls(net, f"{kind.__module__}.{kind.__qualname__}", arguments, **details)


def save_bundle(bundle: ModelBundle, path: Path) -> None:
    """Write ``NAME.safetensors``, and ``NAME.json`` with its SHA-256: both files or neither.

    The new JSON is on the disk, under its pending name, before the weights are replaced, and
    replaces the old JSON after them. A process that reads in between finds the SHA-256 of the new
    weights in the pending JSON, see `load_bundle`.

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
    with replacing(path) as new_card, replacing(weights) as new_weights:
        try:
            save_file(state, new_weights)
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error), str(new_weights)) from error
        card["weights"] = {"file": weights.name, "sha256": sha256_of(new_weights)}
        new_card.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        sync(new_card)


def load_bundle(path: Path) -> ModelBundle:
    """Build the net that a bundle's JSON describes, load its weights and set it to eval mode.

    Args:
        path: Path of the JSON.

    Raises:
        ValueError: The JSON is damaged, or the weights are missing, have another SHA-256 than the
            JSON records, are not a safetensors file, or do not fit the class; the message names the
            file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import nn

    card = read_card(path)
    weights = path.with_suffix(".safetensors")
    if not weights.is_file():
        raise ValueError(f"{weights} is missing; run the node that writes it again")
    found = sha256_of(weights)
    if found != card["weights"]["sha256"] and pending(path).is_file():
        # A save was killed after it had replaced the weights and before it replaced the JSON.
        new_card = read_card(pending(path))
        if found == new_card["weights"]["sha256"]:
            pending(path).replace(path)
            card = new_card
    if found != card["weights"]["sha256"]:
        raise ValueError(f"{weights}: its SHA-256 {found} differs from the one in {path.name}")
    net = resolve(card["type"], nn.Module)(**card["arguments"])
    try:
        net.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{weights} does not fit {card['type']}: {error}") from error
    return ModelBundle(
        net.eval(), card["type"], card["arguments"], card["metrics"], card["provenance"], found
    )


def read_card(path: Path) -> dict[str, Any]:
    """Read the JSON of a bundle.

    Raises:
        ValueError: The file is not the JSON of a bundle; the message names it.
    """
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        card["weights"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the complete JSON of a bundle ({error})") from error
    return card
