"""Specialists: one frozen teacher, cut after each of its masked layers.

The layers up to a masked layer compute the same for all specialists of a teacher. They run once
(the trunk), and only the layers after it run once for each mask (the tails). The cut is made in
the graph that torch.fx traces. The values that cross it are the output of the masked layer and
everything else from the trunk that the tail needs, such as a skip connection or pooling indices. If
a net cannot be cut, each specialist runs the whole net, with a hook that applies its mask.
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
"""The values that cross from the trunk to the tails; the first axis of each is the batch."""

UNMASKED = "unmasked"
"""The tail of a given teacher without masks."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpecialisedTeacher:
    """A frozen teacher as one trunk and a tail for each mask.

    Attributes:
        trunk: Maps inputs to the values that cross the cuts. Nothing in it is trained.
        tails: Masked layer to a module that maps these values to logits. Stage 2 trains the mask in
            it and nothing else.
        net: The whole teacher.
        member: The member whose inputs it takes.
    """

    trunk: Frozen
    tails: dict[str, nn.Module]
    net: nn.Module
    member: str

    def logits(self, inputs: Inputs) -> Tensor:
        """Compute the logits without a mask, ``(B, C)`` or ``(B, C, H, W)``."""
        return forward(
            self.net, self.member, {name: inputs[name] for name in self.trunk.modalities}
        )


def specialise(
    name: str,
    teacher: nn.Module,
    masks: Mapping[str, nn.Module],
    samples: Samples,
    stacked: bool = False,
    member: str | None = None,
) -> SpecialisedTeacher:
    """Cut a teacher after its masked layers.

    Args:
        name: The teacher, for messages.
        teacher: Its net; it is frozen and set to eval mode here.
        masks: Layer (module path) to its mask, in the order in which the net calls the layers.
        samples: The store; two samples of it show whether the cut is correct.
        stacked: Apply the masks of all earlier layers in addition to the specialist's own, as the
            released implementation does in stage 3, although each mask was trained alone.
        member: The member whose inputs the net takes; by default `name`.

    Returns:
        The teacher, cut if possible. If not, every tail runs the whole net, with the same logits,
        and the log states the reason.
    """
    freeze([teacher])
    member = member or name
    reads = modalities_of(member, list(samples.modalities))
    layers = list(masks)
    # The masks of each specialist: masked layer to {layer: mask}, in the order of the calls.
    active = {
        layer: {masked: masks[masked] for masked in (layers[: index + 1] if stacked else [layer])}
        for index, layer in enumerate(layers)
    }
    whole = _without_cut(member, teacher, active, reads)
    try:
        cut = _cut(member, teacher, _trace(teacher, layers), active, reads)
        _check_cut(cut, whole, two_samples(samples, reads, teacher))
    except Exception as error:  # the `forward` of a user's class may raise anything
        log.info("The %s teacher cannot be cut: the whole net runs for every mask. %s", name, error)
        return whole
    return cut


def unspecialised(teacher: nn.Module, member: str, reads: tuple[str, ...]) -> SpecialisedTeacher:
    """A teacher that is used as it is: all of it is the trunk, and its one tail changes nothing.

    Args:
        teacher: The net; it is frozen and set to eval mode here.
        member: The member whose inputs it takes.
        reads: The names of these inputs.
    """
    freeze([teacher])

    def compute(inputs: Inputs) -> Values:
        return (forward(teacher, member, inputs),)

    tails: dict[str, nn.Module] = {UNMASKED: nn.Identity()}
    return SpecialisedTeacher(Frozen(reads, compute), tails, teacher, member)


