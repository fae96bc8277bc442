"""Teachers that exist already: loaded as frozen nets, and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from mst_distill.artifacts.provenance import sha256_of
from mst_distill.data.samples import SPLITS, Samples, rows_of
from mst_distill.given_teacher import GivenTeacher
from mst_distill.mst.linear_head import fit_linear_head
from mst_distill.mst.networks import (
    build_member,
    check_net,
    forward,
    member_class,
    modalities_of,
    trial_forward,
)
from mst_distill.mst.pretrained import MORE_CLASSES, has_lazy_weights, load_weights
from mst_distill.mst.teacher_files import SHOWN, recorded_array
from mst_distill.parameters import Masks, Member
from mst_distill.training.batches import Batches
from mst_distill.training.device import autocast
from mst_distill.training.run import GivenNet, Run

SIGNIFICANCE = 0.01
"""A given teacher must agree with the labels more often than by chance, with a p below this."""

TRIED = 1000
"""The largest number of labelled samples on which that is tested."""

_ARRAYS: dict[tuple[str, str, str, str], np.ndarray] = {}
"""What was read in this process, by file, kind and samples: each stage opens the run once more."""

_HEADS: dict[tuple[str, str, str, str], nn.Linear] = {}
"""The linear layers that were fitted in this process, by file, samples, splits and weighting."""


def check_given_definitions(given: Mapping[str, GivenTeacher]) -> None:
    """Check what can be known without samples, before hours are spent on these.

    Raises:
        FileNotFoundError, ValueError, TypeError: A file does not exist, or the class of a net does
            not; the message has the name of the teacher.
    """
    for name, teacher in given.items():
        files = [teacher.file]
        if isinstance(teacher.seen_labels, Path):
            files.append(teacher.seen_labels)
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"teachers.given.{name}: {file.absolute()} does not exist")
        if teacher.net is not None:
            member_class(f"teachers.given.{name}", Member(type=teacher.net))


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
    recorded, nets = {}, {}
    for name, teacher in given.items():
        try:
            if teacher.net is not None:
                nets[name] = _load_net(run, name, teacher)
            else:
                recorded[name] = _read_recorded(run.samples, teacher)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"teachers.given.{name}: {error}") from error
    samples = replace(run.samples, recorded=recorded)
    for name, array in recorded.items():
        of_file = given[name]
        net: nn.Module = nn.Identity()
        if of_file.embeddings is not None:
            net = _fitted_head(run, of_file.embeddings, array)
        nets[name] = GivenNet(net.eval().requires_grad_(False), name)
    return replace(run, samples=samples, given={name: nets[name] for name in given})


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
        which = f"teachers.given.{name}"
        loaded = run.given[name]
        try:
            check_seen_labels(run.splits, seen_ids(teacher, run.samples))
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"{which}: {error}") from error
        if teacher.net is not None:
            net, layers = run.place(loaded.net), loaded.masked_layers
            check_net(name, net, layers, masks, run.samples, loaded.member)
        _check_agreement(run, name, loaded)


def seen_ids(teacher: GivenTeacher, samples: Samples) -> set[str]:
    """The ids of the samples whose labels a given teacher has seen.

    Raises:
        FileNotFoundError, ValueError: The file that lists them does not exist, or has no column
            ``id``.
    """
    if teacher.seen_labels == "none":
        return set()
    index = samples.index
    if teacher.seen_labels == "train":
        return set(index.loc[index["split"] == "train", "id"].astype(str))
    path = Path(teacher.seen_labels)
    if not path.is_file():
        raise FileNotFoundError(
            f"seen_labels is {str(path)!r}; it must be none, train, or a CSV file whose column id "
            f"lists samples, and {path.absolute()} does not exist"
        )
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "id" not in table:
        raise ValueError(f"{path} has no column 'id', only {', '.join(map(repr, table))}")
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
        more = ", ..." if len(found) > SHOWN else ""
        raise ValueError(
            f"it has seen the labels of {len(found)} validation and test samples of this run "
            f"({', '.join(map(repr, found[:SHOWN]))}{more}): what it teaches would spoil every "
            f"result on them. Choose a teacher that has not, or splits in which they are "
            f"training samples"
        )


def labels_seen(run: Run, given: Mapping[str, GivenTeacher]) -> list[str]:
    """A sentence for each given teacher that has seen training labels which the run hides."""
    train = rows_of(run.splits, "train")
    hidden = np.zeros(0, dtype=bool) if run.unlabelled is None else run.unlabelled[train]
    ids = run.splits["id"].to_numpy()[train][hidden] if hidden.any() else ()
    sentences = []
    for name, teacher in given.items():
        seen = seen_ids(teacher, run.samples)
        if count := sum(str(each) in seen for each in ids):
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
    if not teacher.file.is_file():
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
def _check_agreement(run: Run, name: str, loaded: GivenNet) -> None:
    """Reject a teacher whose predictions do not depend on the labels, such as one of other ids.

    The number of samples on which both agree is compared with that of two independent draws with
    the same frequencies, by a one-sided binomial test.
    """
    from scipy.stats import binomtest

    if run.samples.dense:
        return
    reads = modalities_of(loaded.member, run.modalities)
    rows = np.concatenate([_labelled_rows(run, split) for split in SPLITS[:2]])
    rows = rows[run.samples.have(reads)[rows]][:TRIED]
    net = run.place(loaded.net)
    predicted = []
    for batch in Batches(run.samples, rows, reads, 64, run.runtime, run.device):
        with autocast(run.device, run.runtime):
            logits = forward(net, loaded.member, batch.inputs)
        if not logits.isfinite().all():
            raise ValueError(f"teachers.given.{name}: it has logits that are not finite")
        predicted.append(logits.argmax(dim=1).cpu())
    classes = np.arange(len(run.samples.classes))
    of_teacher, labels = torch.cat(predicted).numpy(), run.samples.labels[rows]
    by_chance = sum(np.mean(of_teacher == of) * np.mean(labels == of) for of in classes)
    agreed = int((of_teacher == labels).sum())
    test = binomtest(agreed, len(rows), float(by_chance), alternative="greater")
    if test.pvalue >= SIGNIFICANCE:
        raise ValueError(
            f"teachers.given.{name}: it predicts the label of {agreed} of {len(rows)} labelled "
            f"samples, and {by_chance * len(rows):.0f} would be right by chance: its ids or "
            f"classes are mixed up, or it cannot tell these classes apart"
        )
