"""The code behind a result: SHA-256 of each module that a function or class reaches by imports."""

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

TEMPLATES = "templates"
"""The folder whose files count as code of a package, which makes pages from them."""

COUNTED = "torch"
"""The library whose version counts wherever it is imported, since it does the computing."""


@dataclass(frozen=True)
class _Module:
    """A module as it was when its file was read.

    Attributes:
        digest: SHA-256 of its syntax tree without docstrings.
        imports: Dotted names of what it imports; some are not modules.
        stamp: Size and modification time of its file.
    """

    digest: str
    imports: tuple[str, ...]
    stamp: tuple[int, int]


def code_of(*entries: Callable[..., Any] | str) -> dict[str, str]:
    """Digest the code that `entries` reach through imports.

    A module is read once per process, so that the digest describes the code that was loaded even
    if its file changes later; see `reject_changed_code`. Docstrings, comments and line numbers do
    not count, so that editing them changes no digest. All imports of a module are followed, also
    those inside functions, except those for type checkers. For a function in `entries`, only the
    imports that it uses itself are followed. Modules imported under a computed name are not seen.

    Modules of this package are followed, and the user's own modules, which are all that are not
    installed. The templates of a package of this project count with its modules. Of an installed
    library the version counts, and only if it is `COUNTED` or is named by a text.

    Args:
        entries: Functions, classes, and texts. A text that is the import path of a class or
            function stands for that class or function; any other text is ignored.

    Returns:
        SHA-256 by module and version by library, sorted by name.
    """
    digests: dict[str, str] = {}
    texts = [entry for entry in entries if isinstance(entry, str)]
    queue = [module for text in texts for module in _module_in(text)]
    named_libraries = {_top(module) for module in queue}
    for entry in entries:
        if isinstance(entry, str):
            continue
        if isinstance(entry, partial):
            entry = entry.func
        if inspect.isfunction(entry) and entry.__name__ in _definitions_in(entry):
            digest, imports = _function(entry)
            digests[f"{entry.__module__}.{entry.__qualname__}"] = digest
            queue += imports
        else:
            queue.append(entry.__module__)
    seen: set[str] = set()
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        if (file := _own_file(name)) is not None:
            module = _read_once(file, name)
            digests[name] = module.digest
            if _top(name) == PACKAGE and file.name == "__init__.py":
                digests |= _templates(file.parent, name)
            queue += [*module.imports, *_parents(name)]
        elif _top(name) in {COUNTED, *named_libraries} - {PACKAGE}:
            digests |= _installed_version(_top(name))
    return dict(sorted(digests.items()))


@cache
def _templates(folder: Path, package: str) -> dict[str, str]:
    """Return the SHA-256 of each file in the folder `TEMPLATES` of a package."""
    return {
        f"{package}/{file.relative_to(folder).as_posix()}": hashlib.sha256(
            file.read_bytes()
        ).hexdigest()
        for file in sorted((folder / TEMPLATES).glob("*"))
    }


def reject_changed_code(code: Iterable[str]) -> None:
    """Raise if the file of a module has changed since `code_of` read it.

    After an edit, a running process may use the old version of some modules and the new version of
    others.

    Args:
        code: Modules, as named by `code_of`.

    Raises:
        RuntimeError: A file has changed; the message names it.
    """
    for name in code:
        file = _own_file(name)
        if file is None or (file, name) not in _READ:
            continue
        if _changed(file, _READ[file, name]):
            raise RuntimeError(
                f"{file} was changed while this run was going on: its results would come from two "
                f"versions of the code and are not saved. Run the same command again, or undo the "
                f"change first to continue where the run stopped"
            )


def _changed(file: Path, module: _Module) -> bool:
    """Return whether the code in a file has changed; read it only if its size or time has."""
    try:
        return _stamp(file) != module.stamp and _digest(_parse(file)) != module.digest
    except (OSError, SyntaxError):
        return True


