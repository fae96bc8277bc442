"""Nodes whose inputs are named by their function's parameters, and pipelines in a namespace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

from kedro.pipeline import Pipeline, node
from kedro.pipeline.node import Node

PLAN = "parameters"
"""Kedro's data set of all parameters. A node receives it as a `Plan`, see `hooks.plan`."""


def node_of(function: Callable[..., Any], outputs: str | list[str], *more: str) -> Node:
    """A node named after its function.

    Args:
        function: Each of its parameters except ``plan`` is the name of a data set.
        outputs: The data sets that it returns.
        more: Further data sets, which it takes as keyword arguments.
    """
    names = [
        name
        for name, parameter in signature(function).parameters.items()
        if parameter.kind != parameter.VAR_KEYWORD
    ]
    inputs = {name: PLAN if name == "plan" else name for name in [*names, *more]}
    return node(function, inputs, outputs, name=function.__name__)


def pipeline_of(namespace: str, nodes: Iterable[Node]) -> Pipeline:
    """A pipeline shown as one box in kedro-viz; its data sets and parameters keep their names."""
    return Pipeline(nodes, namespace=namespace, prefix_datasets_with_namespace=False)
