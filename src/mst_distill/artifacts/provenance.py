"""The sidecar of an artefact: what the artefact was made from, and its verification.

An artefact is a file or a folder that a step of the project wrote: samples, splits, nets, tables,
reports, trials. Its sidecar, ``NAME.origin.json``, is written last. It holds the SHA-256 of every
file of the artefact and its `Origin`: the parameters, the artefacts and the code that it was made
from. Without a complete sidecar an artefact is incomplete. If its origin differs from the origin
that it would have now, it is stale.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from tqdm import tqdm

from mst_distill.artifacts.atomic import replacing
from mst_distill.artifacts.code_digest import reject_changed_code
from mst_distill.artifacts.progress import progress

SUFFIX = ".origin.json"

LARGE = 2**20
"""Files of this many bytes or more are read once per process for verification."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Origin:
    """What an artefact was made from.

    Attributes:
        made_by: The node or trial.
        parameters: JSON values by name.
        inputs: Identities of other artefacts by name.
        code: SHA-256 by module, from `code_of`.
    """

    made_by: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    code: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all attributes."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """Return the origin and the versions for the JSON of a model bundle; JSON values."""
        return {
            "made_by": self.made_by,
            "parameters": dict(self.parameters),
            "made_from": dict(self.inputs),
            "origin": self.digest,
            **made_with(),
        }

    def differences(self, wanted: Origin) -> list[str]:
        """List the differences between this origin and the origin `wanted`.

        Returns:
            A clause for each difference; an empty list if there is none.
        """
        was, now = (dict(_leaves("", origin.parameters)) for origin in (self, wanted))
        clauses = [
            f"{key} was {was.get(key)} and is {now.get(key)}"
            for key in {**was, **now}
            if was.get(key) != now.get(key)
        ]
        clauses += [
            f"its input {name!r} has changed"
            for name in {**self.inputs, **wanted.inputs}
            if self.inputs.get(name) != wanted.inputs.get(name)
        ]
        return clauses + code_changes(self.code, wanted.code)


def code_changes(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a list with one clause on the modules that differ, or an empty list.

    Args:
        was: SHA-256 by module of an artefact.
        now: SHA-256 by module of the current code.
    """
    # Only three are named: changed modules come before added and removed ones.
    names = sorted({**was, **now}, key=lambda name: (name not in was or name not in now, name))
    changed = [name for name in names if was.get(name) != now.get(name)]
    if not changed:
        return []
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return [f"the code has changed ({', '.join(changed[:3])}{more})"]


@dataclass(frozen=True)
class Sidecar:
    """The content of a sidecar.

    Attributes:
        identity: Equal for equal content; the origins of later artefacts refer to it.
        files: SHA-256 by path, relative to the folder that holds the artefact.
        origin: What the artefact was made from.
    """

    identity: str
    files: Mapping[str, str]
    origin: Origin


def sidecar_path(artefact: Path) -> Path:
    """Return the path of the sidecar of a file or folder."""
    return artefact.with_name(f"{artefact.name}{SUFFIX}")


def write_sidecar(
    artefact: Path, files: Iterable[Path], origin: Origin, identity: str | None = None
) -> Sidecar:
    """Write the sidecar of an artefact, which declares it complete.

    Args:
        artefact: The file or folder.
        files: All files of the artefact, in the folder that holds it or below.
        origin: What it was made from.
        identity: Needed if equal content may be stored as different bytes. The default is the
            SHA-256 over `files`.

    Raises:
        RuntimeError: Code has changed since it was loaded, see `reject_changed_code`.
    """
    reject_changed_code(origin.code)
    sums = {file.relative_to(artefact.parent).as_posix(): sha256_of(file) for file in sorted(files)}
    total = hashlib.sha256(json.dumps(sums).encode()).hexdigest()
    written = Sidecar(identity or total, sums, origin)
    text = json.dumps({**asdict(written), **made_with()}, indent=1) + "\n"
    path = sidecar_path(artefact)
    if not path.is_file() or path.read_bytes() != text.encode():
        with replacing(path) as file:
            file.write_text(text, encoding="utf-8")
    return written


def read_sidecar(artefact: Path) -> Sidecar:
    """Read the sidecar of an artefact; the artefact itself is not read.

    Raises:
        ValueError: The sidecar is missing or damaged; the message names the artefact.
    """
    path = sidecar_path(artefact)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Sidecar(record["identity"], record["files"], Origin(**record["origin"]))
    except FileNotFoundError as error:
        fault = "is incomplete, or was made before artefacts had sidecars"
        raise ValueError(
            f"{artefact} {fault if artefact.exists() else 'does not exist'}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{artefact}: {path.name} is damaged ({error})") from error


