"""Teachers that exist already: loaded as frozen nets, and checked before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from mst_distill.artifacts.provenance import sha256_of
from mst_distill.data.samples import Samples, are_unlabelled, rows_of
from mst_distill.given_teacher import SEEN_LABELS, GivenTeacher
from mst_distill.mst.linear_head import fit_linear_head
from mst_distill.mst.networks import (
    build_member,
    check_layers_exist,
    check_net,
    forward,
    modalities_of,
    trial_forward,
)
from mst_distill.mst.pretrained import MORE_CLASSES, has_lazy_weights, load_weights
from mst_distill.mst.teacher_files import SHOWN, counted, recorded_array
from mst_distill.parameters import Masks, Member
from mst_distill.training.batches import Batches
from mst_distill.training.device import autocast
from mst_distill.training.run import GivenNet, Run
from mst_distill.training.seeding import Stream, seeded

SIGNIFICANCE = 0.01
"""A given teacher must agree with the labels more often than by chance, with a p below this."""

FEWEST, MOST = 100, 1000
"""The numbers of labelled samples on which that is tested. With fewer, it is only logged, since a
weak teacher could not be distinguished from one with permuted ids."""

PERMUTATIONS = 999

log = logging.getLogger(__name__)

_ARRAYS: dict[tuple[str, str, str, str], np.ndarray] = {}
"""What was read in this process, by file, kind and samples: each stage opens the run once more."""

_HEADS: dict[tuple[str, str, str, str], nn.Linear] = {}
"""The linear layers that were fitted in this process, by file, samples, splits and weighting."""


def check_given_definitions(given: Mapping[str, GivenTeacher]) -> None:
    """Check what can be known without samples, before hours are spent on these.

    Raises:
        FileNotFoundError, ValueError, TypeError: A file or the class of a net does not exist, a net
            does not take its arguments or its weights, or has no such layer; the message has the
            name of the teacher.
    """
    for name, teacher in given.items():
        which = f"teachers.given.{name}"
        if not teacher.file.is_file():
            raise FileNotFoundError(f"{which}: {teacher.file.absolute()} does not exist")
        if isinstance(teacher.seen_labels, Path):
            with _naming(name):
                _listed_ids(teacher.seen_labels)
        if teacher.net is not None:
            member = Member(type=teacher.net, arguments=teacher.arguments)
            net = build_member(which, member, classes=2, seed=0)
            check_layers_exist(which, net, teacher.masked_layers)
            if not has_lazy_weights(net):
                wider = build_member(which, member, classes=2 + MORE_CLASSES, seed=0)
                load_weights(which, net, teacher.file, wider)


def with_given(run: Run, given: Mapping[str, GivenTeacher]) -> Run:
    """Add given teachers to a run, as frozen nets.

    A file of logits becomes a net that returns what is recorded, and a file of embeddings a linear
    layer on them, see `fit_linear_head`; what is recorded stands in `Samples.recorded`.

    Args:
        run: The run.
        given: Name to the parameters of the teacher.

    Raises:
        FileNotFoundError, ValueError, TypeError: A file does not exist or is invalid, see
            `recorded_array`; a net cannot be built, or its weights do not all fit; the labels are
            dense and a teacher is a file. The message has the name of the teacher.
    """
    if not given:
        return run
    # Sorted, because specialists are numbered in this order, and origins do not have it.
    given = dict(sorted(given.items()))
    recorded, nets = {}, {}
    for name, teacher in given.items():
        with _naming(name):
            if teacher.net is None:
                recorded[name] = _read_recorded(run.samples, teacher)
            else:
                nets[name] = _load_net(run, name, teacher)
    for name, array in recorded.items():
        net: nn.Module = nn.Identity()
        if (file := given[name].embeddings) is not None:
            with _naming(name):
                net = _fitted_head(run, file, array)
        nets[name] = GivenNet(net.eval().requires_grad_(False), name)
    samples = replace(run.samples, recorded=recorded)
    return replace(run, samples=samples, given={name: nets[name] for name in given})


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the name of a teacher in front of the message of an error."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"teachers.given.{name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"teachers.given.{name}: {error}") from error


def check_given(run: Run, given: Mapping[str, GivenTeacher], masks: Masks) -> None:
    """Check that given teachers can teach, before anything is trained.

    Args:
        run: The run, from `with_given`.
        given: Name to the parameters of the teacher.
        masks: Kind and size of the masks.

    Raises:
        FileNotFoundError, ValueError: A teacher has seen the label of a validation or test sample;
            its outputs agree with the labels of this run no more often than by chance; or the
            logits or layers of a net do not fit, see `check_net`. The message has its name.
    """
    for name, teacher in given.items():
        loaded = run.given[name]
        with _naming(name):
            check_seen_labels(run.splits, seen_ids(teacher, run.samples))
        if teacher.net is not None:
            net, layers = run.place(loaded.net), loaded.masked_layers
            check_net(name, net, layers, masks, run.samples, loaded.member)
        with _naming(name):
            # A linear layer was fitted on the training samples, and agrees with any labels there.
            splits = ("valid",) if teacher.embeddings else ("train", "valid")
            _check_agreement(run, name, loaded, splits)


def seen_ids(teacher: GivenTeacher, samples: Samples) -> set[str]:
    """The ids of the samples whose labels a given teacher has seen.

    Raises:
        FileNotFoundError, ValueError: The file that lists them does not exist, has no column
            ``id``, or lists no sample of the store.
    """
    if teacher.seen_labels == "none":
        return set()
    index = samples.index
    if teacher.seen_labels == "train":
        return set(index.loc[index["split"] == "train", "id"].astype(str))
    listed = _listed_ids(Path(teacher.seen_labels))
    foreign = sorted(listed - set(index["id"].astype(str)))
    if len(foreign) == len(listed):
        raise ValueError(f"{teacher.seen_labels}: {counted(foreign, 'of no sample')}, and no other")
    if foreign:
        log.info("%s: %s", teacher.seen_labels, counted(foreign, "of no sample of this run"))
    return listed


def _listed_ids(path: Path) -> set[str]:
    """Read the ids in a CSV file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"seen_labels is {str(path)!r}, and {path.absolute()} does not exist: {SEEN_LABELS}"
        )
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except Exception as error:  # pandas raises errors of many types
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error
    if "id" not in table or not len(table):
        raise ValueError(f"{path} has no column 'id' with ids, only {', '.join(map(repr, table))}")
    return set(table["id"])


