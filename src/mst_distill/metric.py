"""The metric that decides: it selects epochs, gives the verdict and orders methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from mst_distill.errors import add_context
from mst_distill.import_path import resolve_function
from mst_distill.parameters import metric_name

Values = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps the terms of n samples, ``(n, K)``, and weights, ``(R, n)``, to R values of the metric."""


@dataclass(frozen=True)
class Metric:
    """A metric of a model, larger for a better one.

    A metric such as F1 is no mean over samples. It is computed from its *terms*, K numbers for each
    sample, which are collected over all batches and weighted by how often a resample has a sample.

    Attributes:
        name: The name of its column in tables.
        title: Its name in sentences.
        setting: Its value in ``evaluate.metric``.
        percent: Whether it is a share in [0, 1], which is shown in percent.
        dense: Whether it is defined for labels of pixels.
        terms_of: Maps logits, labels and the ignored label to the terms. None for accuracy, which
            is a mean over samples and needs none.
        values: Computes the metric from the terms.
    """

    name: str
    title: str
    setting: str
    percent: bool = True
    dense: bool = True
    terms_of: Callable[[Tensor, Tensor, int | None], Tensor] | None = None
    values: Values | None = None

    @property
    def heading(self) -> str:
        """The heading of a column of values."""
        return f"{self.title}, %" if self.percent else self.title

    @property
    def scale(self) -> int:
        """The factor by which values are multiplied to be shown."""
        return 100 if self.percent else 1

    @property
    def unit(self) -> str:
        """What differences are shown in."""
        return "points" if self.percent else f"difference in {self.title}"

    def spec(self, digits: int = 2) -> str:
        """The format of shown values, with `digits` decimals if they are percentages."""
        return f".{digits if self.percent else 3}f"

    def text(self, value: float) -> str:
        """Write a value, in percent if the metric is a share."""
        return f"{value:.1%}" if self.percent else f"{value:.3f}"

    def amount(self, difference: float, digits: int = 1) -> str:
        """Write the size of a difference, in points if the metric is shown in percent."""
        text = f"{self.scale * difference:{self.spec(digits)}}"
        return f"{text} points" if self.percent else text

    def value(self, terms: np.ndarray) -> float:
        """Compute the metric of samples.

        Args:
            terms: ``(n, K)``, from `terms_of`.

        Raises:
            ValueError: It is not defined, for example since all samples are of one class.
        """
        assert self.values is not None
        value = float(self.values(terms, np.ones((1, len(terms))))[0])
        if not np.isfinite(value):
            raise ValueError(
                f"the metric {self.name!r} is {value} on {len(terms)} samples: it is not defined "
                f"there, as AUROC is not if all are of one class. Choose another evaluate.metric"
            )
        return value

    def value_if_defined(self, terms: np.ndarray) -> float:
        """The same, and NaN where it is not defined."""
        try:
            return self.value(terms)
        except ValueError:
            return float("nan")

    def check(self, classes: int, dense: bool) -> None:
        """Check that the metric is defined for some samples.

        Args:
            classes: Number of classes.
            dense: Whether every pixel has a label.

        Raises:
            ValueError: It is not, or a function of the user fails on two samples of each class
                with random probabilities, or is smaller for right predictions than for wrong ones.
        """
        if dense and not self.dense:
            raise ValueError(
                f"evaluate.metric={self.setting} needs the probabilities of all labels, which are "
                f"too many with a label for each pixel: choose mean_iou, macro_f1, macro_recall, "
                f"nll or accuracy"
            )
        if self.values is None or self.setting in KNOWN:
            return
        labels = np.arange(2 * classes) % classes
        drawn = np.random.default_rng(0).dirichlet(np.ones(classes), 2 * classes)
        self.value(np.column_stack([drawn, labels]))
        likely, other = np.eye(classes)[labels], np.full((1, classes), 1 / classes)
        once = np.ones((1, len(labels)))
        right, wrong = (
            self.values(np.column_stack([(9 * of + other) / 10, labels]), once)[0]
            for of in (likely, np.roll(likely, 1, axis=1))
        )
        if right < wrong:
            raise ValueError(
                f"evaluate.metric={self.setting} is {right:.3g} where all predictions are right "
                f"and {wrong:.3g} where all are wrong, but it must be larger for a better model: "
                f"return its negative"
            )


