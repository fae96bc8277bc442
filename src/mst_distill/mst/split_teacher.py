"""Specialists: one frozen teacher, cut behind each of its masked layers.

Everything in front of a masked layer is the same for every specialist of a teacher, so it runs
once (the trunk) and only what lies behind it runs once per mask (the tails). The cut is made in the
graph that torch.fx traces; whatever else crosses it (a skip connection, pooling indices) crosses
too. A net that cannot be traced is run whole, with its layer's output replaced by a hook.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from mst_distill.data.samples import Samples
from mst_distill.mst.networks import forward, freeze, modalities_of, two_samples
from mst_distill.training.batches import Frozen, Inputs

Values = tuple[Tensor, ...]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpecialisedTeacher:
    """A frozen teacher as one trunk and a tail per mask.

    Attributes:
        trunk: Inputs to the tensors that cross the cuts; none of it learns.
        tails: Masked layer to a module from those tensors to logits; its mask learns in stage 2.
    """

    trunk: Frozen
    tails: dict[str, nn.Module]


def specialise(
    name: str,
    teacher: nn.Module,
    masks: Mapping[str, nn.Module],
    samples: Samples,
    stacked: bool = False,
) -> SpecialisedTeacher:
    """Cut a teacher behind its masked layers.

    Args:
        name: ``multimodal`` or a modality.
        teacher: Its net; frozen and set to eval mode here.
        masks: Layer (module path) to its mask, in the order of the net.
        samples: Two of them are sent through the trunk, to see that the cut holds.
        stacked: Let the masks in front of a layer's own work too, as the reference does in stage 3,
            though each was trained alone.

    Returns:
        The teacher cut, or run whole where it cannot be cut; the log says why. Both say the same.
    """
    freeze([teacher])
    reads = modalities_of(name, list(samples.modalities))
    layers = list(masks)
    active = {
        layer: {on: masks[on] for on in (layers[: place + 1] if stacked else [layer])}
        for place, layer in enumerate(layers)
    }
    whole = _run_whole(name, teacher, active, reads)
    try:
        cut = _cut(name, teacher, _trace(teacher, layers), active, reads)
        _compare(cut, whole, two_samples(samples, reads, teacher))
    except Exception as error:  # a user's own forward is traced and run: anything may come of it
        log.info("The %s teacher cannot be cut and runs whole for every mask: %s", name, error)
        return whole
    return cut


class _Tracer(fx.Tracer):
    """Sees the masked layers as single calls, whatever they are made of."""

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__()
        self._layers = layers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._layers or super().is_leaf_module(
            m, module_qualified_name
        )


def _trace(teacher: nn.Module, layers: Sequence[str]) -> fx.Graph:
    """The net's graph, in which no activation overwrites the feature that a mask is to see."""
    for module in teacher.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    graph = _Tracer(layers).trace(teacher)
    for node in graph.nodes:
        if "inplace" in node.kwargs:
            node.update_kwarg("inplace", False)
    return graph


def _cut(
    name: str,
    teacher: nn.Module,
    graph: fx.Graph,
    active: Mapping[str, Mapping[str, nn.Module]],
    reads: tuple[str, ...],
) -> SpecialisedTeacher:
    behind = {layer: _behind(graph, next(iter(masks))) for layer, masks in active.items()}
    crossing = {node for layer in active for node in _crossing(behind[layer])}
    shared = [node for node in graph.nodes if node in crossing]
    trunk = _trunk(teacher, graph, shared)

    def compute(inputs: Inputs) -> Values:
        return tuple(forward(trunk, name, inputs))

    tails: dict[str, nn.Module] = {
        layer: _tail(teacher, graph, shared, behind[layer], masks)
        for layer, masks in active.items()
    }
    return SpecialisedTeacher(Frozen(reads, compute), tails)


def _run_whole(
    name: str,
    teacher: nn.Module,
    active: Mapping[str, Mapping[str, nn.Module]],
    reads: tuple[str, ...],
) -> SpecialisedTeacher:
    def compute(inputs: Inputs) -> Values:
        return tuple(inputs[modality] for modality in reads)

    tails: dict[str, nn.Module] = {
        layer: _WholeForward(name, teacher, masks, reads) for layer, masks in active.items()
    }
    return SpecialisedTeacher(Frozen(reads, compute), tails)


