"""The log of a comparison: a JSON a trial, written when the trial is over, beside its student."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mst_distill.atomic import replacing
from mst_distill.bundle import ModelBundle, load_bundle, save_bundle
from mst_distill.checkpoint import Checkpoints


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
        fingerprint: Of the data and all parameters that it depends on.
        figures: Rule of selection to the student's figures on the held-out split; empty if it died.
        cost: ``student_epochs``, ``seconds``, ``peak_bytes``, ``extra_parameters``.
        error: Why it died, or empty.
    """

    trial: Trial
    fingerprint: str
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

    def find(self, trial: Trial, fingerprint: str) -> Outcome | None:
        """The outcome of a trial that was finished on the same terms, if there is one."""
        outcome = self._read(trial)
        fits = outcome and outcome.fingerprint == fingerprint and not outcome.error
        return outcome if fits else None

    def bundle(self, trial: Trial) -> ModelBundle:
        """The net that a finished trial left behind."""
        return load_bundle(self._bundle(trial))

    def checkpoints(self, trial: Trial, fingerprint: str) -> Checkpoints:
        """Where a trial keeps its state until it is noted."""
        return Checkpoints(self._folder / "checkpoints" / trial.key, fingerprint)

    def note(self, outcome: Outcome, bundle: ModelBundle | None = None) -> None:
        """Write what came of a trial: the net first, then the outcome that vouches for it."""
        path = self._path(outcome.trial)
        path.unlink(missing_ok=True)
        if bundle:
            save_bundle(bundle, self._bundle(outcome.trial))
        with replacing(path) as file:
            file.write_text(json.dumps(asdict(outcome), indent=2) + "\n")
        self.checkpoints(outcome.trial, outcome.fingerprint).clear()

    def _read(self, trial: Trial) -> Outcome | None:
        try:
            card: dict[str, Any] = json.loads(self._path(trial).read_text())
        except FileNotFoundError:
            return None
        return Outcome(**{**card, "trial": Trial(**card["trial"])})

    def _path(self, trial: Trial) -> Path:
        return self._folder / f"{trial.key}.outcome.json"

    def _bundle(self, trial: Trial) -> Path:
        return self._folder / f"{trial.key}.json"
