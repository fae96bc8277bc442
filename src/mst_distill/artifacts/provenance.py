"""What an artefact is and what it was made from: a sidecar file beside it, and its verification.

An artefact is a file or a folder that a step of the project wrote: samples, splits, nets, tables,
reports, trials. Its sidecar, ``NAME.origin.json``, is written last. It holds the SHA-256 of every
file of the artefact and its `Origin`: the parameters, the artefacts and the code that it was made
from. An artefact without a whole sidecar is not whole; one whose origin differs from what would be
made now is stale.
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
from tqdm import tqdm

from mst_distill.artifacts.atomic import replacing
from mst_distill.artifacts.code_digest import refuse_changed_code
from mst_distill.artifacts.progress import progress

SUFFIX = ".origin.json"

LARGE = 2**20
"""Files of so many bytes or more are read once a process to be verified."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Origin:
    """What an artefact was made from.

    Attributes:
        made_by: The node, or the trial.
        parameters: Name to value; JSON values.
        inputs: Other artefacts, name to identity.
        code: Module to SHA-256, from `code_of`.
    """

    made_by: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    code: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """What a net that leaves says of its origin; JSON values."""
        return {
            "made_by": self.made_by,
            "parameters": dict(self.parameters),
            "made_from": dict(self.inputs),
            "origin": self.digest,
            **made_with(),
        }

    def differences(self, wanted: Origin) -> list[str]:
        """In what an artefact of this origin differs from one of the origin `wanted`.

        Returns:
            A clause for each difference; none if there is no difference.
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
    """A clause about the modules that differ, in a list that is empty if none does."""
    names = sorted({**was, **now}, key=lambda name: (name not in was or name not in now, name))
    changed = [name for name in names if was.get(name) != now.get(name)]
    if not changed:
        return []
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return [f"the code has changed ({', '.join(changed[:3])}{more})"]


@dataclass(frozen=True)
class Sidecar:
    """What the file beside an artefact says.

    Attributes:
        identity: Equal for equal content; what the origins of later artefacts refer to.
        files: Path relative to the artefact's folder, to SHA-256.
        origin: What the artefact was made from.
    """

    identity: str
    files: Mapping[str, str]
    origin: Origin


def sidecar_path(artefact: Path) -> Path:
    """Where the sidecar of a file or folder is."""
    return artefact.with_name(f"{artefact.name}{SUFFIX}")


def write_sidecar(
    artefact: Path, files: Iterable[Path], origin: Origin, identity: str | None = None
) -> Sidecar:
    """Declare an artefact whole.

    Args:
        artefact: The file or folder.
        files: All files that it is made of, in the folder of `artefact` or below.
        origin: What it was made from.
        identity: Where equal content need not be equal bytes; otherwise it is the SHA-256 over
            `files`.

    Raises:
        RuntimeError: Code has changed since it was loaded, see `refuse_changed_code`.
    """
    refuse_changed_code(origin.code)
    sums = {file.relative_to(artefact.parent).as_posix(): sha256_of(file) for file in sorted(files)}
    whole = hashlib.sha256(json.dumps(sums).encode()).hexdigest()
    written = Sidecar(identity or whole, sums, origin)
    text = json.dumps({**asdict(written), **made_with()}, indent=1) + "\n"
    path = sidecar_path(artefact)
    if not path.is_file() or path.read_bytes() != text.encode():
        with replacing(path) as file:
            file.write_text(text, encoding="utf-8")
    return written


def read_sidecar(artefact: Path) -> Sidecar:
    """Read the sidecar of an artefact, without a look at the artefact.

    Raises:
        ValueError: There is none, or it is damaged; the message names the artefact.
    """
    path = sidecar_path(artefact)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Sidecar(record["identity"], record["files"], Origin(**record["origin"]))
    except FileNotFoundError as error:
        what = "is not whole, or from before artefacts said what they were made from"
        raise ValueError(f"{artefact} {what if artefact.exists() else 'does not exist'}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{artefact}: {path.name} is damaged ({error})") from error


def verify(artefact: Path) -> Sidecar:
    """Verify that an artefact is whole and as it was written.

    Raises:
        ValueError: It has no sidecar, or a file is missing, damaged or not one of its own; the
            message names the file.
    """
    sidecar = read_sidecar(artefact)
    for name, digest in sidecar.files.items():
        file = artefact.parent / name
        if not file.is_file():
            raise ValueError(f"{file} is missing")
        if sha256_of(file) != digest:
            raise ValueError(
                f"{file} is damaged: its SHA-256 is not the one that "
                f"{sidecar_path(artefact).name} names"
            )
    if artefact.is_dir():
        for file in files_below(artefact):
            if file.relative_to(artefact.parent).as_posix() not in sidecar.files:
                raise ValueError(f"{file} was not written together with {artefact.name}")
    return sidecar


def files_below(folder: Path) -> list[Path]:
    """The files in and below a folder, but for hidden ones."""
    return sorted(
        file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")
    )


_KNOWN: dict[tuple[int, int, int, int], str] = {}


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file; a large one is read once a process as long as it looks the same."""
    stat = path.stat()
    key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key not in _KNOWN:
        sha = hashlib.sha256()
        with path.open("rb") as file, _shown(path, stat.st_size) as bar:
            while part := file.read(LARGE):
                sha.update(part)
                bar.update()
        if stat.st_size < LARGE:
            return sha.hexdigest()
        _KNOWN[key] = sha.hexdigest()
    return _KNOWN[key]


def _shown(path: Path, size: int) -> tqdm[int]:
    """A bar over the megabytes of a file that takes long."""
    quick = size < 1000 * LARGE
    return progress(range(0), f"verifying {path.name}", "MB", total=-(-size // LARGE), hidden=quick)


def depends_on(**blocks: tuple[str, ...]) -> Callable[[F], F]:
    """Declare on which keys of its parameter blocks the results of a node depend.

    Args:
        blocks: Name of a block or value of the parameters to its keys that count; no keys if a node
            reads it only to refuse early what a later stage could not use. What is not named counts
            as a whole.
    """

    def declare(node: F) -> F:
        node.depends_on = blocks  # type: ignore[attr-defined]
        return node

    return declare


RUNTIME = {"runtime": ("precision",)}
"""Of where and how a run is computed only this changes more than rounding."""


def counted_parameters(node: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a node that its results depend on, see `depends_on`; JSON values.

    Args:
        node: The function.
        parameters: Name to value; blocks may be models or dicts.
    """
    counted: Mapping[str, tuple[str, ...]] = {**RUNTIME, **getattr(node, "depends_on", {})}
    plain = plain_parameters(parameters)
    narrowed = {
        name: {key: plain[name][key] for key in keys}
        for name, keys in counted.items()
        if name in plain
    }
    return {name: value for name, value in {**plain, **narrowed}.items() if value != {}}


def plain_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Blocks and values by name as JSON values."""
    plain = {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in parameters.items()
    }
    return json.loads(json.dumps(plain))


def texts_in(value: Any) -> Iterator[str]:
    """Every text in nested JSON values."""
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
    """Versions of what computes, and the git revision; for readers, nothing is compared with it."""
    versions = {name: version(name) for name in ("mst-distill", "torch", "numpy")}
    return {"versions": versions, "git": git_revision()}


def git_revision() -> str:
    """The commit of the working tree, ``-dirty`` when it differs, ``unknown`` outside git."""
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
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else key, inner)
    else:
        yield prefix, value