def check_seen_labels(splits: pd.DataFrame, seen: set[str]) -> None:
    """Check that no label of a validation or test sample was seen.

    Args:
        splits: The splits of a run.
        seen: From `seen_ids`.

    Raises:
        ValueError: One was seen; the message has their number and the first ids.
    """
    outside = splits[splits["split"] != "train"]
    found = outside.loc[outside["id"].astype(str).isin(seen), "id"].astype(str).tolist()
    if found:
        raise ValueError(
            f"it has seen labels of validation and test samples of this run, "
            f"{counted(found, 'in all')}: what it teaches would spoil every result on them. Choose "
            f"a teacher that has not, or splits in which they are training samples"
        )


def labels_seen(
    samples: Samples, splits: pd.DataFrame, given: Mapping[str, GivenTeacher]
) -> list[str]:
    """A sentence for each given teacher that has seen training labels which the run hides."""
    hidden = are_unlabelled(samples, splits) & (splits["split"] == "train").to_numpy()
    ids = {str(each) for each in splits["id"].to_numpy()[hidden]}
    sentences = []
    for name, teacher in given.items():
        if ids and (count := len(ids & seen_ids(teacher, samples))):
            sentences.append(
                f"The given teacher {name!r} has seen {count} training labels that neither the "
                f"student nor the baseline has."
            )
    return sentences


