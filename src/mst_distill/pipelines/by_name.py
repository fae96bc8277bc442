"""Nodes whose inputs are named by their function's parameters, and pipelines in a namespace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

from kedro.pipeline import Pipeline, node
from kedro.pipeline.node import Node

from mst_distill.datasets.catalog import PARAMETERS


def node_of(function: Callable[..., Any], outputs: str | list[str] | None, *more: str) -> Node:
    """A node named after its function.

    Args:
        function: Each of its parameters is the name of a data set, except ``plan``: all parameters,
            which the function receives as a `Plan`, see `hooks.plan`.
        outputs: The data sets that it returns; None if it returns none.
        more: Further data sets, which it takes as keyword arguments.
    """
    names = [
        name
        for name, parameter in signature(function).parameters.items()
        if parameter.kind != parameter.VAR_KEYWORD
    ]
    inputs = {name: PARAMETERS if name == "plan" else name for name in [*names, *more]}
    return node(function, inputs, outputs, name=function.__name__)


def pipeline_of(namespace: str, nodes: Iterable[Node]) -> Pipeline:
    """A pipeline shown as one box in kedro-viz; its data sets and parameters keep their names."""
    return Pipeline(nodes, namespace=namespace, prefix_datasets_with_namespace=False)
