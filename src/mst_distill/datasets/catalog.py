"""The catalog, which verifies every artefact on loading and writes it whole or not at all."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.framework.project import pipelines
from kedro.io import AbstractVersionedDataset, DataCatalog, DatasetError
from kedro.pipeline.node import Node

from mst_distill.artifacts.atomic import replacing
from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.code_digest import code_of
from mst_distill.artifacts.lock import one_at_a_time
from mst_distill.artifacts.provenance import (
    Origin,
    counted_parameters,
    files_below,
    parameters_read,
    read_sidecar,
    texts_in,
    verify,
    write_sidecar,
)
from mst_distill.plan import Plan, read_plan

PARAMETERS = "parameters"
"""The name of Kedro's dataset of all parameters."""

log = logging.getLogger(__name__)


class ArtifactCatalog(DataCatalog):
    """Kedro's catalog with artefacts: entries that a registered node makes and that are files.

    Saving an artefact replaces its files whole or not at all. Its sidecar is written last. It holds
    the SHA-256 of the files and the `Origin`, which follows from the node that makes the artefact:
    the node's parameters, the identities of its other inputs, and the code that its function and
    the classes named in its parameters reach. Loading an artefact verifies its files against the
    sidecar. It also compares the origins of the artefact, and of all artefacts that it was made
    from, with the origins that they would have now.

    In a run, an origin that differs is an error; outside a run, as in a notebook, it is a warning.
    For ``--only-missing-outputs``, artefacts that are missing, stale or damaged count as missing.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._loaded: dict[str, str] = {}
        self._to_be_made: set[str] = set()
        self._dependencies: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
        self._running = False

    def begin_run(self, inputs: Iterable[str], outputs: Iterable[str]) -> None:
        """Verify a run's inputs and their origins; from now on a stale entry is an error.

        Args:
            inputs: Entries that the run reads and does not make.
            outputs: Entries that the run makes.

        Raises:
            ValueError: An input is missing, damaged or stale; the message states which node to
                run.
        """
        self._running = True
        self._loaded = {}
        self._to_be_made = set(outputs)
        for name in sorted(self._to_be_made & self._producers.keys()):
            self._dependencies_of(self._producers[name])  # reads the code before it can change
        needed = set(inputs)
        for name in self._producers:  # in stage order, to report the earliest cause
            if name in needed and (path := self._path(name)):
                self._check_origin(name)
                self._verified_identity(name, path)

    def load(self, ds_name: str, version: str | None = None) -> Any:
        """Verify an entry and load it.

        Raises:
            ValueError: It is missing, damaged or, in a run, stale; the message names the file or
                the difference, and the node to run.
        """
        if path := self._path(ds_name):
            self._check_origin(ds_name)
            self._loaded[ds_name] = self._verified_identity(ds_name, path)
            if hasattr(dataset := self[ds_name], "allowed"):
                types = self.plan.members.net_types()
                # Outside a run, old results can be looked at, made with other arguments.
                dataset.allowed = types if self._running else dict.fromkeys(types)
        return super().load(ds_name, version)

    def save(self, ds_name: str, data: Any) -> None:
        """Save an entry and write its sidecar.

        Raises:
            RuntimeError: The code of its node has changed since that code was loaded.
        """
        path = self._path(ds_name)
        if not path:
            super().save(ds_name, data)
            return
        origin = self.origin_of(self._producers[ds_name])
        with self._replacing(ds_name, path):
            super().save(ds_name, _with_provenance(data, origin))
        dataset = self[ds_name]
        files = getattr(dataset, "files", None)
        identity = getattr(dataset, "identity", None)
        with one_at_a_time(path):  # runs with the same data and seed share their splits
            write_sidecar(
                path,
                files() if files else files_below(path) if path.is_dir() else [path],
                origin,
                identity() if identity else None,
            )
        self._to_be_made.discard(ds_name)

    def _verified_identity(self, name: str, path: Path) -> str:
        try:
            return verify(path).identity
        except ValueError as error:
            raise ValueError(f"{error}. {self._remedy(name)}") from error

    def exists(self, ds_name: str) -> bool:
        """Return whether an entry exists, is complete and undamaged, and is not stale."""
        exists: bool = super().exists(ds_name)
        if exists and (path := self._path(ds_name)):
            # Check what is on the disk now, also for entries that the run is going to replace.
            to_be_made, self._to_be_made = self._to_be_made, set()
            try:
                exists = not self._stale(ds_name, set()) and bool(verify(path))
            except ValueError:
                exists = False
            finally:
                self._to_be_made = to_be_made - {ds_name} if exists else to_be_made
        return exists

    def origin_of(self, node: Node) -> Origin:
        """The origin that a node's outputs would have now, from inputs in memory or on disk."""
        inputs = {
            name: self._loaded.get(name) or read_sidecar(path).identity
            for name in node.inputs
            if (path := self._path(name))
        }
        parameters, code = self._dependencies_of(node)
        return Origin(node.name, parameters, inputs, code)

    def _dependencies_of(self, node: Node) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the parameters and the code that a node depends on, as of the first call."""
        if node.name not in self._dependencies:
            parameters = {}
            if PARAMETERS in node.inputs:
                parameters = counted_parameters(node.func, self.plan)
            self._dependencies[node.name] = parameters, code_of(node.func, *texts_in(parameters))
        return self._dependencies[node.name]

    @cached_property
    def _producers(self) -> dict[str, Node]:
        """The node that makes each entry."""
        return {
            output: node
            for pipeline in pipelines.values()
            for node in pipeline.nodes
            for output in node.outputs
        }

    def _path(self, name: str) -> Path | None:
        """Return the local file or folder of an entry that a node makes; None for other entries."""
        if name not in self or name not in self._producers:
            return None
        dataset = self[name]
        if getattr(dataset, "_protocol", "file") != "file" or getattr(dataset, "_version", None):
            return None  # in remote storage, or versioned by Kedro
        description = dataset._describe()
        path = description.get("filepath") or description.get("path")
        return Path(str(path)) if path else None

    @cached_property
    def plan(self) -> Plan:
        """All parameters, validated.

        Raises:
            ValueError: A parameter is not valid, see `read_plan`.
        """
        return read_plan(self[PARAMETERS].load())

    def plan_of(self, node: Node) -> Plan:
        """The plan with the parameters that a node declares with `depends_on`."""
        return self.plan.only(parameters_read(node.func))

    def _check_origin(self, name: str) -> None:
        """Raise, or warn outside a run, if an entry or what it was made from is stale."""
        if not (stale := self._stale(name, set())):
            return
        if self._running:
            raise ValueError(stale)
        log.warning("%s", stale)

    def _stale(self, name: str, fresh: set[str]) -> str:
        """Return why an entry is stale and which node to run; an empty text if it is not stale.

        The inputs from which it was made are checked first, to report the earliest cause.

        Args:
            name: The entry.
            fresh: Entries that are known not to be stale; entries are added to it.

        Raises:
            ValueError: The entry, or an input from which it was made, has no complete sidecar.
        """
        node, path = self._producers[name], self._path(name)
        if name in fresh or name in self._to_be_made or path is None:
            return ""  # the run makes it before any node reads it
        inputs = [entry for entry in node.inputs if self._path(entry)]
        for entry in inputs:
            if stale := self._stale(entry, fresh):
                return stale
        try:
            sidecar = read_sidecar(path)
        except ValueError as error:
            raise ValueError(f"{error}. {self._remedy(name)}") from error
        if not self._to_be_made.isdisjoint(inputs):
            return ""  # its inputs are not made yet; it is checked when it is loaded
        if clauses := sidecar.origin.differences(self.origin_of(node)):
            reason = f"{name!r} is out of date: {'; '.join(clauses)}"
            return f"{reason}. {self._remedy(name)}, or undo the change"
        fresh.add(name)
        return ""

    def _remedy(self, name: str) -> str:
        node = self._producers[name]
        if node in pipelines["__default__"].nodes:
            return f"Run again with --from-nodes={node.name} and without --pipeline"
        pipeline = next(key for key, value in pipelines.items() if node in value.nodes)
        return f"Run again with --pipeline={pipeline} --from-nodes={node.name}"

    @contextmanager
    def _replacing(self, name: str, path: Path) -> Iterator[None]:
        """Let Kedro write an entry to a pending file, which replaces the old one after the block.

        The project's own datasets do so themselves, unless they are datasets of Kedro.
        """
        dataset = self[name]
        own = type(dataset).__module__.startswith("mst_distill.")
        if own and not isinstance(dataset, AbstractVersionedDataset):
            yield
            return
        with one_at_a_time(path), replacing(path) as pending:
            staged = copy.copy(dataset)
            staged._filepath = PurePosixPath(pending.as_posix())  # type: ignore[attr-defined]
            self._datasets[name] = staged
            try:
                yield
            except DatasetError as error:
                if isinstance(error.__cause__, OSError):
                    raise error.__cause__ from None  # `replacing` names the file
                raise
            finally:
                self._datasets[name] = dataset


def _with_provenance(data: Any, origin: Origin) -> Any:
    """Add the origin to nets, so that a bundle alone records it; return other data unchanged."""
    if isinstance(data, ModelBundle):
        return replace(data, provenance={**origin.record(), **data.provenance})
    if isinstance(data, dict) and all(isinstance(value, ModelBundle) for value in data.values()):
        return {name: _with_provenance(bundle, origin) for name, bundle in data.items()}
    return data