class _Tracer(fx.Tracer):
    """Records each masked layer as a single call, even if it consists of other modules.

    The cut is made after the node of this call.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        super().__init__()
        self._layers = layers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._layers or super().is_leaf_module(
            m, module_qualified_name
        )


def _trace(teacher: nn.Module, layers: Sequence[str]) -> fx.Graph:
    """Trace the graph of a net, with in-place activations made out-of-place.

    An in-place activation after a masked layer would overwrite the feature that crosses the cut.
    """
    for module in teacher.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    graph = _Tracer(layers).trace(teacher)
    for node in graph.nodes:
        if "inplace" in node.kwargs:
            node.update_kwarg("inplace", False)
    return graph


def _cut(
    member: str,
    teacher: nn.Module,
    graph: fx.Graph,
    active: Mapping[str, Mapping[str, nn.Module]],
    reads: tuple[str, ...],
) -> SpecialisedTeacher:
    # A tail begins after its first masked layer, because everything later depends on that mask.
    after = {layer: _nodes_after(graph, next(iter(masks))) for layer, masks in active.items()}
    # The tails share one trunk: it outputs the union of what they need, in the order of the graph.
    crossing = {node for layer in active for node in _crossing_nodes(after[layer])}
    shared = [node for node in graph.nodes if node in crossing]
    trunk = _build_trunk(teacher, graph, shared)

    def compute(inputs: Inputs) -> Values:
        return tuple(forward(trunk, member, inputs))

    tails: dict[str, nn.Module] = {
        layer: _build_tail(teacher, graph, shared, after[layer], masks)
        for layer, masks in active.items()
    }
    return SpecialisedTeacher(Frozen(reads, compute), tails, teacher, member)


def _without_cut(
    member: str,
    teacher: nn.Module,
    active: Mapping[str, Mapping[str, nn.Module]],
    reads: tuple[str, ...],
) -> SpecialisedTeacher:
    """Make the inputs the values that cross, and every tail the whole net."""

    def compute(inputs: Inputs) -> Values:
        return tuple(inputs[modality] for modality in reads)

    tails: dict[str, nn.Module] = {
        layer: _WholeForward(member, teacher, masks, reads) for layer, masks in active.items()
    }
    return SpecialisedTeacher(Frozen(reads, compute), tails, teacher, member)


@torch.no_grad()
def _check_cut(cut: SpecialisedTeacher, whole: SpecialisedTeacher, inputs: Inputs) -> None:
    """Compare a cut with the whole net on two samples.

    Raises:
        ValueError: A value that crosses is not a tensor with one row for each sample and cannot be
            cached. An example is the batch size, if the net reads it before the cut.
        AssertionError: The logits differ. This is so if a feature is changed in place after it has
            crossed, or if tracing followed another branch of `forward`.
    """
    values = cut.trunk(inputs)
    if not all(isinstance(value, Tensor) and value.shape[:1] == (2,) for value in values):
        raise ValueError("a value that crosses the cut is no tensor with one row for each sample")
    for layer, tail in cut.tails.items():
        # The masks may be in training mode; in eval mode the comparison leaves batch statistics
        # unchanged. Afterwards only the modules that were in training mode return to it.
        training = [module for module in tail.modules() if module.training]
        expected = whole.tails[layer].eval()(*whole.trunk(inputs))
        torch.testing.assert_close(tail.eval()(*values), expected, rtol=1e-4, atol=1e-5)
        for module in training:
            module.training = True


def _nodes_after(graph: fx.Graph, layer: str) -> set[fx.Node]:
    """All nodes that depend on the output of `layer`."""
    after: set[fx.Node] = set()
    for node in graph.nodes:
        if any(_is_call_of(source, layer) or source in after for source in node.all_input_nodes):
            after.add(node)
    return after


def _crossing_nodes(after: set[fx.Node]) -> set[fx.Node]:
    """The nodes before a cut whose values are used after it.

    Parameters and buffers (``get_attr``) do not cross: a tail has its own reference to them.
    """
    return {
        source
        for node in after
        for source in node.all_input_nodes
        if source not in after and source.op != "get_attr"
    }


def _is_call_of(node: fx.Node, layer: str) -> bool:
    return node.op == "call_module" and node.target == layer


def _build_trunk(teacher: nn.Module, graph: fx.Graph, shared: Sequence[fx.Node]) -> fx.GraphModule:
    """Build the module from the inputs to the values that cross."""
    trunk = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op != "output":
            copies[node] = trunk.node_copy(node, copies.__getitem__)
    trunk.output(tuple(copies[node] for node in shared))
    module = fx.GraphModule(teacher, trunk)
    # All nodes were copied, including those after the cuts: remove the ones that are not needed.
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module.eval()


def _build_tail(
    teacher: nn.Module,
    graph: fx.Graph,
    shared: Sequence[fx.Node],
    after: set[fx.Node],
    masks: Mapping[str, nn.Module],
) -> fx.GraphModule:
    """Build the module from the values that cross to the logits, with masks after their layers.

    Every tail has an input for each shared value, so that all tails are called in the same way.
    """
    tail = fx.Graph()
    root: dict[str, Any] = {}
    copies = {node: tail.placeholder(f"crossing_{index}") for index, node in enumerate(shared)}
    for node in graph.nodes:
        if node in after or node.op == "get_attr":
            copies[node] = tail.node_copy(node, copies.__getitem__)
            if node.op in ("call_module", "get_attr"):
                root[str(node.target)] = attrgetter(str(node.target))(teacher)
        # The masked output replaces the output of the layer for all nodes that follow.
        for index, (layer, mask) in enumerate(masks.items()):
            if _is_call_of(node, layer):
                copies[node] = tail.call_module(f"specialising_mask_{index}", (copies[node],))
                root[f"specialising_mask_{index}"] = mask
    return fx.GraphModule(root, tail)


class _WholeForward(nn.Module):
    """A specialist of a net that cannot be cut: the whole net, with hooks that apply its masks."""

    def __init__(
        self,
        member: str,
        teacher: nn.Module,
        masks: Mapping[str, nn.Module],
        reads: tuple[str, ...],
    ) -> None:
        super().__init__()
        self._member = member
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
            return forward(self.teacher, self._member, dict(zip(self._reads, inputs, strict=True)))
        finally:
            for hook in hooks:
                hook.remove()
