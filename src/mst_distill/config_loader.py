"""Merging of configuration: an environment replaces blocks, the command line replaces keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf
from pydantic import ValidationError

from mst_distill.import_path import resolve
from mst_distill.parameters import Benchmark


class ConfigLoader(OmegaConfigLoader):
    """Kedro's loader with ``--params`` merged by key; it reads the parameters only once.

    Kedro merges single keys of ``--params`` into the block of the environment, which may not have
    that block, and the result then replaces the whole block of ``conf/base``. This loader merges
    the keys into the block that results from ``conf/base`` and the environment, and replaces
    ``members: auto`` by the networks of the benchmark.
    """

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Load the configuration of one kind, such as ``parameters`` or ``catalog``."""
        if key != "parameters":
            return super().__getitem__(key)
        if key not in self:
            # Without runtime parameters, Kedro merges only the base and the environment.
            runtime, self.runtime_params = self.runtime_params, {}
            try:
                blocks = super().__getitem__(key)
            finally:
                self.runtime_params = runtime
            parts = super().__getitem__("globals")
            _check_parts_of_paths(
                blocks, {k: v for k, v in parts.items() if k not in (runtime or {})}
            )
            self[key] = _merge(blocks, runtime or {})
        return copy.deepcopy(super().__getitem__(key))


def _check_parts_of_paths(blocks: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Check that the keys of ``globals.yml``, which are parts of paths, have no other values.

    Raises:
        ValueError: ``parameters.yml`` sets such a key, so that results would be saved as those of
            another run.
    """
    for key, value in parts.items():
        found = blocks.get(key, value)
        if found != value and not isinstance(found, Mapping):
            raise ValueError(
                f"parameters.yml sets {key} to {found!r}, but results would be saved under "
                f"{value!r}: set it in globals.yml of the environment, or with "
                f"--params={key}={found}"
            )


def _merge(blocks: Mapping[str, Any], runtime: Mapping[str, Any]) -> Any:
    """Merge runtime parameters by key, after ``members: auto`` is replaced by the networks.

    The networks depend on the benchmark, also on what ``--params`` changes in it. What ``--params``
    changes in ``members`` is merged last.
    """
    others = {key: value for key, value in runtime.items() if key != "members"}
    preset = blocks.get("training")
    if isinstance(preset, str) and isinstance(others.get("training"), Mapping):
        blocks = {**blocks, "training": {"preset": preset}}  # whose keys are changed
    merged: Any = OmegaConf.to_container(OmegaConf.merge(blocks, others))
    members = runtime.get("members")
    if "auto" in (members, merged.get("members")):
        merged["members"] = _default_members(merged.get("benchmark"))
    if members is None or members == "auto":
        return merged
    return OmegaConf.to_container(OmegaConf.merge(merged, {"members": members}))


def _default_members(benchmark: Any) -> Any:
    """Return the block that stands for ``members: auto``.

    Raises:
        ValueError, TypeError: The class of the benchmark does not exist or has no default networks.
    """
    from mst_distill.benchmarks.source import SampleSource

    try:
        block = Benchmark.model_validate(benchmark)
    except ValidationError:
        return "auto"  # `read_plan` reports what is wrong with the block
    return resolve(block.type, SampleSource).default_members(block.arguments)