@dataclass(frozen=True)
class Terms:
    """The terms of some samples, from which their metric is computed.

    Attributes:
        metric: The metric.
        values: ``(n, K)``, float64.
    """

    metric: Metric
    values: Tensor

    @classmethod
    def join(cls, parts: Sequence[Terms]) -> Terms:
        """Join the terms of several batches."""
        return cls(parts[0].metric, torch.cat([part.values for part in parts]))

    def value(self) -> float:
        """The metric of all samples; see `Metric.value`."""
        return self.metric.value(self.values.cpu().numpy())


def metric_of(setting: str) -> Metric:
    """Return the metric that ``evaluate.metric`` names.

    Args:
        setting: One of `parameters.METRICS`, or the import path of a function that maps labels
            ``(n,)`` and probabilities ``(n, C)``, float64, to a number, larger for a better model.

    Raises:
        ValueError: There is no such function.
    """
    if setting in KNOWN:
        return KNOWN[setting]
    title = setting.rpartition(".")[2].replace("_", " ")
    of_user = _repeated(resolve_function(setting), setting)
    return Metric(metric_name(setting), title, setting, False, False, _probabilities, of_user)


def _is_target(label: Tensor, ignored: int | None) -> Tensor:
    return torch.ones_like(label, dtype=torch.bool) if ignored is None else label != ignored


def _class_counts(logits: Tensor, label: Tensor, ignored: int | None) -> Tensor:
    """For each class the numbers of right predictions, predictions and targets, ``(B, 3 C)``."""
    count, classes = logits.shape[:2]
    target = _is_target(label, ignored).reshape(count, -1)
    true = label.reshape(count, -1).where(target, 0)
    predicted = logits.argmax(dim=1).reshape(count, -1)
    counts = []
    for of, counted in ((true, target & (true == predicted)), (predicted, target), (true, target)):
        zeros = torch.zeros(count, classes, dtype=torch.float64, device=logits.device)
        counts.append(zeros.scatter_add(1, of, counted.double()))
    return torch.cat(counts, dim=1)


def _log_likelihood(logits: Tensor, label: Tensor, ignored: int | None) -> Tensor:
    """The sum of the log-probabilities of the labels, and their number, ``(B, 2)``."""
    target = _is_target(label, ignored)
    chosen = (
        logits.double().log_softmax(1).gather(1, label.where(target, 0).unsqueeze(1)).squeeze(1)
    )
    sums = [of.reshape(len(label), -1).sum(1) for of in (chosen * target, target.double())]
    return torch.stack(sums, dim=1)


def _probabilities(logits: Tensor, label: Tensor, ignored: int | None) -> Tensor:
    """The probabilities of all classes and the label, -1 if it is no target, ``(B, C + 1)``."""
    labels = label.where(_is_target(label, ignored), -1).double()
    return torch.cat([logits.double().softmax(1), labels.unsqueeze(1)], dim=1)