@torch.no_grad()
def _compare(cut: SpecialisedTeacher, whole: SpecialisedTeacher, inputs: Inputs) -> None:
    """Refuse a cut that cannot be kept in tables, or that says other things than the whole net.

    A batch size that was read off in front of the cut cannot be kept; a feature that was changed in
    place after it crossed, or a branch that tracing took the other way, says other things.
    """
    values = cut.trunk.compute(inputs)
    if not all(isinstance(value, Tensor) and value.shape[:1] == (2,) for value in values):
        raise ValueError("something else than tensors with the batch in front crosses the cut")
    for layer, tail in cut.tails.items():
        training = [module for module in tail.modules() if module.training]
        expected = whole.tails[layer].eval()(*whole.trunk.compute(inputs))
        torch.testing.assert_close(tail.eval()(*values), expected, rtol=1e-4, atol=1e-5)
        for module in training:
            module.training = True


def _behind(graph: fx.Graph, layer: str) -> set[fx.Node]:
    """All nodes that see the output of `layer`."""
    behind: set[fx.Node] = set()
    for node in graph.nodes:
        if any(_is(source, layer) or source in behind for source in node.all_input_nodes):
            behind.add(node)
    return behind


def _crossing(behind: set[fx.Node]) -> set[fx.Node]:
    """The nodes in front of a cut whose values are used behind it; constants need not cross."""
    return {
        source
        for node in behind
        for source in node.all_input_nodes
        if source not in behind and source.op != "get_attr"
    }


def _is(node: fx.Node, layer: str) -> bool:
    return node.op == "call_module" and node.target == layer


def _trunk(teacher: nn.Module, graph: fx.Graph, shared: Sequence[fx.Node]) -> fx.GraphModule:
    """Inputs to the values that cross."""
    trunk = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op != "output":
            copies[node] = trunk.node_copy(node, copies.__getitem__)
    trunk.output(tuple(copies[node] for node in shared))
    module = fx.GraphModule(teacher, trunk)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module.eval()


def _tail(
    teacher: nn.Module,
    graph: fx.Graph,
    shared: Sequence[fx.Node],
    behind: set[fx.Node],
    masks: Mapping[str, nn.Module],
) -> fx.GraphModule:
    """The values that cross to logits, with the masks on their layers' outputs."""
    tail = fx.Graph()
    root: dict[str, Any] = {}
    copies = {node: tail.placeholder(f"crossing_{place}") for place, node in enumerate(shared)}
    for node in graph.nodes:
        if node in behind or node.op == "get_attr":
            copies[node] = tail.node_copy(node, copies.__getitem__)
            if node.op in ("call_module", "get_attr"):
                root[str(node.target)] = attrgetter(str(node.target))(teacher)
        for place, (layer, mask) in enumerate(masks.items()):
            if _is(node, layer):
                copies[node] = tail.call_module(f"specialising_mask_{place}", (copies[node],))
                root[f"specialising_mask_{place}"] = mask
    return fx.GraphModule(root, tail)


class _WholeForward(nn.Module):
    """A specialist of a net that cannot be cut: the whole forward pass, masks put on by hooks."""

    def __init__(
        self,
        name: str,
        teacher: nn.Module,
        masks: Mapping[str, nn.Module],
        reads: tuple[str, ...],
    ) -> None:
        super().__init__()
        self._name = name
        self._reads = reads
        self._layers = list(masks)
        self.teacher = teacher
        self.masks = nn.ModuleList(masks.values())

    def forward(self, *inputs: Tensor) -> Tensor:
        hooks = [
            self.teacher.get_submodule(layer).register_forward_hook(
                lambda _module, _inputs, output, mask=mask: mask(output)
            )
            for layer, mask in zip(self._layers, self.masks, strict=True)
        ]
        try:
            return forward(self.teacher, self._name, dict(zip(self._reads, inputs, strict=True)))
        finally:
            for hook in hooks:
                hook.remove()
