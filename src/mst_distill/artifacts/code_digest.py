"""Which code a result was made by: the SHA-256 of every module that a function or class reaches."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "mst_distill"

COUNTED = "torch"
"""The library whose version counts wherever it is reached: it computes what is trained."""


@dataclass(frozen=True)
class _Module:
    """A module's digest, and the names of what it imports that may be modules.

    Attributes:
        digest: SHA-256 of its syntax tree without prose.
        imports: Dotted names.
        looked: Size and time of its file.
    """

    digest: str
    imports: tuple[str, ...]
    looked: tuple[int, int]


def code_of(*entries: Callable[..., Any] | str) -> dict[str, str]:
    """Digest the code that `entries` reach by imports, as it was when it was first asked for.

    Modules are read once a process, so that the answer is about the code that was loaded, whatever
    is written to its files later; see `refuse_changed_code`. Docstrings, comments and line numbers
    do not count, so that prose changes no digest. Of a module all imports are followed, also those
    inside functions, but for those for type checkers; of a function in `entries` those that it uses
    itself. What is imported by a computed name is not seen.

    Modules of this package are followed, and the user's own, which are those that are not
    installed. Of what is installed the version counts, and only for `COUNTED` and for what a text
    names.

    Args:
        entries: Functions, classes, and texts. A text that is the import path of a class or
            function stands for it; any other text counts for nothing.

    Returns:
        Module to SHA-256 and library to version, sorted.
    """
    found: dict[str, str] = {}
    texts = [entry for entry in entries if isinstance(entry, str)]
    waiting = [module for text in texts for module in _module_in(text)]
    named = {_top(module) for module in waiting}
    for entry in entries:
        if isinstance(entry, str):
            continue
        if isinstance(entry, partial):
            entry = entry.func
        if inspect.isfunction(entry) and entry.__name__ in _definitions_in(entry):
            digest, imports = _function(entry)
            found[f"{entry.__module__}.{entry.__qualname__}"] = digest
            waiting += imports
        else:
            waiting.append(entry.__module__)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if (file := _own_file(name)) is not None:
            module = _read_once(file, name)
            found[name] = module.digest
            waiting += [*module.imports, *_parents(name)]
        elif _top(name) in {COUNTED, *named} - {PACKAGE}:
            found |= _installed_version(_top(name))
    return dict(sorted(found.items()))


def refuse_changed_code(code: Iterable[str]) -> None:
    """Raise if a file of `code_of` is no longer what it was when it was read.

    A process that goes on after an edit may run some modules as they were and some as they are.

    Args:
        code: Modules, as `code_of` names them.

    Raises:
        RuntimeError: One is; the message names the file.
    """
    for name in code:
        file = _own_file(name)
        if file is None or (file, name) not in _READ:
            continue
        if _changed(file, _READ[file, name]):
            raise RuntimeError(
                f"{file} was changed while this run was going on: its results would be of two "
                f"versions of the code and are not kept. Run the same command again; undo the "
                f"change to go on where it was"
            )


def _changed(file: Path, module: _Module) -> bool:
    """Whether a file is another; it is read only if it looks so."""
    try:
        return _look(file) != module.looked and _digest(_tree(file)) != module.digest
    except (OSError, SyntaxError):
        return True


def _look(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


_READ: dict[tuple[Path, str], _Module] = {}


def _read_once(file: Path, name: str) -> _Module:
    if (file, name) not in _READ:
        looked, tree = _look(file), _tree(file)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        _READ[file, name] = _Module(_digest(tree), tuple(_imports(tree, package)), looked)
    return _READ[file, name]


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), str(file))


@cache
def _function(function: Callable[..., Any]) -> tuple[str, list[str]]:
    """The digest of a function of a module, and what it imports or uses of the module's imports."""
    file = Path(inspect.getfile(function))
    tree, here = _tree_once(file), _definitions_in(function)
    package = function.__module__.rpartition(".")[0]
    parts: dict[str, ast.stmt] = {}
    waiting = [function.__name__]
    names: set[str] = set()
    while waiting:
        name = waiting.pop()
        parts[name] = here[name]
        used = {node.id for node in ast.walk(parts[name]) if isinstance(node, ast.Name)}
        names |= used
        waiting += sorted(used & set(here) - set(parts))
    imported = [
        name
        for statement in tree.body
        if isinstance(statement, (ast.Import, ast.ImportFrom))
        and names & {alias.asname or _top(alias.name) for alias in statement.names}
        for name in _imports(statement, package)
    ]
    local = [name for part in parts.values() for name in _imports(part, package)]
    sha = hashlib.sha256("".join(_digest(parts[name]) for name in sorted(parts)).encode())
    return sha.hexdigest(), [*imported, *local]