def _stamp(file: Path) -> tuple[int, int]:
    """Return the size and the modification time of a file."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


_READ: dict[tuple[Path, str], _Module] = {}
"""The modules that this process has read, by file and name."""


def _read_once(file: Path, name: str) -> _Module:
    if (file, name) not in _READ:
        stamp, tree = _stamp(file), _parse(file)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        _READ[file, name] = _Module(_digest(tree), tuple(_imports(tree, package)), stamp)
    return _READ[file, name]


def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), str(file))


@cache
def _function(function: Callable[..., Any]) -> tuple[str, list[str]]:
    """Digest a function together with the definitions of its module that it uses.

    Returns:
        The digest, and the dotted names of what these definitions import or use of the imports of
        the module.
    """
    file = Path(inspect.getfile(function))
    tree, definitions = _parse_once(file), _definitions_in(function)
    package = function.__module__.rpartition(".")[0]
    statements: dict[str, ast.stmt] = {}
    queue = [function.__name__]
    names: set[str] = set()
    while queue:
        name = queue.pop()
        statements[name] = definitions[name]
        used = {node.id for node in ast.walk(statements[name]) if isinstance(node, ast.Name)}
        names |= used
        queue += sorted(used & set(definitions) - set(statements))
    imported = [
        name
        for statement in tree.body
        if isinstance(statement, (ast.Import, ast.ImportFrom))
        and names & {alias.asname or _top(alias.name) for alias in statement.names}
        for name in _imports(statement, package)
    ]
    local = [name for statement in statements.values() for name in _imports(statement, package)]
    sha = hashlib.sha256("".join(_digest(statements[name]) for name in sorted(statements)).encode())
    return sha.hexdigest(), [*imported, *local]


def _definitions_in(function: Callable[..., Any]) -> dict[str, ast.stmt]:
    """Return the definitions of a function's module, which exclude lambdas and inner functions."""
    return dict(_definitions(_parse_once(Path(inspect.getfile(function)))))


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the functions, classes and values that a module defines, by name."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((to.id, node) for to in targets if isinstance(to, ast.Name))


@cache
def _parse_once(file: Path) -> ast.Module:
    return _parse(file)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the dotted names of all imports but those for type checkers; some are not modules."""
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
        if not isinstance(child, ast.expr):  # most of a tree
            yield from _imports(child, package)


def _digest(tree: ast.AST) -> str:
    return hashlib.sha256(json.dumps(_json_tree(tree)).encode()).hexdigest()


def _json_tree(node: Any) -> Any:
    """Convert a syntax tree to JSON values, without docstrings and empty fields.

    Versions of Python differ in which empty fields a tree has, and agree on the others.
    """
    if isinstance(node, list):
        return [_json_tree(each) for each in node if not _is_docstring(each)]
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node))
        filled = [[name, _json_tree(value)] for name, value in fields if value not in (None, [])]
        return [type(node).__name__, filled]
    return node if isinstance(node, (str, int, bool)) else repr(node)


def _is_docstring(node: Any) -> bool:
    """Return whether a statement is only a text: a docstring, also of a value."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _module_in(text: str) -> list[str]:
    """Return a list of the module in the import path of a class or function; [] for other texts."""
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
    """Return the source file of a module of this package or of the user; None for other modules."""
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
        path = Path(root, *inner)
        for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


@cache
def _spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(_top(name))
    except (ImportError, ValueError):  # for the running script and for broken packages
        return None


def _is_installed(spec: ModuleSpec) -> bool:
    paths = [spec.origin or "", *(spec.submodule_search_locations or [])]
    return any({"site-packages", "dist-packages"} & set(Path(path).parts) for path in paths)


@cache
def _installed_version(top: str) -> dict[str, str]:
    if top == COUNTED:
        return {COUNTED: version(COUNTED)}
    return {name: version(name) for name in packages_distributions().get(top, [])}
