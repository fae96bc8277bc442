"""The catalog: every artefact is verified when it is loaded, and written whole or not at all."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, get_type_hints

from kedro.framework.project import pipelines
from kedro.io import DataCatalog
from kedro.pipeline.node import Node
from pydantic import BaseModel

from mst_distill.artifacts.atomic import replacing
from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.code_digest import code_of
from mst_distill.artifacts.provenance import (
    Origin,
    counted_parameters,
    files_below,
    read_sidecar,
    texts_in,
    verify,
    write_sidecar,
)

PARAMETERS = "params:"

log = logging.getLogger(__name__)


class ArtifactCatalog(DataCatalog):
    """Kedro's catalog, for entries that a registered node makes and that lie in files.

    Saving such an entry replaces its files whole or not at all, and writes a sidecar last: the
    SHA-256 of its files and its `Origin`, which follows from the node that makes it: the node's
    parameters, the identities of its other inputs, and the code that its function and the classes
    that its parameters name reach. Loading one verifies its files against the sidecar, and its
    origin, and those of all that it was made from, against what would be made now.

    Outside of a run, as in a notebook, an origin that differs is a warning; in a run it is an
    error. What is missing, stale or damaged does not exist for ``--only-missing-outputs``.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._loaded: dict[str, str] = {}
        self._made_now: set[str] = set()
        self._terms: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
        self._running = False

    def begin_run(self, inputs: Iterable[str], outputs: Iterable[str]) -> None:
        """Be strict from now on, and verify the origins of what a run begins with.

        Args:
            inputs: Entries that the run reads and does not make.
            outputs: Entries that it makes.

        Raises:
            ValueError: An input is missing or stale; the message says what to run.
        """
        self._running = True
        self._loaded = {}
        self._made_now = set(outputs)
        for name in sorted(self._made_now & self._makers.keys()):
            self._terms_of(self._makers[name])  # before any of the code can change
        given = set(inputs)
        for name in self._makers:  # in the order of the stages, so that the first cause is named
            if name in given and self._path(name):
                self._check_origin(name)

    def load(self, ds_name: str, version: str | None = None) -> Any:
        """Load an entry, verified.

        Raises:
            ValueError: It is missing, damaged or, in a run, stale; the message names the file or
                what differs, and says what to run.
        """
        if path := self._path(ds_name):
            self._check_origin(ds_name)
            try:
                self._loaded[ds_name] = verify(path).identity
            except ValueError as error:
                raise ValueError(f"{error}. {self._remedy(ds_name)}") from error
        return super().load(ds_name, version)

    def save(self, ds_name: str, data: Any) -> None:
        """Save an entry, and declare it whole.

        Raises:
            RuntimeError: The code that made it has changed since it was loaded.
        """
        path = self._path(ds_name)
        if not path:
            super().save(ds_name, data)
            return
        origin = self.origin_of(self._makers[ds_name])
        with self._replacing(ds_name, path):
            super().save(ds_name, _with_provenance(data, origin))
        dataset = self[ds_name]
        files = getattr(dataset, "files", None)
        identity = getattr(dataset, "identity", None)
        write_sidecar(
            path,
            files() if files else files_below(path) if path.is_dir() else [path],
            origin,
            identity() if identity else None,
        )
        self._made_now.discard(ds_name)

    def exists(self, ds_name: str) -> bool:
        """Whether an entry is there, whole, and as it would be made now."""
        there: bool = super().exists(ds_name)
        if there and (path := self._path(ds_name)):
            to_be_made, self._made_now = self._made_now, set()
            try:
                there = not self._stale(ds_name, set()) and bool(verify(path))
            except ValueError:
                there = False
            finally:
                self._made_now = to_be_made - {ds_name} if there else to_be_made
        return there

    def origin_of(self, node: Node) -> Origin:
        """The origin of what a node makes now, of what it has loaded or of what is there."""
        inputs = {
            name: self._loaded.get(name) or read_sidecar(path).identity
            for name in node.inputs
            if (path := self._path(name))
        }
        parameters, code = self._terms_of(node)
        return Origin(node.name, parameters, inputs, code)

    def _terms_of(self, node: Node) -> tuple[dict[str, Any], dict[str, str]]:
        """The parameters and the code of a node, as they were when they were first asked for."""
        if node.name not in self._terms:
            parameters = counted_parameters(node.func, dict(self._parameters(node)))
            self._terms[node.name] = parameters, code_of(node.func, *texts_in(parameters))
        return self._terms[node.name]

    @cached_property
    def _makers(self) -> dict[str, Node]:
        """Entry to the node that makes it."""
        return {
            output: node
            for pipeline in pipelines.values()
            for node in pipeline.nodes
            for output in node.outputs
        }

    def _path(self, name: str) -> Path | None:
        """The file or folder of an entry, if it is an artefact: made by a node, in a local file."""
        if name.startswith(PARAMETERS) or name not in self or name not in self._makers:
            return None
        dataset = self[name]
        if getattr(dataset, "_protocol", "file") != "file" or getattr(dataset, "_version", None):
            return None  # elsewhere, or kept by Kedro in versions
        place = dataset._describe()
        where = place.get("filepath") or place.get("path")
        return Path(str(where)) if where else None

    def _parameters(self, node: Node) -> Iterator[tuple[str, Any]]:
        """Name to value, as the node's function is typed, whatever pipeline runs."""
        func = node.func.func if isinstance(node.func, partial) else node.func
        hints = get_type_hints(func)
        arguments = inspect.signature(node.func).parameters
        for argument, name in zip(arguments, node.inputs, strict=True):
            if name.startswith(PARAMETERS):
                value, kind = self[name].load(), hints.get(argument)
                typed = inspect.isclass(kind) and issubclass(kind, BaseModel)
                yield (
                    name.removeprefix(PARAMETERS),
                    kind.model_validate(value) if typed else value,  # type: ignore[union-attr]
                )

    def _check_origin(self, name: str) -> None:
        """Raise, or outside of a run warn, if an entry or what it was made from is stale."""
        if not (stale := self._stale(name, set())):
            return
        if self._running:
            raise ValueError(stale)
        log.warning("%s", stale)

    def _stale(self, name: str, fresh: set[str]) -> str:
        """Why an entry is not what would be made now, and what to run; empty if it is.

        What it was made from is looked at first, so that the first cause is named.

        Args:
            name: The entry.
            fresh: Entries that are known not to be stale; grows.

        Raises:
            ValueError: It, or what it was made from, has no whole sidecar.
        """
        node, path = self._makers[name], self._path(name)
        if name in fresh or name in self._made_now or path is None:
            return ""  # what this run makes it makes before anything reads it
        earlier = [of for of in node.inputs if self._path(of)]
        for of in earlier:
            if stale := self._stale(of, fresh):
                return stale
        try:
            sidecar = read_sidecar(path)
        except ValueError as error:
            raise ValueError(f"{error}. {self._remedy(name)}") from error
        if not self._made_now.isdisjoint(earlier):
            return ""  # to be seen when it is loaded
        if clauses := sidecar.origin.differences(self.origin_of(node)):
            what = f"{name!r} is not what would be made now: {'; '.join(clauses)}"
            return f"{what}. {self._remedy(name)}, or set back what differs"
        fresh.add(name)
        return ""

    def _remedy(self, name: str) -> str:
        return f"Run again --from-nodes={self._makers[name].name}"

    @contextmanager
    def _replacing(self, name: str, path: Path) -> Iterator[None]:
        """Inside, the entry is written beside its file, which it replaces at the end.

        The project's own data sets see to that themselves.
        """
        dataset = self[name]
        if type(dataset).__module__.startswith("mst_distill."):
            yield
            return
        with replacing(path) as pending:
            staged = copy.copy(dataset)
            staged._filepath = PurePosixPath(pending.as_posix())  # type: ignore[attr-defined]
            self._datasets[name] = staged
            try:
                yield
            finally:
                self._datasets[name] = dataset


def _with_provenance(data: Any, origin: Origin) -> Any:
    """Nets that know where they are from, for whoever has only them; anything else as it is."""
    if isinstance(data, ModelBundle):
        return replace(data, provenance={**origin.record(), **data.provenance})
    if isinstance(data, dict) and all(isinstance(of, ModelBundle) for of in data.values()):
        return {name: _with_provenance(bundle, origin) for name, bundle in data.items()}
    return data
