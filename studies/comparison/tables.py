"""Computes what the protocol asks for, from the tables of `studies.comparison.collect`.

``python -m studies.comparison.tables``, from the root of the repository, prints the tables of the
README and writes differences.csv and gains.png.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from mst_distill.compare.markdown import markdown_table
from mst_distill.compare.ranking import holm, paired, smallest_found

FOLDER = Path(__file__).parent
CONTROLS = ["label_smoothing", "peer"]
CROSS_MODAL = ["kd", "kd_mean", "dml", "dist", "c2kd", "mst", "mst_uniform"]
RIVALS = ["kd", "kd_mean", "dml", "mst_uniform"]
SETTING = ["benchmark", "labels", "recipe", "target"]
CONTROL = "best control"
EXPLORED = "explored"
AGAINST = {"sgd": "c2kd", "sgd_label_smoothing": "c2kd", "mst_kept": "mst"}
"""What was explored, to the method of the study that it explains."""
METRICS = ["accuracy", "valid_accuracy", "nll", "nll_scaled", "calibration_error"]
METRICS += ["calibration_error_scaled"]

Setting = tuple[str, float, str, str]
Methods = Mapping[str, pd.DataFrame]
"""Method to its metrics by seed; the method `CONTROL` is one of the controls."""
Scores = dict[Setting, Methods]


def load() -> tuple[Scores, Scores, pd.DataFrame]:
    """The scores of the study, those that were explored, and the choices that they follow from.

    There is a row of choices for each setting and method.
    """
    trials = pd.read_csv(FOLDER / "trials.csv")
    trials["title"] = trials["method"] + (" <- " + trials["teacher"]).fillna("")
    tried = pd.read_csv(FOLDER / "settings.csv")
    several = tried[tried["chosen"] & (tried["method"] != "baseline")]
    choices = by_validation(several).drop_duplicates([*SETTING, "method"]).sort_index()
    scores: Scores = {}
    setting: Any
    for setting, rows in trials.groupby(SETTING, sort=False):
        of_setting = choices[(choices[SETTING] == list(setting)).all(axis=1)]
        titles = dict(zip(of_setting["method"], of_setting["title"], strict=True))
        if setting[2] != EXPLORED:
            titles[CONTROL] = best_control(of_setting)
        titles["baseline"] = "baseline"
        scores[setting] = {
            method: rows[rows["title"] == title].set_index("seed")[METRICS].sort_index()
            for method, title in titles.items()
        }
    explored = {of: scores.pop(of) for of in list(scores) if of[2] == EXPLORED}
    return scores, explored, choices


def by_validation(settings: pd.DataFrame) -> pd.DataFrame:
    """Sort settings, the best first; ties are broken by cross-entropy, as in a comparison."""
    columns = ["valid_accuracy", "valid_ce"]
    return settings.sort_values(columns, ascending=[False, True], kind="stable")


def best_control(choices: pd.DataFrame) -> str:
    """The control with the best validation accuracy on the choosing seeds."""
    return str(by_validation(choices[choices["method"].isin(CONTROLS)])["title"].iloc[0])


def difference(
    methods: Methods, first: str, second: str, metric: str = "accuracy", scale: float = 100
) -> dict[str, float]:
    """The paired difference of two methods over the seeds, as in `paired`; by default in points."""
    return paired(scale * (methods[first][metric] - methods[second][metric]).to_numpy(), 0.95)


def differences(methods: Methods, against: str) -> pd.DataFrame:
    """A row for each method, by its name; p is corrected for the cross-modal ones."""
    compared = [
        method
        for method in [*CONTROLS, *CROSS_MODAL]
        if not methods[method].equals(methods[against])
    ]
    rows = pd.DataFrame({method: difference(methods, method, against) for method in compared}).T
    crossing = [method for method in compared if method in CROSS_MODAL]
    rows.loc[crossing, "p_corrected"] = holm(rows.loc[crossing, "p"].to_numpy())
    return rows.rename_axis("method")


def all_differences(scores: Scores) -> pd.DataFrame:
    """The differences in all settings, to all comparators."""
    tables = []
    for setting, methods in scores.items():
        for against in ("baseline", CONTROL, "kd_mean"):
            table: Any = differences(methods, against).reset_index()
            table[[*SETTING, "against"]] = [*setting, against]
            tables.append(table)
    columns = ["method", "difference", "low", "high", "p", "p_corrected"]
    return pd.concat(tables)[[*SETTING, "against", *columns]]


def name_of(setting: Setting) -> str:
    """For example ``digits, audio, 10 % of the labels``."""
    benchmark, labels, recipe, target = setting
    share = "all labels" if labels == 1 else f"{100 * labels:g} % of the labels"
    return f"{benchmark}, {target}, {share}" + (", strong" if recipe == "strong" else "")


def by_setting(scores: Scores, cells: Callable[[Methods], dict[str, str]]) -> pd.DataFrame:
    """A table with a row of cells for each setting."""
    return pd.DataFrame([{"setting": name_of(of), **cells(scores[of])} for of in scores])


def interval_text(found: Mapping[str, float], better: bool, worse: bool, spec: str) -> str:
    """A difference with its interval, bold or italic."""
    mean, low, high = (format(found[name], spec) for name in ("difference", "low", "high"))
    mark = "**" if better else "*" if worse else ""
    return f"{mark}{mean} ({low} to {high}){mark}"


def points_text(methods: Methods, first: str, second: str) -> str:
    """A difference in points; bold or italic if its interval, not corrected, excludes 0."""
    found = difference(methods, first, second)
    return interval_text(found, found["low"] > 0, found["high"] < 0, "+.1f")


def accuracy_cells(methods: Methods) -> dict[str, str]:
    """Mean and standard deviation of the test accuracy."""
    shown = ["baseline", *CONTROLS, *CROSS_MODAL]
    return {f"`{method}`": accuracy_text(methods[method]) for method in shown}


def accuracy_text(metrics: pd.DataFrame) -> str:
    """Mean and standard deviation over the seeds, in percent."""
    accuracy = 100 * metrics["accuracy"]
    return f"{accuracy.mean():.1f} ± {accuracy.std():.1f}"


def difference_cells(methods: Methods, against: str) -> dict[str, str]:
    """Differences to a comparator; bold or italic if the corrected p is below 0.05."""
    rows = differences(methods, against)
    cells = {}
    for method in CROSS_MODAL:
        row: Any = rows.loc[method]
        found, gain = row["p_corrected"] < 0.05, row["difference"] > 0
        cells[f"`{method}`"] = interval_text(row, found and gain, found and not gain, "+.1f")
    return cells


def power_cells(methods: Methods) -> dict[str, str]:
    """The true differences to the best control that these seeds find with a probability of 80 %."""
    found = [difference(methods, method, CONTROL) for method in CROSS_MODAL]
    sd = float(np.median([of["sd"] for of in found]))
    pairs, count = int(found[0]["pairs"]), len(CROSS_MODAL)
    single, corrected = (smallest_found(sd, pairs, 0.05 / by) for by in (1, count))
    return {
        "sd of a difference, median": f"{sd:.1f}",
        "found, not corrected": f"{single:.1f}",
        f"found, the smallest of {count} p-values": f"{corrected:.1f}",
    }


def rival_cells(methods: Methods) -> dict[str, str]:
    """Differences of MST-Distill to its rivals; bold or italic if the interval excludes 0."""
    return {f"to `{rival}`": points_text(methods, "mst", rival) for rival in RIVALS}


def scaled_likelihood_cells(methods: Methods) -> dict[str, str]:
    """Differences of the NLL after temperature scaling of each net; below 0 is better."""
    cells = {}
    for first, second in (("mst", "baseline"), ("mst", CONTROL), ("kd_mean", CONTROL)):
        found = difference(methods, first, second, "nll_scaled", 1)
        text = interval_text(found, found["high"] < 0, found["low"] > 0, "+.3f")
        cells[f"{first} - {second}"] = text
    return cells


def probability_cells(methods: Methods) -> dict[str, str]:
    """Likelihood and calibration as they are and scaled, of a few methods."""
    cells = {}
    for metric, title, scale, spec in (
        ("nll", "NLL", 1, ".2f"),
        ("calibration_error", "calibration error, %", 100, ".0f"),
    ):
        for method in ("baseline", CONTROL, "kd_mean", "mst"):
            means = scale * methods[method].mean()
            both = (format(means[name], spec) for name in (metric, f"{metric}_scaled"))
            cells[f"{title} of {method}"] = ", ".join(both)
    return cells


def pairs_table(scores: Scores) -> pd.DataFrame:
    """Differences between pairs of methods, in the mean over the settings."""
    pairs = [(method, "baseline") for method in [*CONTROLS, *CROSS_MODAL]]
    pairs += [(method, CONTROL) for method in CROSS_MODAL]
    pairs += [("mst", rival) for rival in RIVALS]
    rows = []
    for first, second in pairs:
        gained = pd.DataFrame(
            {
                of: methods[first]["accuracy"] - methods[second]["accuracy"]
                for of, methods in scores.items()
            }
        )
        seeds = paired(100 * gained.mean(axis=1).to_numpy(), 0.95)
        settings = paired(100 * gained.mean().to_numpy(), 0.95)
        rows.append(
            {
                "difference": f"`{first}` - {second}",
                "mean": f"{seeds['difference']:+.2f}",
                "95 %, over seeds": f"{seeds['low']:+.2f} to {seeds['high']:+.2f}",
                "95 %, over settings": f"{settings['low']:+.2f} to {settings['high']:+.2f}",
                "p, over settings": f"{settings['p']:.2f}",
            }
        )
    return pd.DataFrame(rows)


def correlations(scores: Scores) -> pd.DataFrame:
    """Spearman's correlation of gains with what validation tells of the teachers."""
    teachers = pd.read_csv(FOLDER / "teachers.csv")
    accuracy = teachers.groupby([*SETTING[:3], "teacher"])["valid_accuracy"].mean()
    best = [float(accuracy[of[:3]].drop(of[3]).max()) for of in scores]
    own = [float(methods["baseline"]["valid_accuracy"].mean()) for methods in scores.values()]
    known = {"by the best teacher": best, "by its lead": list(np.subtract(best, own))}
    rows = []
    for against in ("baseline", CONTROL):
        for method in ("mst", "kd_mean"):
            gains = [difference(of, method, against)["difference"] for of in scores.values()]
            tests = {title: stats.spearmanr(values, gains) for title, values in known.items()}
            texts = {
                title: f"{test.statistic:+.2f} (p = {test.pvalue:.2f})"
                for title, test in tests.items()
            }
            rows.append({"gain over": against, "of": f"`{method}`", **texts})
    return pd.DataFrame(rows)


