"""Knowledge drift: how similar student and sources are in saliency, features and logits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.artifacts.progress import progress
from mst_distill.diagnose.knowledge_sources import Source
from mst_distill.diagnose.saliency import attribute, saliency
from mst_distill.diagnose.similarity import cka_by_chance, intersection, linear_cka
from mst_distill.evaluate.predictions import teacher_title
from mst_distill.mst.features import FeatureExtractor, pooled
from mst_distill.mst.losses import at_least_float32, is_target
from mst_distill.mst.networks import modalities_of
from mst_distill.training.batches import Batch, Batches, Inputs
from mst_distill.training.run import Run
from mst_distill.training.seeding import Stream, derive_seed

STUDENT = "student"


@dataclass(frozen=True)
class AttributedModels:
    """The student and its knowledge sources.

    Attributes:
        student: The student's net, which sees the run's target.
        teachers: Teacher name to its net.
        sources: Teachers and specialists.
    """

    student: nn.Module
    teachers: dict[str, nn.Module]
    sources: Sequence[Source]

    def sources_with(self, modality: str) -> list[Source]:
        """Return the sources that see a modality."""
        return [source for source in self.sources if modality in source.modalities]


@dataclass(frozen=True)
class SaliencyMaps:
    """Saliency on the target, of the student and every source that sees the target.

    Attributes:
        rows: ``(n,)`` store rows of the samples.
        by_model: ``student`` or a source's title to ``(n, *positions)``, shares that sum to 1.
    """

    rows: np.ndarray
    by_model: dict[str, np.ndarray]


@dataclass(frozen=True)
class DriftExample:
    """The saliency maps of one sample.

    Attributes:
        name: Title of the sample.
        value: The sample in the target modality.
        maps: ``student`` or a source's title to ``(*positions)``, shares that sum to 1.
        overlaps: A source's title to its overlap with the student.
    """

    name: str
    value: np.ndarray
    maps: dict[str, np.ndarray]
    overlaps: dict[str, float]


def choose_rows(run: Run, count: int) -> np.ndarray:
    """Draw at most `count` held-out samples by the seed and return their store rows, ascending.

    The samples have all modalities.
    """
    rows = run.rows("test", run.modalities)
    if len(rows) <= count:
        return rows
    rng = np.random.default_rng(derive_seed(run.seed, Stream.DIAGNOSED_SAMPLES))
    return np.sort(rng.choice(rows, count, replace=False))


def saliency_maps(
    run: Run, models: AttributedModels, rows: np.ndarray, batch_size: int
) -> SaliencyMaps:
    """Compute the saliency maps of some samples.

    Args:
        run: The run.
        models: The student and the sources.
        rows: ``(n,)`` store rows.
        batch_size: Samples at a time.
    """
    maps: dict[str, list[np.ndarray]] = defaultdict(list)
    for batch in progress(_batches(run, rows, batch_size), "saliency maps", "batch"):
        for title, shares in _maps_of_batch(run, models, batch):
            maps[title].append(shares)
    return SaliencyMaps(rows, {title: np.concatenate(of) for title, of in maps.items()})


def drift_table(run: Run, maps: SaliencyMaps) -> pd.DataFrame:
    """Compute the overlap of the student's saliency with that of each source, sample by sample.

    Returns:
        One row for each sample and source that sees the target: ``id``, ``label``, ``source``,
        ``overlap`` (see `intersection`; the drift is 1 minus it) and ``by_chance`` (the overlap
        with the student's map of another sample).
    """
    index = run.samples.index.iloc[maps.rows]
    of_student = maps.by_model[STUDENT]
    order = np.random.default_rng(derive_seed(run.seed, Stream.SALIENCY_BY_CHANCE)).permutation(
        len(of_student)
    )
    # Each sample is assigned its predecessor in a random cycle, and so never itself.
    other_sample = np.empty_like(order)
    other_sample[order] = np.roll(order, 1)
    tables = [
        pd.DataFrame(
            {
                "id": index["id"].to_numpy(),
                "label": index["label"].to_numpy(),
                "source": title,
                "overlap": intersection(of_student, of_source),
                "by_chance": intersection(of_student[other_sample], of_source),
            }
        )
        for title, of_source in maps.by_model.items()
        if title != STUDENT
    ]
    return pd.concat(tables, ignore_index=True)


def most_drifted(run: Run, drift: pd.DataFrame, count: int) -> np.ndarray:
    """Return the store rows of the samples with the smallest overlap without a mask, in order.

    Args:
        run: The run.
        drift: From `drift_table`; its first source is the multimodal teacher.
        count: Largest number of samples.
    """
    without_mask = drift[drift["source"] == drift["source"].iloc[0]]
    ids = without_mask.nsmallest(count, "overlap")["id"]
    rows = pd.Series(np.arange(len(run.samples)), index=run.samples.index["id"])
    return rows.loc[ids].to_numpy(copy=True)


def drift_examples(run: Run, maps: SaliencyMaps) -> list[DriftExample]:
    """Return the saliency maps and overlaps sample by sample."""
    samples = run.samples
    of_student = maps.by_model[STUDENT]
    overlaps = {
        title: intersection(of_student, of_source)
        for title, of_source in maps.by_model.items()
        if title != STUDENT
    }
    names = [
        row["id"] if samples.dense else f"{samples.classes[row['label']]}\n{row['id']}"
        for row in samples.index.iloc[maps.rows].to_dict(orient="records")
    ]
    return [
        DriftExample(
            name,
            samples.modalities[run.target][row],
            {title: of_model[position] for title, of_model in maps.by_model.items()},
            {title: float(overlap[position]) for title, overlap in overlaps.items()},
        )
        for position, (name, row) in enumerate(zip(names, maps.rows, strict=True))
    ]


@torch.no_grad()
def similarity_table(
    run: Run, models: AttributedModels, rows: np.ndarray, batch_size: int
) -> pd.DataFrame:
    """Compute the linear CKA of the student's features and logits with those of the sources.

    Features are the inputs of a net's last layer. Spatial dimensions are averaged.

    Returns:
        One row for each source and ``of`` (``features``, only for teachers, or ``logits``):
        ``source``, ``of``, ``cka`` and ``by_chance``.
    """
    batches: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    nets = {
        teacher_title(name): (run.member_of(name), net)
        for name, net in models.teachers.items()
        # What is recorded of a given teacher has no features.
        if name not in run.samples.recorded
    }
    nets[STUDENT] = (run.target, models.student)
    extractors = {
        title: FeatureExtractor(name, net, (), run.samples) for title, (name, net) in nets.items()
    }
    for batch in progress(_batches(run, rows, batch_size), "features and logits", "batch"):
        for title, extractor in extractors.items():
            output = extractor(_only(batch.inputs, modalities_of(extractor.name, run.modalities)))
            batches[title, "features"].append(_pooled_array(output.embedding))
            batches[title, "logits"].append(_pooled_array(output.logits))
        for source in models.sources:
            if source.title not in extractors:
                logits = source.logits(_only(batch.inputs, source.modalities))
                batches[source.title, "logits"].append(_pooled_array(logits))
    arrays = {key: np.concatenate(chunks) for key, chunks in batches.items()}
    rng = np.random.default_rng(derive_seed(run.seed, Stream.CKA_BY_CHANCE))
    table = [
        {
            "source": title,
            "of": of,
            "cka": linear_cka(arrays[STUDENT, of], array),
            "by_chance": cka_by_chance(arrays[STUDENT, of], array, rng),
        }
        for (title, of), array in arrays.items()
        if title != STUDENT
    ]
    return pd.DataFrame(table)


def _maps_of_batch(
    run: Run, models: AttributedModels, batch: Batch
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the title and the saliency map on the target, of the student and of each source."""
    target, ignored = run.target, run.samples.ignored_label
    labelled = None
    if run.samples.dense:
        labelled = is_target(batch.label, ignored)
    of_student = attribute(
        lambda inputs: models.student(inputs[target]), _only(batch.inputs, [target]), labelled
    )
    yield STUDENT, saliency(of_student[target])
    for source in models.sources_with(target):
        of_source = attribute(source.logits, _only(batch.inputs, source.modalities), labelled)
        yield source.title, saliency(of_source[target])


def _batches(run: Run, rows: np.ndarray, batch_size: int) -> Batches:
    return Batches(run.samples, rows, run.inputs, batch_size, run.runtime, run.device)


def _only(inputs: Inputs, modalities: Iterable[str]) -> Inputs:
    return {name: inputs[name] for name in modalities}


def _pooled_array(tensor: Tensor) -> np.ndarray:
    """Average ``(B, D, ...)`` over the spatial dimensions to ``(B, D)``."""
    array: np.ndarray = pooled(at_least_float32(tensor)).cpu().numpy()
    return array
