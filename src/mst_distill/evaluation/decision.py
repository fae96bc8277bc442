"""Which recipe may become the default: differences in every cell, and over all of them.

A cell is a benchmark and a target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.evaluation.ranking import FIGURES, holm, paired
from mst_distill.parameters import Decide, unknown

ALL = "all cells"
"""What stands in place of a cell where the mean over all of them is told."""


def gather(comparisons: Mapping[str, pd.DataFrame], selection: str) -> pd.DataFrame:
    """The trials of all comparisons that came to their end, as one table.

    A method with several teachers stands in each cell with that of the largest mean accuracy on the
    same held-out samples, which flatters it.

    Args:
        comparisons: ``BENCHMARK/TERMS`` to the table of `run_trials`.
        selection: The rule by which these teachers are chosen.

    Returns:
        A row a ``cell``, ``method``, ``seed`` and ``rule``, with the `FIGURES`.
    """
    benchmarks = [name.split("/")[0] for name in comparisons]
    tables = []
    for name, benchmark in zip(comparisons, benchmarks, strict=True):
        label = benchmark if benchmarks.count(benchmark) == 1 else name
        table = comparisons[name]
        tables.append(table.assign(cell=label + ", " + table["target"]))
    trials = pd.concat(tables, ignore_index=True)
    ways = ["cell", "method", "title"]
    means = trials[trials["rule"] == selection].groupby(ways, sort=False)["accuracy"].mean()
    best = means.groupby(level=ways[:2], sort=False).idxmax()
    kept = pd.MultiIndex.from_frame(trials[ways]).isin(list(best))
    return trials.loc[kept & (trials["error"] == ""), ["cell", "method", "seed", "rule", *FIGURES]]


def gain_table(trials: pd.DataFrame, opponents: tuple[str, ...], confidence: float) -> pd.DataFrame:
    """Every method against every opponent, seed by seed: in each cell, and in the mean over cells.

    Interval and test are Student's for paired samples, over seeds. Over all cells a seed counts
    with the mean of its differences, so they say what other seeds would give on these benchmarks,
    not what other benchmarks would. A method that some cell lacks has no row for `ALL`.

    Args:
        trials: From `gather`.
        opponents: Methods.
        confidence: Of the intervals, in (0, 1).

    Returns:
        A row a ``cell`` (or `ALL`), ``rule``, ``against`` and ``method``: ``pairs``,
        ``difference``, ``sd``, ``low``, ``high`` (accuracy, 1 = 100 points), ``p``, and the mean
        differences ``nll`` and ``calibration_error``.

    Raises:
        ValueError: An opponent is no method of these trials.
    """
    methods = list(dict.fromkeys(trials["method"]))
    cells = list(dict.fromkeys(trials["cell"]))
    for opponent in opponents:
        if opponent not in methods:
            raise ValueError(unknown("decide.opponents", opponent, methods))
    rows = []
    for rule, of_rule in trials.groupby("rule", sort=False):
        scores = of_rule.pivot_table(FIGURES, "seed", ["method", "cell"])
        for against in opponents:
            for method in methods:
                if method != against:
                    gains = {f: scores[f][method] - scores[f][against] for f in FIGURES}
                    who = {"rule": rule, "against": against, "method": method}
                    rows += [{**who, **row} for row in _in_cells(gains, cells, confidence)]
    return pd.DataFrame(rows)


def decide_on(
    gains: pd.DataFrame, decide: Decide, selection: str, confidence: float
) -> dict[str, Any]:
    """Whether a candidate may become the default.

    It may if in the mean over the cells it is above every opponent beyond chance, the p-values
    against one opponent corrected after Holm for the number of candidates, and if in no cell it is
    below ``decide.floor`` beyond chance (uncorrected, which is the stricter way here).

    Args:
        gains: From `gain_table`.
        decide: Candidates, opponents and floor.
        selection: The rule of selection that counts.
        confidence: One minus the level of the tests.

    Returns:
        JSON values: ``adopted`` (the candidate of the largest gain on the floor, or empty),
        ``sentences``, ``selection``, ``confidence``, ``floor``, and ``candidates``: name to
        ``against`` (opponent to its row over all cells, with ``p_corrected`` and ``beaten``) and
        ``harmed`` (cells).

    Raises:
        ValueError: A candidate was not compared in every cell.
    """
    own = gains[gains["rule"] == selection]
    over = own[own["cell"] == ALL]
    for candidate in decide.candidates:
        if candidate not in set(over["method"]):
            raise ValueError(
                unknown("decide.candidates", candidate, dict.fromkeys(over["method"]))
                + " (those that were compared in every cell)"
            )
    found: dict[str, dict[str, Any]]
    found = {name: {"against": {}, "harmed": []} for name in decide.candidates}
    for opponent, rows in over[over["method"].isin(decide.candidates)].groupby("against"):
        corrected = holm(rows["p"].to_numpy())
        for row, p in zip(rows.to_dict(orient="records"), corrected, strict=True):
            kept = {key: row[key] for key in ("pairs", "difference", "low", "high", "p")}
            beaten = bool(row["difference"] > 0 and p < 1 - confidence)
            found[row["method"]]["against"][opponent] = {**kept, "p_corrected": p, "beaten": beaten}
    below = own[(own["cell"] != ALL) & (own["against"] == decide.floor)]
    below = below[(below["difference"] < 0) & (below["p"] < 1 - confidence)]
    for name, verdict in found.items():
        verdict["harmed"] = below.loc[below["method"] == name, "cell"].tolist()
    fit = {
        name: verdict["against"][decide.floor]["difference"]
        for name, verdict in found.items()
        if not verdict["harmed"] and all(row["beaten"] for row in verdict["against"].values())
    }
    adopted = max(fit, key=lambda name: fit[name], default="")
    return {
        "adopted": adopted,
        "sentences": [*_sentences(found, decide.floor), _conclusion(adopted)],
        "selection": selection,
        "confidence": confidence,
        "floor": decide.floor,
        "candidates": found,
    }


def _in_cells(
    gains: Mapping[str, pd.DataFrame], cells: list[str], confidence: float
) -> Iterator[dict[str, Any]]:
    """One method against one opponent; each of `gains` is ``(seeds, cells)``."""
    common = [cell for cell in cells if gains["accuracy"].get(cell, pd.Series()).notna().any()]
    for cell in common:
        of_cell = {figure: table[cell].dropna().to_numpy() for figure, table in gains.items()}
        yield {"cell": cell, **_told(of_cell, confidence)}
    if common == cells:
        whole = {figure: table[cells].dropna() for figure, table in gains.items()}
        means = {figure: table.mean(axis=1).to_numpy() for figure, table in whole.items()}
        yield {"cell": ALL, **_told(means, confidence)}


def _told(gains: Mapping[str, np.ndarray], confidence: float) -> dict[str, float]:
    others = {figure: gains[figure].mean() for figure in FIGURES if figure != "accuracy"}
    return {**paired(gains["accuracy"], confidence), **others}


def _sentences(found: Mapping[str, Mapping[str, Any]], floor: str) -> Iterator[str]:
    for name, verdict in found.items():
        beaten = [opponent for opponent, row in verdict["against"].items() if row["beaten"]]
        unbeaten = [opponent for opponent in verdict["against"] if opponent not in beaten]
        yield (
            f"In the mean over all cells `{name}` is beyond chance above {_listed(beaten)}, and "
            f"not above {_listed(unbeaten)}; it is beyond chance below `{floor}` in "
            f"{_listed(verdict['harmed'], 'no cell')}."
        )


def _listed(names: list[str], none: str = "nobody") -> str:
    return ", ".join(f"`{name}`" for name in names) or none


def _conclusion(adopted: str) -> str:
    if adopted:
        return f"`{adopted}` may become the default."
    return "The default stays."
