"""Knowledge drift: whether student and teachers look at the same places, and say things alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.artifacts.progress import progress
from mst_distill.data.samples import rows_of
from mst_distill.diagnose.knowledge_sources import Source
from mst_distill.diagnose.saliency import attribute, gaze
from mst_distill.diagnose.similarity import cka_by_chance, intersection, linear_cka
from mst_distill.evaluate.predictions import teacher_title
from mst_distill.mst.features import Observer, pooled
from mst_distill.mst.losses import at_least_float32
from mst_distill.mst.networks import modalities_of
from mst_distill.training.batches import Batch, Batches, Inputs
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed

STUDENT = "student"


@dataclass(frozen=True)
class Viewers:
    """The student and whoever could teach it.

    Attributes:
        student: Its net, which sees the run's target.
        teachers: Teacher name to its net.
        sources: Teachers and specialists.
    """

    student: nn.Module
    teachers: dict[str, nn.Module]
    sources: Sequence[Source]

    def seeing(self, modality: str) -> list[Source]:
        """Those that see a modality."""
        return [source for source in self.sources if modality in source.modalities]


@dataclass(frozen=True)
class Views:
    """Where the student and every source that sees the target look on it.

    Attributes:
        rows: ``(n,)`` store rows of the samples.
        gazes: ``student`` or a source's title to ``(n, *places)``, shares that sum to 1.
    """

    rows: np.ndarray
    gazes: dict[str, np.ndarray]


@dataclass(frozen=True)
class DriftView:
    """Who looks where on one sample.

    Attributes:
        name: Of the sample.
        value: The sample in the modality that is looked at.
        gazes: Name of who looks to ``(*places)``, shares that sum to 1.
        overlaps: Name to its overlap with the student's.
    """

    name: str
    value: np.ndarray
    gazes: dict[str, np.ndarray]
    overlaps: dict[str, float]


def choose_rows(run: Run, count: int) -> np.ndarray:
    """Store rows of at most `count` held-out samples, drawn by the seed, ascending."""
    rows = rows_of(run.splits, "test")
    if len(rows) <= count:
        return rows
    rng = np.random.default_rng(derive_seed(run.seed, "diagnose"))
    return np.sort(rng.choice(rows, count, replace=False))


def look(run: Run, viewers: Viewers, rows: np.ndarray, batch_size: int) -> Views:
    """Ask where they look on some samples.

    Args:
        run: The run.
        viewers: Who looks.
        rows: ``(n,)`` store rows.
        batch_size: Samples at a time.
    """
    gazes: dict[str, list[np.ndarray]] = defaultdict(list)
    for batch in progress(_batches(run, rows, batch_size), "where they look", "batch"):
        for title, seen in _view(run, viewers, batch):
            gazes[title].append(seen)
    return Views(rows, {title: np.concatenate(of) for title, of in gazes.items()})


def drift_table(run: Run, views: Views) -> pd.DataFrame:
    """How far the student's gaze and each source's overlap, sample by sample.

    Returns:
        A row a sample and source that sees the target: ``id``, ``label``, ``source``, ``overlap``
        (see `intersection`; 1 minus it is the drift) and ``by_chance`` (with the student's gaze on
        another sample).
    """
    index = run.samples.index.iloc[views.rows]
    own = views.gazes[STUDENT]
    order = np.random.default_rng(derive_seed(run.seed, "gaze by chance")).permutation(len(own))
    another = np.empty_like(order)
    another[order] = np.roll(order, 1)
    parts = [
        pd.DataFrame(
            {
                "id": index["id"].to_numpy(),
                "label": index["label"].to_numpy(),
                "source": title,
                "overlap": intersection(own, seen),
                "by_chance": intersection(own[another], seen),
            }
        )
        for title, seen in views.gazes.items()
        if title != STUDENT
    ]
    return pd.concat(parts, ignore_index=True)


def most_drifted(run: Run, drift: pd.DataFrame, count: int) -> np.ndarray:
    """Store rows of the samples with the least overlap before any mask, the least first.

    Args:
        run: The run.
        drift: From `drift_table`; its first source is the multimodal teacher.
        count: How many, at most.
    """
    before = drift[drift["source"] == drift["source"].iloc[0]]
    ids = before.nsmallest(count, "overlap")["id"]
    rows = pd.Series(np.arange(len(run.samples)), index=run.samples.index["id"])
    return rows.loc[ids].to_numpy(copy=True)


def drift_views(run: Run, views: Views) -> list[DriftView]:
    """The views sample by sample."""
    samples = run.samples
    own = views.gazes[STUDENT]
    overlaps = {
        title: intersection(own, seen) for title, seen in views.gazes.items() if title != STUDENT
    }
    names = [
        row["id"] if samples.dense else f"{samples.classes[row['label']]}\n{row['id']}"
        for row in samples.index.iloc[views.rows].to_dict(orient="records")
    ]
    return [
        DriftView(
            name,
            samples.modalities[run.target][row],
            {title: seen[place] for title, seen in views.gazes.items()},
            {title: float(of[place]) for title, of in overlaps.items()},
        )
        for place, (name, row) in enumerate(zip(names, views.rows, strict=True))
    ]


@torch.no_grad()
def similarity_table(run: Run, viewers: Viewers, rows: np.ndarray, batch_size: int) -> pd.DataFrame:
    """Linear CKA of the student's features and logits with the sources'.

    Features are what a net's last layer makes the logits of; whatever has places is averaged over
    them.

    Returns:
        A row a source and ``of`` (``features``, of teachers alone, and ``logits``): ``source``,
        ``of``, ``cka`` and ``by_chance``.
    """
    said: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    nets = {teacher_title(name): (name, net) for name, net in viewers.teachers.items()}
    nets[STUDENT] = (run.target, viewers.student)
    observers = {title: Observer(name, net, (), run.samples) for title, (name, net) in nets.items()}
    for batch in progress(_batches(run, rows, batch_size), "what they say", "batch"):
        for title, observer in observers.items():
            observed = observer(_only(batch.inputs, modalities_of(observer.name, run.modalities)))
            said[title, "features"].append(_flat(observed.embedding))
            said[title, "logits"].append(_flat(observed.logits))
        for source in viewers.sources:
            if source.masked:
                logits = source.say(_only(batch.inputs, source.modalities))
                said[source.title, "logits"].append(_flat(logits))
    whole = {key: np.concatenate(parts) for key, parts in said.items()}
    rng = np.random.default_rng(derive_seed(run.seed, "cka by chance"))
    table = [
        {
            "source": title,
            "of": of,
            "cka": linear_cka(whole[STUDENT, of], features),
            "by_chance": cka_by_chance(whole[STUDENT, of], features, rng),
        }
        for (title, of), features in whole.items()
        if title != STUDENT
    ]
    return pd.DataFrame(table)


def _view(run: Run, viewers: Viewers, batch: Batch) -> Iterator[tuple[str, np.ndarray]]:
    """Who looks, and where on the target."""
    target, ignored = run.target, run.samples.ignored_label
    judged = None
    if run.samples.dense:
        judged = torch.ones_like(batch.label) if ignored is None else batch.label != ignored
    own = attribute(
        lambda inputs: viewers.student(inputs[target]), _only(batch.inputs, [target]), judged
    )
    yield STUDENT, gaze(own[target])
    for source in viewers.seeing(target):
        seen = attribute(source.say, _only(batch.inputs, source.modalities), judged)
        yield source.title, gaze(seen[target])


def _batches(run: Run, rows: np.ndarray, batch_size: int) -> Batches:
    return Batches(run.samples, rows, run.modalities, batch_size, run.runtime, run.device)


def _only(inputs: Inputs, modalities: Iterable[str]) -> Inputs:
    return {name: inputs[name] for name in modalities}


def _flat(tensor: Tensor) -> np.ndarray:
    """``(B, D, ...)`` to ``(B, D)``, means over places."""
    flat: np.ndarray = pooled(at_least_float32(tensor)).cpu().numpy()
    return flat
