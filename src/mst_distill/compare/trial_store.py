"""The log of a comparison: one JSON file for each trial, saved with its student when it ends."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mst_distill.artifacts.atomic import replacing
from mst_distill.artifacts.bundle import Classes, ModelBundle, load_bundle, save_bundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.artifacts.provenance import (
    Origin,
    read_sidecar,
    sha256_of,
    sidecar_path,
    verify,
    write_sidecar,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One training run of a comparison.

    Attributes:
        method: Name of the method in the parameters.
        teacher: ``multimodal``, a modality, the name of a given teacher, or empty if the method has
            no teacher or uses all.
        target: The student: a modality, or the name of a student of another size.
        seed: Seed of the run.
        setting: The number of the setting that is tried, for a trial that helps to choose one;
            None for a trial that is reported.
    """

    method: str
    teacher: str
    target: str
    seed: int
    setting: int | None = None

    @property
    def title(self) -> str:
        """The method and its teacher, for reports."""
        return f"{self.method} <- {self.teacher}" if self.teacher else self.method

    @property
    def key(self) -> str:
        """Path of the trial's files, relative to a folder and without a suffix."""
        name = f"{self.method}-{self.teacher}" if self.teacher else self.method
        folder = "" if self.setting is None else f"/setting-{self.setting}"
        return f"{self.target}/seed-{self.seed}{folder}/{name}"


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial.

    Attributes:
        trial: The trial.
        metrics: Selection criterion to the student's metrics on the held-out split, and on the
            validation split, which begin with ``valid_``; on the latter alone if the trial helps to
            choose a setting; empty if it failed.
        cost: ``student_epochs``, ``seconds``, ``peak_bytes`` and ``extra_parameters``.
        error: Why the trial failed, or empty.
    """

    trial: Trial
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    error: str = ""


class TrialLog:
    """The results and students of trials on disk.

    Args:
        folder: Folder of the files; created with the first result.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def within(self, name: str) -> TrialLog:
        """Return the log in a subfolder."""
        return TrialLog(self._folder / name)

    @property
    def for_executors(self) -> Path:
        """The folder in which an executor may keep files."""
        return self._folder / "jobs"

    def find(self, trial: Trial, origin: Origin) -> TrialResult | None:
        """Load the result of a finished trial if it is undamaged and has the given origin."""
        path = self._path(trial)
        if not path.is_file():
            return None
        try:
            sidecar = verify(path)
        except ValueError as error:
            log.warning("%s. The trial is run again", error)
            return None
        # Before the file is read: an earlier version of the code may have written it.
        if clauses := sidecar.origin.differences(origin):
            log.info("%s (%s) is run again: %s", trial.title, trial.key, "; ".join(clauses))
            return None
        result = self._read(path)
        if result.error:
            log.info(
                "%s (%s) is run again: it failed with %s", trial.title, trial.key, result.error
            )
            return None
        return result

    def identity(self, trial: Trial) -> str:
        """Return the SHA-256 of the weights of a finished trial."""
        return read_sidecar(self._path(trial)).identity

    def bundle(self, trial: Trial, allowed: Classes) -> ModelBundle:
        """Load the net of a finished trial, which is of this package or one of `allowed`."""
        return load_bundle(self._bundle(trial), allowed)

    def checkpoints(self, trial: Trial, origin: Origin) -> Checkpoints:
        """Return the checkpoints of a trial in progress."""
        return Checkpoints(self._folder / "checkpoints" / trial.key, origin.digest)

    def record(
        self, result: TrialResult, origin: Origin, bundle: ModelBundle | None = None
    ) -> None:
        """Write the net of a trial, its result and, last, the sidecar of both.

        Args:
            result: The result.
            origin: What the result was made from.
            bundle: The net; None if the trial failed.
        """
        path, net = self._path(result.trial), self._bundle(result.trial)
        # Without a sidecar, files of an interrupted write are not mistaken for a finished trial.
        sidecar_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        files, identity = [path], None
        if bundle:
            save_bundle(bundle, net)
            weights = net.with_suffix(".safetensors")
            files, identity = [path, net, weights], sha256_of(weights)
        with replacing(path) as file:
            file.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
        write_sidecar(path, files, origin, identity)
        self.checkpoints(result.trial, origin).clear()

    def _read(self, path: Path) -> TrialResult:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return TrialResult(**{**record, "trial": Trial(**record["trial"])})

    def _path(self, trial: Trial) -> Path:
        return self._folder / f"{trial.key}.result.json"

    def _bundle(self, trial: Trial) -> Path:
        return self._folder / f"{trial.key}.json"
