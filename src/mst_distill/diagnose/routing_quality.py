"""Whether a choice among specialists has merit: who is chosen, and whether they are right.

All is told of plain arrays, so that a hard choice and soft weights are judged alike: ``weights``,
``(n, E)``, is what each specialist weighs for each sample, a row's sum being 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mst_distill.evaluate.bootstrap import Bootstrap

PERMUTATIONS = 200
"""How often the choice is shuffled to see what mutual information chance gives."""


def shares(weights: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """``(classes, E)``: the mean weights by class; not a number where a class has no sample."""
    members = np.arange(classes)[:, None] == labels
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = members @ weights / members.sum(axis=1, keepdims=True)
    return mean


def entropy(probability: np.ndarray) -> float:
    """In bits, of probabilities that sum to 1."""
    known = probability[probability > 0]
    return float(-(known * np.log2(known)).sum()) + 0.0


def mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """I(one; other) in bits, from the counts of two columns of symbols, ``(n,)`` each.

    Cover and Thomas, "Elements of Information Theory", 2006, eq. 2.28. Counts make it too large:
    chance alone gives more than 0, see `information`.
    """
    _, rows = np.unique(one, return_inverse=True)
    _, columns = np.unique(other, return_inverse=True)
    joint = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(joint, (rows, columns), 1 / len(one))
    apart = entropy(joint.sum(axis=1)) + entropy(joint.sum(axis=0))
    return max(apart - entropy(joint.ravel()), 0.0)


def information(
    weights: np.ndarray, correct: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """What the choice, the specialist of the largest weight, tells about who is right.

    Args:
        weights: ``(n, E)``.
        correct: ``(n, E)``, 0 or 1.
        rng: Shuffles.

    Returns:
        ``choice_bits`` (H(choice)), ``bits`` (I(choice; the E-tuple of who is right)), ``share``
        (of the choice's entropy, 0 where it has none), ``bits_by_chance`` (their mean when choices
        are dealt at random), ``p_value`` (how often chance gives as much; Phipson and Smyth, 2010,
        with the 1 added), and ``bits_each``, ``(E,)``: I(choice = e; e is right).
    """
    choice = weights.argmax(axis=1)
    _, who = np.unique(correct > 0, axis=0, return_inverse=True)
    own = entropy(np.bincount(choice) / len(choice))
    bits = mutual_information(choice, who)
    shuffled = [mutual_information(rng.permutation(choice), who) for _ in range(PERMUTATIONS)]
    # Equal ones differ in the last digits with the order in which they were summed.
    as_much = sum(by_chance >= bits - 1e-9 for by_chance in shuffled)
    return {
        "choice_bits": own,
        "bits": bits,
        "share": bits / own if own > 0 else 0.0,
        "bits_by_chance": float(np.mean(shuffled)),
        "p_value": (1 + as_much) / (1 + PERMUTATIONS),
        "bits_each": [
            mutual_information(choice == place, correct[:, place])
            for place in range(weights.shape[1])
        ],
    }


def against_fixed(
    routed: np.ndarray,
    correct: np.ndarray,
    judged: np.ndarray,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Hold the specialists as routed against always taking the one that is right most often.

    That one is found on the same samples, which flatters it a little.

    Args:
        routed: ``(n,)``, right pixels of each sample, of the specialists' probabilities in the
            router's weights; 0 or 1 for one label a sample. A hard choice has those of the chosen.
        correct: ``(n, E)``, the same of every specialist alone.
        judged: ``(n,)``, pixels with a target; 1 for one label a sample.
        bootstrap: Of the interval.

    Returns:
        ``best_fixed`` (its place), ``better`` and ``worse`` (the shares of samples on which the
        specialists as routed have more or less right than it), and ``difference`` (in accuracy,
        with ``low`` and ``high``).
    """
    best = int(correct.sum(axis=0).argmax())
    gain = routed - correct[:, best]
    return {
        "best_fixed": best,
        "better": float((gain > 0).mean()),
        "worse": float((gain < 0).mean()),
        "difference": bootstrap.mean(gain, judged),
    }
