"""Classes and functions by their import path, as a Kedro catalog names its dataset types."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

from mst_distill.errors import unknown

T = TypeVar("T")


def resolve(path: str, base: type[T]) -> type[T]:
    """Import the class at `path`.

    Args:
        path: ``package.module.Class``.
        base: What the class must derive from.

    Raises:
        ValueError: There is no such module or class; the message names what the module has.
        TypeError: What is there is no class derived from `base`.
    """
    module, name = _module_of(path)
    if not hasattr(module, name):
        have = [key for key, value in vars(module).items() if _is_subclass(value, base)]
        raise ValueError(unknown(f"class in {module.__name__}", name, have))
    found = getattr(module, name)
    if not _is_subclass(found, base):
        raise TypeError(f"{path!r} is no {base.__module__}.{base.__qualname__}: {found!r}")
    return found


def resolve_function(path: str) -> Callable[..., object]:
    """Import the function at `path`.

    Args:
        path: ``package.module.function``.

    Raises:
        ValueError: There is no such module or function; the message names what the module has.
    """
    module, name = _module_of(path)
    found = getattr(module, name, None)
    if not inspect.isfunction(found):
        functions = inspect.getmembers(module, inspect.isfunction)
        have = [key for key, _ in functions if not key.startswith("_")]
        raise ValueError(unknown(f"function in {module.__name__}", name, have))
    return found


def _module_of(path: str) -> tuple[ModuleType, str]:
    module_path, _, name = path.rpartition(".")
    try:
        return importlib.import_module(module_path), name
    except (ImportError, TypeError, ValueError) as error:
        raise ValueError(f"{path!r} cannot be imported: {error}") from error


def _is_subclass(value: object, base: type) -> bool:
    return inspect.isclass(value) and issubclass(value, base) and value is not base
