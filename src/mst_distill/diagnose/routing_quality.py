"""Quality of the routing: which specialists are selected, and whether they are correct.

All functions take plain arrays, so that top-k selection and soft weights are evaluated the same
way. ``weights``, ``(n, E)``, holds the routing weights of the specialists for each sample; each row
sums to 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mst_distill.evaluate.bootstrap import Bootstrap

PERMUTATIONS = 200
"""Number of shuffles of the choice that estimate its mutual information by chance."""


def shares(weights: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the mean weights by class, ``(classes, E)``; NaN for a class without samples."""
    in_class = np.arange(classes)[:, None] == labels
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = in_class @ weights / in_class.sum(axis=1, keepdims=True)
    return mean


def entropy(probability: np.ndarray) -> float:
    """Return the entropy in bits of probabilities that sum to 1."""
    positive = probability[probability > 0]
    return float(-(positive * np.log2(positive)).sum()) + 0.0


def mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """Return I(one; other) in bits, from the counts of two columns of symbols, ``(n,)`` each.

    Cover and Thomas, "Elements of Information Theory", 2006, eq. 2.28. The estimate from counts is
    biased upwards: chance alone gives more than 0, see `information`.
    """
    _, rows = np.unique(one, return_inverse=True)
    _, columns = np.unique(other, return_inverse=True)
    joint = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(joint, (rows, columns), 1 / len(one))
    marginal = entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0))
    return max(marginal - entropy(joint.ravel()), 0.0)


def information(
    weights: np.ndarray, correct: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the information of the specialist choice about which specialists are correct.

    The choice is the specialist with the largest weight.

    Args:
        weights: ``(n, E)``.
        correct: ``(n, E)``, 0 or 1.
        rng: Generator of the shuffles.

    Returns:
        ``choice_bits`` (H(choice)), ``bits`` (I(choice; correct), where correct is the E-tuple of
        a sample), ``share`` (of the choice's entropy; 0 if that is 0), ``bits_by_chance`` (mean of
        ``bits`` over shuffled choices), ``p_value`` (the share of shuffles with at least as many
        bits, with the 1 added as in Phipson and Smyth, 2010), and ``bits_each``, ``(E,)``:
        I(choice = e; e is correct).
    """
    choice = weights.argmax(axis=1)
    _, pattern = np.unique(correct > 0, axis=0, return_inverse=True)
    choice_bits = entropy(np.bincount(choice) / len(choice))
    bits = mutual_information(choice, pattern)
    shuffled = [mutual_information(rng.permutation(choice), pattern) for _ in range(PERMUTATIONS)]
    # Equal values may differ by rounding, because their terms are summed in different orders.
    at_least_bits = sum(by_chance >= bits - 1e-9 for by_chance in shuffled)
    return {
        "choice_bits": choice_bits,
        "bits": bits,
        "share": bits / choice_bits if choice_bits > 0 else 0.0,
        "bits_by_chance": float(np.mean(shuffled)),
        "p_value": (1 + at_least_bits) / (1 + PERMUTATIONS),
        "bits_each": [
            mutual_information(choice == index, correct[:, index])
            for index in range(weights.shape[1])
        ],
    }


def against_fixed(
    routed: np.ndarray,
    correct: np.ndarray,
    labelled: np.ndarray,
    bootstrap: Bootstrap,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compare the specialists as routed with the single specialist that is correct most often.

    That specialist is selected on the same samples, which is slightly optimistic in its favour.

    Args:
        routed: ``(n,)``, correct pixels of each sample for the mixture of the specialists'
            probabilities with the router's weights; 0 or 1 with one label for each sample. With a
            top k of 1, it is that of the selected specialist.
        correct: ``(n, E)``, the same for every specialist alone.
        labelled: ``(n,)``, labelled pixels of each sample; 0 or 1 with one label for each.
        bootstrap: Settings of the interval.
        groups: ``(n,)``, as in `Bootstrap.means`.

    Returns:
        ``best_fixed`` (its index), ``better`` and ``worse`` (the shares of samples on which more
        or fewer of the routed predictions are correct), and ``difference`` (in accuracy, with
        ``low`` and ``high``).
    """
    best = int(correct.sum(axis=0).argmax())
    gain = routed - correct[:, best]
    return {
        "best_fixed": best,
        "better": float((gain > 0).mean()),
        "worse": float((gain < 0).mean()),
        "difference": bootstrap.mean(gain, labelled, groups),
    }
