"""Mixture of Specialized Teachers for cross-modal knowledge distillation.

From Python, three functions lead from arrays to a student: `samples_of`, `make_plan` and
`distill`. They are imported when they are first used, because PyTorch takes seconds to load.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mst_distill.from_python import Distillation, distill, make_plan, samples_of

__version__ = "0.2.0"

__all__ = ["Distillation", "distill", "make_plan", "samples_of"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        # By its name, so that not every module of the package depends on it; see `code_of`.
        return getattr(importlib.import_module("mst_distill.from_python"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