def _definitions_in(function: Callable[..., Any]) -> dict[str, ast.stmt]:
    """What the module of a function defines; a lambda or an inner function is not among it."""
    return dict(_definitions(_tree_once(Path(inspect.getfile(function)))))


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """The functions, classes and values of a module by their names."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((to.id, node) for to in targets if isinstance(to, ast.Name))


@cache
def _tree_once(file: Path) -> ast.Module:
    return _tree(file)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names of all that is imported, but for type checkers; some are no modules."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test):
        return
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        start = package.split(".")[: len(package.split(".")) - tree.level + 1]
        parts = [*(start if tree.level else []), *([tree.module] if tree.module else [])]
        yield ".".join(parts)
        yield from (".".join([*parts, alias.name]) for alias in tree.names)
    for child in ast.iter_child_nodes(tree):
        yield from _imports(child, package)


def _digest(tree: ast.AST) -> str:
    return hashlib.sha256(json.dumps(_plain(tree)).encode()).hexdigest()


def _plain(node: Any) -> Any:
    """A syntax tree as JSON values, without prose and without what is empty.

    Python's versions differ in what they write of fields that are empty, and agree on the rest.
    """
    if isinstance(node, list):
        return [_plain(each) for each in node if not _is_prose(each)]
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node))
        kept = [[name, _plain(value)] for name, value in fields if value not in (None, [])]
        return [type(node).__name__, kept]
    return node if isinstance(node, (str, int, bool)) else repr(node)


def _is_prose(node: Any) -> bool:
    """Whether a statement is a text by itself: a docstring, of whatever."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _module_in(text: str) -> list[str]:
    """The module in the import path of a class or function, as a list; empty for other texts."""
    module, _, _ = text.rpartition(".")
    if not module or not all(part.isidentifier() for part in text.split(".")):
        return []
    known = _own_file(module) or (_top(module) not in sys.stdlib_module_names and _spec(module))
    return [module] if known else []


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _top(name: str) -> str:
    return name.partition(".")[0]


@cache
def _own_file(name: str) -> Path | None:
    """The source of a module of this package or of the user's; None of anything else."""
    top, *inner = name.split(".")
    if top in sys.stdlib_module_names:
        return None
    spec = _spec(top)
    if spec is None or (top != PACKAGE and _is_installed(spec)):
        return None
    if not inner:
        own = Path(spec.origin) if spec.origin else None
        return own if own is not None and own.suffix == ".py" else None
    for root in spec.submodule_search_locations or []:
        place = Path(root, *inner)
        for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


@cache
def _spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(_top(name))
    except (ImportError, ValueError):  # of a script that runs, of a package that is broken
        return None


def _is_installed(spec: ModuleSpec) -> bool:
    places = [spec.origin or "", *(spec.submodule_search_locations or [])]
    return any({"site-packages", "dist-packages"} & set(Path(place).parts) for place in places)


@cache
def _installed_version(top: str) -> dict[str, str]:
    if top == COUNTED:
        return {COUNTED: version(COUNTED)}
    return {name: version(name) for name in packages_distributions().get(top, [])}