def verify(artefact: Path) -> Sidecar:
    """Verify that an artefact is complete and as it was written.

    Raises:
        ValueError: It has no sidecar, a file is missing or damaged, or its folder holds another
            file; the message names the file.
    """
    sidecar = read_sidecar(artefact)
    for name, digest in sidecar.files.items():
        file = artefact.parent / name
        if not file.is_file():
            raise ValueError(f"{file} is missing")
        if sha256_of(file) != digest:
            raise ValueError(
                f"{file} is damaged: its SHA-256 differs from the one in "
                f"{sidecar_path(artefact).name}"
            )
    if artefact.is_dir():
        for file in files_below(artefact):
            if file.relative_to(artefact.parent).as_posix() not in sidecar.files:
                raise ValueError(f"{file} was not written together with {artefact.name}")
    return sidecar


def files_below(folder: Path) -> list[Path]:
    """Return all files in and below a folder except hidden ones, sorted."""
    return sorted(
        file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")
    )


_KNOWN: dict[tuple[int, int, int, int], str] = {}
"""SHA-256 of large files by device, inode, size and modification time."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file; a large file is read again only if its size or time changes."""
    stat = path.stat()
    key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key not in _KNOWN:
        sha = hashlib.sha256()
        with path.open("rb") as file, _progress_bar(path, stat.st_size) as bar:
            while chunk := file.read(LARGE):
                sha.update(chunk)
                bar.update()
        if stat.st_size < LARGE:
            return sha.hexdigest()
        _KNOWN[key] = sha.hexdigest()
    return _KNOWN[key]


def _progress_bar(path: Path, size: int) -> tqdm[int]:
    """Return a bar over the megabytes of a file; hidden for files that are verified quickly."""
    quick = size < 1000 * LARGE
    return progress(range(0), f"verifying {path.name}", "MB", total=-(-size // LARGE), hidden=quick)


def depends_on(*blocks: str, **keys: tuple[str, ...]) -> Callable[[F], F]:
    """Declare which parameters a node reads.

    A node gets no other parameters, and its results become stale when one of these changes. Of
    ``runtime`` only the precision counts, because its other keys affect rounding only.

    Args:
        blocks: Blocks and values of the `Plan` that count as a whole.
        keys: Blocks of which only the given keys count. With an empty tuple, the node reads the
            block only to validate it early for a later stage.
    """

    def declare(node: F) -> F:
        whole = dict.fromkeys(blocks)
        node.depends_on = {**whole, **RUNTIME, **keys} if "runtime" in whole else {**whole, **keys}  # type: ignore[attr-defined]
        return node

    return declare


RUNTIME = {"runtime": ("precision",)}


def parameters_read(node: Callable[..., Any]) -> Mapping[str, tuple[str, ...] | None]:
    """Return the keys that count by block, see `depends_on`; None stands for all keys."""
    found: Mapping[str, tuple[str, ...] | None] = getattr(node, "depends_on", {})
    return found


def counted_parameters(node: Callable[..., Any], parameters: BaseModel) -> dict[str, Any]:
    """Return the parameters that a node's results depend on, see `depends_on`; JSON values.

    Args:
        node: The function of the node.
        parameters: The plan.
    """
    read = parameters_read(node)
    plain = plain_parameters({name: getattr(parameters, name) for name in read})
    narrowed = {
        name: plain[name] if keys is None else {key: plain[name][key] for key in keys}
        for name, keys in read.items()
    }
    return {name: value for name, value in narrowed.items() if value != {} and read[name] != ()}


def plain_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Convert blocks and values, by name, to JSON values. A file is its SHA-256, not its path.

    Raises:
        FileNotFoundError: There is no such file; the message has the name of the parameter.
    """
    plain: dict[str, Any] = _plain("", parameters)
    return plain


def _plain(key: str, value: Any) -> Any:
    """The JSON values of the parameter with this dotted key."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return {
            str(name): _plain(f"{key}.{name}" if key else str(name), of)
            for name, of in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(f"{key}.{number}", of) for number, of in enumerate(value)]
    if isinstance(value, Path):
        if not value.is_file():
            raise FileNotFoundError(
                f"{key}: {value.absolute()} does not exist; results are compared with the "
                f"parameters by its SHA-256, so that it must stay where the parameters say"
            )
        return sha256_of(value)
    return to_jsonable_python(value)


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text in nested JSON values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from texts_in(inner)


@cache
def made_with() -> dict[str, Any]:
    """Return library versions and the git revision, for readers only: nothing depends on them."""
    versions = {name: version(name) for name in ("mst-distill", "torch", "numpy")}
    return {"versions": versions, "git": git_revision()}


def git_revision() -> str:
    """Return the commit, ending in ``-dirty`` if files differ from it; ``unknown`` outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git on this machine
        return "unknown"
    return done.stdout.strip() or "unknown"


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every leaf of nested mappings."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else key, inner)
    else:
        yield prefix, value
