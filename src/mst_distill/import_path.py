"""Import of classes and functions by path, as a Kedro catalog names its dataset types."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

from mst_distill.errors import add_context, did_you_mean

T = TypeVar("T")


def resolve(path: str, base: type[T]) -> type[T]:
    """Import the class at `path`.

    Args:
        path: ``package.module.Class``.
        base: The class from which the imported class must be derived.

    Raises:
        ValueError: The module or the class does not exist; the message lists the classes of the
            module that are derived from `base`.
        TypeError: The imported object is not a class derived from `base`.
    """
    module, name = _import_module_of(path)
    if not hasattr(module, name):
        classes = {key: value for key, value in vars(module).items() if _is_subclass(value, base)}
        own = [
            key
            for key, value in classes.items()
            if f"{value.__module__}.".startswith(f"{module.__name__}.")
        ]
        known = own or list(classes)
        message = did_you_mean(f"class in {module.__name__}", name, known)
        raise ValueError(f"{message}{_where(module)}")
    found = getattr(module, name)
    if not _is_subclass(found, base):
        kind = "another class" if inspect.isclass(found) else f"a {type(found).__name__}"
        raise TypeError(
            f"{path!r} must be derived from {base.__module__}.{base.__qualname__}, but is {kind}"
        )
    return found


def resolve_function(path: str) -> Callable[..., object]:
    """Import the function at `path`.

    Args:
        path: ``package.module.function``.

    Raises:
        ValueError: The module or the function does not exist; the message lists the public
            functions of the module.
    """
    module, name = _import_module_of(path)
    found = getattr(module, name, None)
    if not inspect.isfunction(found):
        functions = inspect.getmembers(module, inspect.isfunction)
        known = [key for key, _ in functions if not key.startswith("_")]
        message = did_you_mean(f"function in {module.__name__}", name, known)
        raise ValueError(f"{message}{_where(module)}")
    return found


def _import_module_of(path: str) -> tuple[ModuleType, str]:
    """Import the module of a path, and return it with the last component of the path."""
    module_path, _, name = path.rpartition(".")
    if not module_path or module_path.startswith("."):
        raise ValueError(f"{path!r} cannot be imported: expected package.module.Name")
    try:
        return importlib.import_module(module_path), name
    except ImportError as error:
        raise ValueError(f"{path!r} cannot be imported: {error}") from error
    except Exception as error:  # the code of a user's module
        add_context(error, f"This happened when {path!r} was imported.")
        raise


def _where(module: ModuleType) -> str:
    """The file of a module that is not of this package, since another may have the same name."""
    if module.__name__.partition(".")[0] == __package__:
        return ""
    file = getattr(module, "__file__", None) or "a folder without __init__.py"
    return (
        f" ({module.__name__} is {file}; for a module of your own of this name, put its folder on "
        f"PYTHONPATH)"
    )


def _is_subclass(value: object, base: type) -> bool:
    return inspect.isclass(value) and issubclass(value, base) and value is not base