def explored_table(scores: Scores, explored: Scores) -> pd.DataFrame:
    """What was explored after the results, against the methods of the study, seed by seed.

    Raises:
        RuntimeError: The two baselines differ, so that the trials cannot be paired.
    """
    rows = []
    for setting, methods in explored.items():
        benchmark, labels, _, target = setting
        study = scores[benchmark, labels, "published", target]
        if not methods["baseline"].equals(study["baseline"]):
            raise RuntimeError(f"the baselines of {name_of(setting)} differ")
        for method in [name for name in methods if name != "baseline"]:
            both = {**study, method: methods[method]}
            cells = {
                f"to {comparator}": points_text(both, method, comparator)
                for comparator in ("baseline", CONTROL, "kd_mean", AGAINST[method])
            }
            name = {"setting": name_of(setting), "explored": f"`{method}`"}
            rows.append({**name, "accuracy": accuracy_text(methods[method]), **cells})
    return pd.DataFrame(rows).fillna("")


def choices_table(scores: Scores, choices: pd.DataFrame) -> pd.DataFrame:
    """The teacher and the setting that each method chose."""
    rows = []
    for setting in scores:
        made = choices[(choices[SETTING] == list(setting)).all(axis=1)]
        texts = "; ".join(made["title"] + " " + made["arguments"])
        rows.append([name_of(setting), best_control(made), texts])
    return pd.DataFrame(
        rows, columns=["setting", "best control", "choices of teachers and settings"]
    )


