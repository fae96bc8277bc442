"""The log of a comparison: a JSON a trial, written when the trial is over, beside its student."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mst_distill.artifacts.atomic import replacing
from mst_distill.artifacts.bundle import ModelBundle, load_bundle, save_bundle
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
    """One training to be compared with others.

    Attributes:
        method: Its name in the parameters.
        teacher: ``multimodal``, a modality, or empty where nobody or everybody teaches.
        target: The student's modality.
        seed: Of the run.
    """

    method: str
    teacher: str
    target: str
    seed: int

    @property
    def title(self) -> str:
        """For reports: the method, and from whom."""
        return f"{self.method} <- {self.teacher}" if self.teacher else self.method

    @property
    def key(self) -> str:
        """Part of a path."""
        name = f"{self.method}-{self.teacher}" if self.teacher else self.method
        return f"{self.target}/seed-{self.seed}/{name}"


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Attributes:
        trial: The trial.
        figures: Rule of selection to the student's figures on the held-out split; empty if it died.
        cost: ``student_epochs``, ``seconds``, ``peak_bytes``, ``extra_parameters``.
        error: Why it died, or empty.
    """

    trial: Trial
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    error: str = ""


class TrialLog:
    """Trials on disk.

    Args:
        folder: Where; made when the first trial is noted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, trial: Trial, origin: Origin) -> Outcome | None:
        """The outcome of a trial that was finished, if it would be made so now and is undamaged."""
        path = self._path(trial)
        if not path.is_file():
            return None
        try:
            sidecar = verify(path)
        except ValueError as error:
            log.warning("%s. The trial is run again", error)
            return None
        outcome = self._read(path)
        fits = not outcome.error and not sidecar.origin.differences(origin)
        return outcome if fits else None

    def identity(self, trial: Trial) -> str:
        """The SHA-256 of the weights that a finished trial left behind."""
        return read_sidecar(self._path(trial)).identity

    def bundle(self, trial: Trial) -> ModelBundle:
        """The net that a finished trial left behind."""
        return load_bundle(self._bundle(trial))

    def checkpoints(self, trial: Trial, origin: Origin) -> Checkpoints:
        """Where a trial keeps its state until it is noted."""
        return Checkpoints(self._folder / "checkpoints" / trial.key, origin.digest)

    def note(self, outcome: Outcome, origin: Origin, bundle: ModelBundle | None = None) -> None:
        """Write what came of a trial: the net, the outcome, and last the sidecar of both.

        Args:
            outcome: What came of it.
            origin: What it was made from.
            bundle: The net; none if the trial died.
        """
        path, net = self._path(outcome.trial), self._bundle(outcome.trial)
        sidecar_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        files, identity = [path], None
        if bundle:
            save_bundle(bundle, net)
            weights = net.with_suffix(".safetensors")
            files, identity = [path, net, weights], sha256_of(weights)
        with replacing(path) as file:
            file.write_text(json.dumps(asdict(outcome), indent=2) + "\n")
        write_sidecar(path, files, origin, identity)
        self.checkpoints(outcome.trial, origin).clear()

    def _read(self, path: Path) -> Outcome:
        card: dict[str, Any] = json.loads(path.read_text())
        return Outcome(**{**card, "trial": Trial(**card["trial"])})

    def _path(self, trial: Trial) -> Path:
        return self._folder / f"{trial.key}.outcome.json"

    def _bundle(self, trial: Trial) -> Path:
        return self._folder / f"{trial.key}.json"
