"""A sweep: comparisons on several benchmarks and with several settings, which one file lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from pydantic import Field, ValidationError

from mst_distill.block import Block

BASE = "base"
"""The name of ``conf/base`` among the environments."""


@dataclass(frozen=True)
class Point:
    """One comparison of a sweep.

    Attributes:
        title: The environment and what is special to the variant.
        env: The environment, a folder of ``conf``; None for ``conf/base`` alone.
        parameters: What it changes in the parameters, nested.
    """

    title: str
    env: str | None
    parameters: dict[str, Any]

    @property
    def run(self) -> str:
        """The name under which its results are saved and joined with those of other points."""
        return str(self.parameters["run"])


class Sweep(Block):
    """The content of the file. Later blocks change keys of earlier ones, as ``--params`` does.

    Attributes:
        run: The name of the comparisons, which `aggregate` joins.
        parameters: The parameters of all points.
        environments: Environment to the parameters of its points; ``base`` for ``conf/base``.
        variants: The parameters of each variant. A variant that changes how nets are trained needs
            a ``run`` of its own.
    """

    run: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    environments: dict[str, dict[str, Any] | None] = Field(min_length=1)
    variants: tuple[dict[str, Any], ...] = Field(({},), min_length=1)

    def points(self) -> list[Point]:
        """Every environment with every variant."""
        return [
            Point(
                f"{env}{_described(variant)}",
                None if env == BASE else env,
                _merged({"run": self.run}, self.parameters, own or {}, variant),
            )
            for env, own in self.environments.items()
            for variant in self.variants
        ]


def read_sweep(file: Path) -> Sweep:
    """Read the file of a sweep.

    Raises:
        ValueError: It is no YAML, or a key is missing or unknown; the message names file and key.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must have the keys {', '.join(Sweep.model_fields)}")
    try:
        return Sweep.model_validate(content)
    except ValidationError as error:
        clauses = [
            ": ".join(filter(None, [".".join(map(str, each["loc"])), each["msg"]]))
            for each in error.errors()
        ]
        raise ValueError(f"{file}: {'; '.join(clauses)}") from None


def _merged(*blocks: Mapping[str, Any]) -> dict[str, Any]:
    merged: Any = OmegaConf.to_container(OmegaConf.merge(*map(dict, blocks)))
    return dict(merged)


def _described(variant: Mapping[str, Any]) -> str:
    """What is special to a variant, such as `` labelled=0.1, training=strong``."""
    texts = [f"{key}={value}" for key, value in variant.items()]
    return f" with {', '.join(texts)}" if texts else ""