def seconds_table() -> pd.DataFrame:
    """The mean time of a trial, without the teachers that all methods share."""
    trials = pd.read_csv(FOLDER / "trials.csv").query("recipe != @EXPLORED")
    trials["method"] = "`" + trials["method"] + "`"
    table = trials.pivot_table("seconds", "method", "benchmark", sort=False)
    return table.map("{:.0f}".format).reset_index()


def draw(scores: Scores) -> None:
    """Write gains.png: the differences to the best control in each setting."""
    columns = 4  # the two students of two runs
    height = -(-len(scores) // columns)
    figure = Figure(figsize=(13, 2.6 * height + 0.6), layout="constrained")
    axes = np.atleast_2d(figure.subplots(height, columns, sharex=True, sharey=True))
    for axis in axes.flat[len(scores) :]:
        axis.set_visible(False)
    for axis, (setting, methods) in zip(axes.flat, scores.items(), strict=False):
        axis.axvline(0, color="0.6", linewidth=1)
        rows = differences(methods, CONTROL)
        for place, method in enumerate(CROSS_MODAL):
            row: Any = rows.loc[method]
            found = "C0" if row["difference"] > 0 else "C3"
            colour = found if row["p_corrected"] < 0.05 else "0.5"
            axis.plot([row["low"], row["high"]], [place, place], color=colour)
            axis.plot(row["difference"], place, "o", color=colour)
        axis.set_title(name_of(setting), fontsize=9)
        axis.set_yticks(range(len(CROSS_MODAL)), CROSS_MODAL)
        axis.tick_params(labelsize=8)
    axes.flat[0].invert_yaxis()
    figure.supxlabel("difference to the best control, points of test accuracy (95 %)", fontsize=9)
    figure.savefig(FOLDER / "gains.png", dpi=130)


def main() -> None:
    """Print all tables."""
    scores, explored, choices = load()
    all_differences(scores).to_csv(FOLDER / "differences.csv", index=False, float_format="%.4g")
    published = {setting: of for setting, of in scores.items() if setting[2] == "published"}
    to_baseline = by_setting(scores, lambda of: difference_cells(of, "baseline"))
    to_control = by_setting(scores, lambda of: difference_cells(of, CONTROL))
    sections = {
        "Accuracy": by_setting(scores, accuracy_cells),
        "Differences to the baseline": to_baseline,
        "Differences to the best control": to_control,
        "What could be found": by_setting(scores, power_cells),
        "MST-Distill and its rivals": by_setting(scores, rival_cells),
        "Over the settings": pairs_table(published),
        "What gains depend on": correlations(published),
        "Likelihood and calibration": by_setting(scores, probability_cells),
        "Scaled likelihood": by_setting(scores, scaled_likelihood_cells),
        "Choices": choices_table(scores, choices),
        "Seconds": seconds_table(),
    }
    if explored:
        sections["Explored"] = explored_table(scores, explored)
    for title, table in sections.items():
        print(f"## {title}\n\n{markdown_table(table)}\n")
    draw(scores)


if __name__ == "__main__":
    main()