def _load_net(run: Run, name: str, teacher: GivenTeacher) -> GivenNet:
    """Build a given net and load all of its weights."""
    assert teacher.net is not None
    assert teacher.modality is not None
    assert teacher.weights is not None
    _ = run.device  # prepares the process, before the first computation starts threads
    member = Member(type=teacher.net, arguments=teacher.arguments)
    classes = len(run.samples.classes)
    net = build_member(name, member, classes, run.seed)
    wider = build_member(name, member, classes + MORE_CLASSES, run.seed)
    if has_lazy_weights(net):
        with seeded(run.seed, Stream.LAZY_LAYERS):
            for each in (net, wider):
                trial_forward(name, each, run.samples, teacher.modality)
    if lacking := load_weights(name, net, teacher.weights, wider):
        raise ValueError(
            f"{teacher.weights} has no weights that fit for {', '.join(lacking[:SHOWN])}; a "
            f"teacher that is not trained needs all of its weights, and logits for the "
            f"{classes} classes of the benchmark"
        )
    return GivenNet(net.eval().requires_grad_(False), teacher.modality, teacher.masked_layers)


def _read_recorded(samples: Samples, teacher: GivenTeacher) -> np.ndarray:
    """Read the file of a teacher, once in a process."""
    if samples.dense:
        raise ValueError(
            f"{teacher.file} has one row for each sample, and the labels of this benchmark are "
            f"dense: give the net instead"
        )
    if not teacher.file.is_file():  # before its SHA-256 is computed
        raise FileNotFoundError(f"{teacher.file.absolute()} does not exist")
    key = (sha256_of(teacher.file), teacher.kind, samples.digest, str(len(samples)))
    if key not in _ARRAYS:
        ids = samples.index["id"].tolist()
        _ARRAYS[key] = recorded_array(teacher.file, teacher.kind, samples.classes, ids)
    return _ARRAYS[key]


def _fitted_head(run: Run, file: Path, embeddings: np.ndarray) -> nn.Linear:
    """Fit a linear layer on the labelled training samples of a run, once in a process."""
    weighting = run.recipe.class_weights
    splits = pd.util.hash_pandas_object(run.splits, index=False).to_numpy().tobytes().hex()
    key = (sha256_of(file), run.samples.digest, splits, weighting)
    if key not in _HEADS:
        train, valid = (_labelled_rows(run, split) for split in ("train", "valid"))
        labels = run.samples.labels
        _HEADS[key] = fit_linear_head(
            (embeddings[train], labels[train]),
            (embeddings[valid], labels[valid]),
            len(run.samples.classes),
            balanced=weighting == "balanced",
        )
    return _HEADS[key]


def _labelled_rows(run: Run, split: str) -> np.ndarray:
    rows = rows_of(run.splits, split)
    return rows if run.unlabelled is None else rows[~run.unlabelled[rows]]


@torch.no_grad()
def _check_agreement(run: Run, name: str, loaded: GivenNet, splits: Sequence[str]) -> None:
    """Reject a teacher whose predictions do not depend on the labels, such as one of other ids.

    A permutation test: on how many samples its predictions and the labels agree, and on how many
    they agree after the labels are permuted.
    """
    if run.samples.dense:
        return
    reads = modalities_of(loaded.member, run.modalities)
    rows = np.concatenate([_labelled_rows(run, split) for split in splits])
    rows = rows[run.samples.have(reads)[rows]]
    rng = np.random.default_rng(run.seed)
    rows = np.sort(rng.permutation(rows)[:MOST])
    net = run.place(loaded.net)
    predicted = [np.empty(0, dtype=np.int64)]
    for batch in Batches(run.samples, rows, reads, 64, run.runtime, run.device):
        with autocast(run.device, run.runtime):
            logits = forward(net, loaded.member, batch.inputs)
        if not logits.isfinite().all():
            raise ValueError("it has logits that are not finite")
        predicted.append(logits.argmax(dim=1).cpu().numpy())
    of_teacher, labels = np.concatenate(predicted), run.samples.labels[rows]
    agreed = int((of_teacher == labels).sum())
    permuted = [int((of_teacher == rng.permutation(labels)).sum()) for _ in range(PERMUTATIONS)]
    p = (1 + sum(count >= agreed for count in permuted)) / (1 + PERMUTATIONS)
    result = (
        f"it predicts the label of {agreed} of {len(rows)} labelled samples, and "
        f"{np.mean(permuted):.0f} would be right by chance"
    )
    if p >= SIGNIFICANCE and len(rows) >= FEWEST:
        raise ValueError(
            f"{result}: its ids or classes are mixed up, or it cannot tell these classes apart"
        )
    log.info("given teacher %r: %s", name, result)
