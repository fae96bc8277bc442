"""A model bundle: weights beside a JSON that can build the net again and says where it is from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mst_distill.imports import resolve

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
        provenance: Seed, fingerprint of data and parameters, versions, git revision.
    """

    net: nn.Module
    type: str
    arguments: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, net: nn.Module, arguments: dict[str, Any], **details: Any) -> ModelBundle:
        """Bundle a net that `arguments` would build again."""
        kind = type(net)
        return cls(net, f"{kind.__module__}.{kind.__qualname__}", arguments, **details)


def save_bundle(bundle: ModelBundle, path: Path) -> None:
    """Write ``NAME.safetensors`` and then ``NAME.json``, which vouches for it.

    Args:
        bundle: What to write.
        path: The JSON's path.
    """
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    weights = path.with_suffix(".safetensors")
    # Clones: safetensors refuses tensors that share memory, as tied weights do.
    state = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in bundle.net.state_dict().items()
    }
    save_file(state, weights)
    card = {
        "type": bundle.type,
        "arguments": bundle.arguments,
        "layers": [name for name, _ in bundle.net.named_modules() if name],
        "parameters": sum(parameter.numel() for parameter in bundle.net.parameters()),
        "metrics": bundle.metrics,
        "provenance": bundle.provenance,
        "weights": {"file": weights.name, "sha256": _sha256(weights)},
    }
    path.write_text(json.dumps(card, indent=2) + "\n")


def load_bundle(path: Path) -> ModelBundle:
    """Build the net that a bundle's JSON describes and load its weights, in eval mode.

    Args:
        path: The JSON's path.

    Raises:
        ValueError: The weights are not those that the JSON vouches for, or do not fit the class.
    """
    from safetensors.torch import load_file
    from torch import nn

    card = json.loads(path.read_text())
    weights = path.with_name(card["weights"]["file"])
    if (found := _sha256(weights)) != card["weights"]["sha256"]:
        raise ValueError(f"{weights}: sha256 {found} is not the one that {path.name} names")
    net = resolve(card["type"], nn.Module)(**card["arguments"])
    try:
        net.load_state_dict(load_file(weights))
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit {card['type']}: {error}") from error
    return ModelBundle(
        net.eval(), card["type"], card["arguments"], card["metrics"], card["provenance"]
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
