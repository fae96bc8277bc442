"""Which recipe may become the default: differences in every cell, and over all of them.

A cell is a benchmark and a target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.errors import unknown
from mst_distill.evaluation.json_values import json_values
from mst_distill.evaluation.ranking import FEWEST, FIGURES, holm, paired
from mst_distill.parameters import Contrasts

ALL = "all cells"
"""What stands in place of a cell where the mean over all of them is told."""

KEPT = ["pairs", "difference", "low", "high", "p", "nll", "nll_p", "calibration_error"]
"""What the decision keeps of a candidate and an opponent."""


def gather(comparisons: Mapping[str, pd.DataFrame], selection: str) -> pd.DataFrame:
    """The trials of all comparisons, as one table, without those that no mean may be taken of.

    A method with several teachers stands in each cell with that of the largest mean accuracy on the
    same held-out samples, which flatters it. One of whose trials some died in a cell is not in it.

    Args:
        comparisons: ``BENCHMARK/TERMS`` to the table of `run_trials`.
        selection: The rule by which these teachers are chosen.

    Returns:
        A row a ``cell``, ``method``, ``seed`` and ``rule``: ``title``, which names the teacher, and
        the `FIGURES`.

    Raises:
        ValueError: A benchmark is there twice, on different terms.
    """
    tables: dict[str, pd.DataFrame] = {}
    for name, table in comparisons.items():
        benchmark = name.split("/")[0]
        if benchmark in tables:
            twice = [each for each in comparisons if each.split("/")[0] == benchmark]
            raise ValueError(
                f"{benchmark!r} would count twice, as {' and '.join(twice)}: run one of them under "
                f"another name, --params=run=NAME"
            )
        tables[benchmark] = table.assign(cell=benchmark + ", " + table["target"])
    trials = pd.concat(tables.values(), ignore_index=True)
    ways = ["cell", "method", "title"]
    died = pd.MultiIndex.from_frame(trials.loc[trials["error"] != "", ways])
    trials = trials[~pd.MultiIndex.from_frame(trials[ways]).isin(died)]
    means = trials[trials["rule"] == selection].groupby(ways, sort=False)["accuracy"].mean()
    best = means.groupby(level=ways[:2], sort=False).idxmax()
    kept = pd.MultiIndex.from_frame(trials[ways]).isin(list(best))
    return trials.loc[kept, ["cell", "method", "title", "seed", "rule", *FIGURES]].reset_index(
        drop=True
    )


def gain_table(trials: pd.DataFrame, opponents: tuple[str, ...], confidence: float) -> pd.DataFrame:
    """Every method against every opponent, seed by seed: in each cell, and in the mean over cells.

    Interval and test are Student's for paired samples, over seeds. Over all cells a seed counts
    with the mean of its differences. So they say what other seeds would give on these benchmarks
    and held-out samples, not what other samples or benchmarks would.

    Args:
        trials: From `gather`.
        opponents: Methods.
        confidence: Of the intervals, in (0, 1).

    Returns:
        A row a ``cell`` (or `ALL`, for those that are in every cell), ``rule``, ``against`` and
        ``method``: ``pairs``, ``difference``, ``sd``, ``low``, ``high`` (accuracy, 1 = 100 points),
        ``p``, and the mean differences ``nll`` and ``calibration_error`` with their ``_p``. What
        cannot be tested has no interval and no p, see `paired`.

    Raises:
        ValueError: An opponent is no method of these trials, or fewer than `FEWEST` seeds are in
            every cell.
    """
    methods = list(dict.fromkeys(trials["method"]))
    cells = list(dict.fromkeys(trials["cell"]))
    for opponent in opponents:
        if opponent not in methods:
            raise ValueError(unknown("decide.opponents", opponent, methods))
    seeds = {cell: set(rows["seed"]) for cell, rows in trials.groupby("cell", sort=False)}
    if len(set.intersection(*seeds.values())) < FEWEST:
        told = "; ".join(f"{cell}: {sorted(seeds[cell])}" for cell in cells)
        raise ValueError(
            f"at least {FEWEST} seeds must be common to all cells, for of fewer there is no "
            f"interval; there are {told}"
        )
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


def pair_table(
    trials: pd.DataFrame, pairs: Mapping[str, Sequence[tuple[str, str]]], confidence: float
) -> pd.DataFrame:
    """The one method of a pair against the other, over all cells.

    Args:
        trials: From `gather`.
        pairs: A question to pairs of methods.
        confidence: Of the intervals, in (0, 1).

    Returns:
        No rows without pairs; else one a pair and rule: ``question``, and as `gain_table`, with
        ``p_corrected`` after Holm for the number of pairs.

    Raises:
        ValueError: A method is not in these trials, or not in every cell.
    """
    methods = list(dict.fromkeys(trials["method"]))
    parts = []
    for question, several in pairs.items():
        for pair in several:
            for name in pair:
                if name not in methods:
                    raise ValueError(unknown("method in decide.pairs", name, methods))
            own = gain_table(trials[trials["method"].isin(pair)], pair[1:], confidence)
            if own["cell"].nunique() <= trials["cell"].nunique():  # less than all of them and `ALL`
                raise ValueError(
                    f"{' and '.join(pair)}, of decide.pairs, share no full set of cells"
                )
            parts.append(own[own["cell"] == ALL].assign(question=question))
    if not parts:
        return pd.DataFrame(columns=["question"])
    table = pd.concat(parts, ignore_index=True)
    table["p_corrected"] = table.groupby("rule")["p"].transform(lambda p: holm(p.to_numpy()))
    return table


def decide_on(
    gains: pd.DataFrame, decide: Contrasts, selection: str, confidence: float
) -> dict[str, Any]:
    """Whether a candidate may become the default.

    It may if in the mean over the cells it is above every opponent beyond chance, and if in no cell
    it is below ``decide.floor`` beyond chance. Of a candidate the largest p-value over its
    opponents counts, 1 where it is not above one; these are corrected after Holm for the number of
    candidates. The tests of single cells are not corrected, which is the stricter way here.
    Candidates must have been chosen on other seeds than these.

    Args:
        gains: From `gain_table`.
        decide: Candidates, of whom there may be none, opponents and floor.
        selection: The rule of selection that counts.
        confidence: One minus the level of the tests.

    Returns:
        JSON values: ``adopted`` (the candidate of the largest gain on the floor, or empty),
        ``sentences`` (none without candidates), ``selection``, ``confidence``, ``floor``, and
        ``candidates``: name to ``p_corrected``, ``against`` (opponent to its row over all cells,
        None where there is no interval or test) and ``harmed`` (cells).

    Raises:
        ValueError: A candidate or an opponent of it is not in every cell.
    """
    own = gains[gains["rule"] == selection]
    whole = own[own["cell"] == ALL].set_index(["method", "against"])[KEPT]
    over: dict[Any, dict[str, float]] = whole.T.to_dict()
    found = {name: _verdict(own, over, name, decide, confidence) for name in decide.candidates}
    worst = np.array([max(map(_doubt, verdict["against"].values())) for verdict in found.values()])
    for verdict, p in zip(found.values(), holm(worst), strict=True):
        verdict["p_corrected"] = float(p)
    fit = {
        name: verdict["against"][decide.floor]["difference"]
        for name, verdict in found.items()
        if verdict["p_corrected"] < 1 - confidence and not verdict["harmed"]
    }
    adopted = max(fit, key=lambda name: fit[name], default="")
    decision: dict[str, Any] = json_values(
        {
            "adopted": adopted,
            "sentences": _sentences(found, decide.floor, confidence, adopted),
            "selection": selection,
            "confidence": confidence,
            "floor": decide.floor,
            "candidates": found,
        }
    )
    return decision


def _verdict(
    own: pd.DataFrame,
    over: Mapping[Any, dict[str, float]],
    name: str,
    decide: Contrasts,
    confidence: float,
) -> dict[str, Any]:
    for opponent in decide.opponents:
        if (name, opponent) not in over:
            whole = dict.fromkeys(method for method, _ in over)
            raise ValueError(
                f"{name!r} cannot be held against {opponent!r} over all cells: one of them is not "
                f"in every cell, or some of its trials died. In every cell are {', '.join(whole)}"
            )
    cells = own[(own["cell"] != ALL) & (own["method"] == name) & (own["against"] == decide.floor)]
    harmed = cells[(cells["difference"] < 0) & (cells["p"] < 1 - confidence)]
    against = {opponent: over[name, opponent] for opponent in decide.opponents}
    return {"against": against, "harmed": harmed["cell"].tolist()}


def _doubt(row: Mapping[str, float]) -> float:
    """The p-value of being above; 1 where the mean is not, or where there is none."""
    return row["p"] if row["difference"] > 0 and not np.isnan(row["p"]) else 1.0


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
    told = paired(gains["accuracy"], confidence)
    for figure in FIGURES[1:]:
        other = paired(gains[figure], confidence)
        told |= {figure: other["difference"], f"{figure}_p": other["p"]}
    return told


def _sentences(
    found: Mapping[str, Mapping[str, Any]], floor: str, confidence: float, adopted: str
) -> list[str]:
    said = []
    for name, verdict in found.items():
        above = [
            opponent for opponent, row in verdict["against"].items() if _doubt(row) < 1 - confidence
        ]
        others = [opponent for opponent in verdict["against"] if opponent not in above]
        who = _listed(above) if others else f"every opponent ({_listed(above)})"
        said.append(
            f"In the mean over all cells `{name}` is measurably above {who or 'no opponent'}; "
            f"against all of them together its corrected p is {verdict['p_corrected']:.3f}."
        )
        harmed = ", ".join(verdict["harmed"]) or "no cell"
        said.append(f"`{name}` is measurably below `{floor}` in {harmed}.")
        row = verdict["against"][floor]
        if row["nll"] > 0 and row["nll_p"] < 1 - confidence:
            said.append(
                f"The likelihood of `{name}` is measurably worse than that of `{floor}`: NLL "
                f"{row['nll']:+.3f} nats."
            )
    if found:
        said.append(f"`{adopted}` may become the default." if adopted else "The default stays.")
    return said


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