def _of_counts(score: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Values:
    """The mean of a score over the classes that are targets.

    Args:
        score: Maps the numbers of right predictions, predictions and targets to the score.
    """

    def values(terms: np.ndarray, weights: np.ndarray) -> np.ndarray:
        right, predicted, true = np.split(weights @ terms, 3, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = np.where(true > 0, score(right, predicted, true), np.nan)
        return _mean_over_classes(scores)

    return values


def _mean_log_likelihood(terms: np.ndarray, weights: np.ndarray) -> np.ndarray:
    sums, counts = (weights @ terms).T
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts)


def _of_ranks(score: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Values:
    """The mean over the classes of a score of the ranks, each class against all others.

    With two classes, the second one is the positive class.

    Args:
        score: Maps the weights of positive and of negative samples, ``(T, R)``, at each of T
            ranks, in ascending order, to ``(R,)``.
    """

    def values(terms: np.ndarray, weights: np.ndarray) -> np.ndarray:
        labels, classes = terms[:, -1], terms.shape[1] - 1
        drawn = np.ascontiguousarray(np.where(labels >= 0, weights, 0.0).T)
        scores = []
        for positive in [1] if classes == 2 else range(classes):
            # Negative samples between two scores of positive ones have the same rank. Few classes
            # have many positive samples, so that few ranks are left.
            of_class, is_positive = terms[:, positive], labels == positive
            thresholds = np.unique(of_class[is_positive])
            rank = np.searchsorted(thresholds, of_class, "left")
            rank = rank + np.searchsorted(thresholds, of_class, "right")
            sums = []
            for chosen in (np.flatnonzero(is_positive), np.flatnonzero(~is_positive)):
                shape = (2 * len(thresholds) + 1, len(labels))
                at_rank = sparse.csr_array((np.ones(len(chosen)), (rank[chosen], chosen)), shape)
                sums.append(at_rank @ drawn)
            with np.errstate(invalid="ignore", divide="ignore"):
                scores.append(score(*sums))
        return _mean_over_classes(np.stack(scores, axis=1))

    return values


def _auroc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """The share of pairs in which the positive sample has the larger score; half of the ties."""
    below = negative.cumsum(axis=0) - negative
    pairs = positive.sum(axis=0) * negative.sum(axis=0)
    return np.asarray((positive * (below + negative / 2)).sum(axis=0) / pairs)


def _average_precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """The precision at each threshold, weighted with the increase of the recall there."""
    found, wrong = (of[::-1].cumsum(axis=0)[::-1] for of in (positive, negative))
    precision = np.where(positive > 0, found / (found + wrong), 0.0)
    return np.asarray((positive * precision).sum(axis=0) / positive.sum(axis=0))


def _mean_over_classes(scores: np.ndarray) -> np.ndarray:
    """The mean over the classes, ``(R, C)`` to ``(R,)``, of those that have a score."""
    known = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, scores, 0.0).sum(axis=1) / known.sum(axis=1))


def _repeated(function: Callable[..., object], path: str) -> Values:
    """A function of labels and probabilities, on samples that are repeated by their weights."""

    def values(terms: np.ndarray, weights: np.ndarray) -> np.ndarray:
        labels, found = terms[:, -1].astype(np.int64), []
        for weight in np.where(labels >= 0, weights, 0).astype(np.int64):
            rows = np.repeat(np.arange(len(labels)), weight)
            try:
                value = function(labels[rows], terms[rows, :-1])
            except Exception as error:
                if not isinstance(error, ValueError) or weight.max() <= 1:
                    where = f"{len(rows)} samples of {len(set(labels[rows]))} classes"
                    add_context(error, f"This happened in evaluate.metric={path}, on {where}.")
                    raise
                value = np.nan  # a resample without a class, on which it is not defined
            if not isinstance(value, (int, float, np.number)):
                raise ValueError(
                    f"{path}, which is evaluate.metric, has returned "
                    f"{type(value).__name__} in place of a number"
                )
            found.append(float(value))
        return np.array(found)

    return values


KNOWN = {
    "accuracy": Metric("accuracy", "accuracy", "accuracy"),
    "macro_f1": Metric(
        "macro_f1",
        "macro F1",
        "macro_f1",
        terms_of=_class_counts,
        values=_of_counts(lambda right, predicted, true: 2 * right / (predicted + true)),
    ),
    "macro_recall": Metric(
        "macro_recall",
        "macro recall",
        "macro_recall",
        terms_of=_class_counts,
        values=_of_counts(lambda right, _, true: right / true),
    ),
    "mean_iou": Metric(
        "mean_iou",
        "mean IoU",
        "mean_iou",
        terms_of=_class_counts,
        values=_of_counts(lambda right, predicted, true: right / (predicted + true - right)),
    ),
    "auroc": Metric(
        "auroc", "AUROC", "auroc", dense=False, terms_of=_probabilities, values=_of_ranks(_auroc)
    ),
    "average_precision": Metric(
        "average_precision",
        "average precision",
        "average_precision",
        dense=False,
        terms_of=_probabilities,
        values=_of_ranks(_average_precision),
    ),
    "nll": Metric(
        "log_likelihood",
        "log-likelihood in nats",
        "nll",
        percent=False,
        terms_of=_log_likelihood,
        values=_mean_log_likelihood,
    ),
}
"""The metrics by the value of ``evaluate.metric``. A class that is never a target is left out of
all means; `auroc` and `average_precision` compare each class with all others. The metric `nll` is
minus the NLL, the log-likelihood."""

ACCURACY = KNOWN["accuracy"]
