"""How configuration is put together: environments replace blocks, the command line single keys."""

from __future__ import annotations

import copy
from typing import Any

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf


class ConfigLoader(OmegaConfigLoader):
    """Kedro's loader, but for ``--params`` beside ``--env``; the parameters are read once.

    Kedro merges single keys of ``--params`` into what an environment says of their block, which may
    be nothing, and then lets that replace the whole block of ``conf/base``. Here they are merged
    into the block that comes of both.
    """

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Load the configuration of one kind."""
        if key != "parameters":
            return super().__getitem__(key)
        if key not in self:
            given, self.runtime_params = self.runtime_params, {}
            try:
                blocks = super().__getitem__(key)
            finally:
                self.runtime_params = given
            self[key] = OmegaConf.to_container(OmegaConf.merge(blocks, given or {}))
        return copy.deepcopy(super().__getitem__(key))
