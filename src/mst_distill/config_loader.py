"""Merging of configuration: an environment replaces blocks, the command line replaces keys."""

from __future__ import annotations

import copy
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf


class ConfigLoader(OmegaConfigLoader):
    """Kedro's loader with ``--params`` merged by key; it reads the parameters only once.

    Kedro merges single keys of ``--params`` into the block of the environment, which may not have
    that block, and the result then replaces the whole block of ``conf/base``. This loader merges
    the keys into the block that results from ``conf/base`` and the environment.
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
            self[key] = OmegaConf.to_container(OmegaConf.merge(blocks, runtime or {}))
        return copy.deepcopy(super().__getitem__(key))
